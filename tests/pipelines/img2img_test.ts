/** Pictures changed as fixtures/make/img2img.py recorded them of diffusers' pipelines. */

import type { Picture } from "../../lib/base/picture.ts";
import { loadModel } from "../../lib/engine/load.ts";
import { SafetensorsFile } from "../../lib/formats/safetensors.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { fixture } from "../fixture.ts";
import { entriesOf } from "../pictures.ts";
import { isDiffusers, madeOf } from "../second.ts";

for (const family of ["sd1", "sdxl", "lcm"]) {
  Deno.test(`textToImage changes pictures as diffusers does with the tiny ${family} model`, async (t) => {
    using golden = await SafetensorsFile.open(
      fixture(`goldens/pictures_img2img_${family}.safetensors`),
    );
    await using device = await openDevice();
    await using model = await loadModel(device, fixture(`tiny/${family}`), { weights: "f32" });
    const data = await golden.read("picture");
    for (const [name, entry] of Object.entries(entriesOf(golden))) {
      const { width, height } = entry;
      const picture: Picture = { width, height, channels: 3, data };
      await t.step(
        name,
        async () =>
          await isDiffusers(await madeOf(model, entry, { source: "start", picture }), golden, name),
      );
    }
  });
}
