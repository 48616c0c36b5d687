import assert from "node:assert/strict";
import { join } from "node:path";
import { torchCpu } from "../../lib/base/random.ts";
import { loadFirstStage } from "../../lib/engine/load.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { type LatentInput, LatentSource } from "../../lib/train/latents.ts";
import { fixture } from "../fixture.ts";
import { inFolder } from "../folders.ts";

const SIZE = 16;
const PICTURES = [1, 2, 3].map((seed): LatentInput => ({
  data: torchCpu(seed).uniform(SIZE * SIZE * 3).map((value) => 2 * value - 1),
  width: SIZE,
  height: SIZE,
  channels: 3,
}));
const [A, B, C] = PICTURES;

Deno.test("LatentSource gives several pictures together the latents that each has alone, in any room, to the bit", async () => {
  await using device = await openDevice();
  const options = { weights: "f32", lifetime: "run" } as const;
  using stage = await loadFirstStage(device, fixture("tiny/vae_f2"), options);
  using source = await LatentSource.open(stage, {
    size: SIZE,
    path: undefined,
    makeRoom: () => {},
  });
  const alone = [];
  for (const picture of PICTURES) alone.push(...await source.of([picture]));
  device.resetPeak();
  assert.deepEqual(await source.of(PICTURES), alone);
  const { peak, live } = device.memory;
  assert.deepEqual(await source.fresh([]), []);
  // A few bytes less than all results want at once, so that they come in two parts.
  await using narrow = await openDevice({ memoryBudget: peak - 1 });
  using same = await loadFirstStage(narrow, fixture("tiny/vae_f2"), options);
  using other = await LatentSource.open(same, { size: SIZE, path: undefined, makeRoom: () => {} });
  assert.deepEqual(await other.of(PICTURES), alone);
  assert.equal(narrow.memory.live, live);
  assert.ok(narrow.memory.peak < peak);
});

Deno.test("LatentSource encodes what its file lacks, each once, and reads the rest", async () => {
  await using device = await openDevice();
  const stage = await loadFirstStage(device, fixture("tiny/vae_f2"), { weights: "f32" });
  const encoded: number[] = [];
  using watched: typeof stage = {
    ...stage,
    encodeAll: (pictures, options) => {
      encoded.push(pictures.length);
      return stage.encodeAll(pictures, options);
    },
  };
  await inFolder(async (folder) => {
    const path = join(folder, "latents.bin");
    const open = () => LatentSource.open(watched, { size: SIZE, path, makeRoom: () => {} });
    using first = await open();
    const [b, b2, a] = await first.of([B, B, A]);
    assert.deepEqual(b2, b);
    assert.notDeepEqual(a, b);
    using second = await open();
    const [a3, c, b3] = await second.of([A, C, B]);
    assert.deepEqual([a3, b3], [a, b]);
    assert.deepEqual(await second.of([C, A]), [c, a]);
    // Opening encodes one picture, by which the file knows its first stage.
    assert.deepEqual(encoded, [1, 2, 1, 1]);
  });
});
