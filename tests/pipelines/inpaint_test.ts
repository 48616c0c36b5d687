/** Holes filled as fixtures/make/inpaint.py recorded them of diffusers, and what is refused. */

import assert from "node:assert/strict";
import { UsageError } from "../../lib/base/errors.ts";
import type { Picture } from "../../lib/base/picture.ts";
import { loadModel } from "../../lib/engine/load.ts";
import type { Model } from "../../lib/engine/model.ts";
import { SafetensorsFile } from "../../lib/formats/safetensors.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import type { SecondPicture } from "../../lib/pipelines/beside.ts";
import { textToImage } from "../../lib/pipelines/text_to_image.ts";
import { fixture } from "../fixture.ts";
import { inFolder } from "../folders.ts";
import { inpaintingFolder } from "../inpainting.ts";
import { entriesOf } from "../pictures.ts";
import { isDiffusers, madeOf } from "../second.ts";
import { fakeModel } from "./fake_model.ts";

for (
  const [what, golden, folderOf] of [
    ["a model for holes", "pictures_inpaint", inpaintingFolder],
    ["a model that sees none", "pictures_inpaint_sd1", () => Promise.resolve(fixture("tiny/sd1"))],
  ] as const
) {
  Deno.test(`textToImage fills holes as diffusers does with ${what}, and keeps the rest where it is asked to`, async (t) => {
    await inFolder(async (folder) => {
      using file = await SafetensorsFile.open(fixture(`goldens/${golden}.safetensors`));
      await using device = await openDevice();
      await using model = await loadModel(device, await folderOf(folder), { weights: "f32" });
      const [height, width, channels] = [64, 96, 3] as const;
      const picture: Picture = { width, height, channels, data: await file.read("picture") };
      const mask: Picture = { width, height, channels: 1, data: await file.read("mask") };
      for (const [name, entry] of Object.entries(entriesOf(file))) {
        await t.step(name, async () => {
          const made = await madeOf(model, entry, { source: "mask", picture, mask, keep: false });
          await isDiffusers(made, file, name);
          if (!name.startsWith("ddim_cfg1")) return;
          const keeping = await madeOf(model, entry, { source: "mask", picture, mask });
          if (model.beside) {
            // what is transparent is white to models that see the picture itself
            const other = { source: "mask", picture: cutOut(picture, mask) } as const;
            assert.deepEqual((await madeOf(model, entry, other)).image, keeping.image);
          }
          for (const [i, value] of keeping.image.data.entries()) {
            const from = mask.data[Math.floor(i / 3)] >= 128 ? made.image : picture;
            assert.equal(value, from.data[i], `number ${i}`);
          }
        });
      }
    });
  });
}

/** Transparent where the mask is white. */
function cutOut({ width, height, data }: Picture, mask: Picture): Picture {
  const rgba = Uint8Array.from(
    { length: width * height * 4 },
    (_, i) => i % 4 < 3 ? data[(i >> 2) * 3 + i % 4] : mask.data[i >> 2] >= 128 ? 0 : 255,
  );
  return { width, height, channels: 4, data: rgba };
}

const grey = (width: number, height: number, value = 255): Picture => {
  return { width, height, channels: 1, data: new Uint8Array(width * height).fill(value) };
};

Deno.test("textToImage refuses second pictures that do not fit the model or each other, each in a sentence", async () => {
  const { model: plain } = fakeModel();
  const { model: holes } = fakeModel({ beside: { source: "mask" } });
  const { model: large } = fakeModel({ beside: { source: "low", factor: 2 } });
  const refused = async (
    model: Model,
    second: SecondPicture | undefined,
    sentence: RegExp,
    size = {},
  ) => {
    const error = await textToImage(model, { prompt: "", second, ...size }).next().then(
      () => assert.fail("was not refused"),
      (reason) => reason,
    );
    assert.ok(error instanceof UsageError, String(error));
    assert.match(error.message, sentence);
  };
  const picture = grey(16, 24);
  const holed = { source: "mask", picture, mask: grey(16, 24) } as const;
  await refused(holes, undefined, /from text alone with "fake", which fills holes .*`ldm inpaint`/);
  await refused(plain, { source: "low", picture }, /: it sees no second picture; a model that mak/);
  const start = { source: "start", picture } as const;
  await refused(
    large,
    start,
    /^Cannot change a picture with "fake", which makes small .*`ldm upsc/,
  );
  await refused(plain, start, /^Cannot set strength to 2: a number from 0 to 1/, { strength: 2 });
  await refused(plain, start, /strength 0.1 in 3 steps: no step of the walk is/, { strength: 0.1 });
  await refused(plain, undefined, /^Cannot use strength 0.5: there is no pic/, { strength: 0.5 });
  await refused(plain, { ...holed, blur: 4, keep: false }, /blur the mask by 4 pixels where noth/);
  await refused(large, holed, /^Cannot fill a hole .*: it makes small pictures large; a model th/);
  await refused(
    holes,
    { source: "low", picture },
    /^Cannot make a picture larger .*: it fills hol/,
  );
  await refused(holes, { ...holed, mask: grey(8, 24) }, /of 16×24 pixels with a mask of 8×24: /);
  await refused(holes, { ...holed, mask: grey(16, 24, 127) }, /a mask that is black everywhere: /);
  await refused(holes, { source: "mask", picture }, /without a mask: nothing in the picture is tr/);
  const size = { width: 32, height: 24 };
  await refused(large, { source: "low", picture }, /at 32×24: it gives 32×48; leave out/, size);
});
