import assert from "node:assert/strict";
import { join } from "node:path";
import { SafetensorsFile, writeSafetensors } from "../../lib/formats/safetensors.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { openPerceptual } from "../../lib/train/perceptual.ts";
import { fixture } from "../fixture.ts";
import { inFolder } from "../folders.ts";

const WEIGHTS = fixture("goldens/lpips_vgg.safetensors");

Deno.test("openPerceptual says in a sentence what a file lacks, and which pictures are too small", async () => {
  await using device = await openDevice();
  await inFolder(async (folder) => {
    using file = await SafetensorsFile.open(WEIGHTS);
    const copy = async (change: (name: string, shape: readonly number[]) => readonly number[]) => {
      const path = join(folder, "changed.safetensors");
      const tensors = [...file.tensors.values()].flatMap(({ name, shape, dtype }) => {
        const changed = change(name, shape);
        const data = new Uint8Array(4 * changed.reduce((size, n) => size * n, 1));
        return changed.length === 0 ? [] : [{ name, dtype, shape: changed, data }];
      });
      await writeSafetensors(path, tensors);
      return path;
    };
    const lost = await copy((name, shape) => name === "lin3.model.1.weight" ? [] : shape);
    await assert.rejects(
      openPerceptual(device, lost, 16),
      /^FormatError: Cannot load the perceptual network of ".*": it lacks 1 tensor, "lin3\.model\.1\.weight"; is/,
    );
    const odd = await copy((name, shape) => name === "net.slice3.12.bias" ? [9] : shape);
    await assert.rejects(
      openPerceptual(device, odd, 16),
      /^FormatError: Cannot load "net\.slice3\.12\.bias" of ".*": its shape is \[9\], but the perceptual network needs \[8\]/,
    );
    await assert.rejects(
      openPerceptual(device, WEIGHTS, 8),
      /^FormatError: Cannot compare pictures of 8 pixels with ".*": data\.size must be at least 16$/,
    );
    assert.equal(device.memory.live, 0);
  });
});
