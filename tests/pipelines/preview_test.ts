import assert from "node:assert/strict";
import { decodePicture } from "../../lib/formats/png.ts";
import { latentToRgb } from "../../lib/pipelines/preview.ts";
import { readGolden } from "../golden.ts";

const { tensors } = await readGolden("taesd");

const CASES = [["taesd", "sd1", ["fox", "rocket"]], ["taesdxl", "sdxl", ["fox"]]] as const;

for (const [model, family, names] of CASES) {
  for (const name of names) {
    Deno.test(`latentToRgb gives about the colours of the ${name} whose latents are ${model}'s`, async () => {
      const url = new URL(`../../fixtures/pictures/${name}.png`, import.meta.url);
      const { data, width } = await decodePicture(await Deno.readFile(url));
      const pixels = data.length / width / width;
      const latents = tensors.get(`${model}.${name}.latents`);
      assert.ok(latents);
      const side = width / 8;
      const size = { channels: 4, height: side, width: side };
      const preview = latentToRgb({ data: latents, ...size }, family);
      assert.deepEqual([preview.width, preview.height, preview.channels], [side, side, 3]);
      // means of 8×8 pixels
      const means = Array.from(preview.data, (_, i) => {
        const [c, x, y] = [i % 3, Math.floor(i / 3) % side, Math.floor(i / 3 / side)];
        let sum = 0;
        for (let k = 0; k < 64; k++) {
          sum += data[((y * 8 + (k >> 3)) * width + x * 8 + k % 8) * pixels + c];
        }
        return sum / 64;
      });
      const mean = means.reduce((a, b) => a + b) / means.length;
      const squares = (values: readonly number[]) =>
        values.reduce((sum, value) => sum + value ** 2, 0);
      const error = squares(means.map((value, i) => value - preview.data[i]));
      const spread = squares(means.map((value) => value - mean));
      assert.ok(error < 0.3 * spread, `${error / spread} of the variance is left`);
    });
  }
}
