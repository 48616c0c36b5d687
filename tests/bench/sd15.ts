// deno-lint-ignore-file no-console
/**
 * A full-size SD 1.5 checkpoint, by hand: load time, host memory, seconds of a UNet forward, and its distance from torch.
 *
 *     python3 tests/bench/sd15_reference.py sd15.safetensors CONFIGS ref.safetensors 64 16
 *     deno run -A tests/bench/sd15.ts sd15.safetensors ref.safetensors [SIZE ...]
 */

import { loadModel } from "../../lib/engine/load.ts";
import { SafetensorsFile } from "../../lib/formats/safetensors.ts";
import { openDevice } from "../../lib/gpu/device.ts";

const [checkpoint, reference, ...rest] = Deno.args;
const sizes = rest.length > 0 ? rest.map(Number) : [16, 64];

/** Largest resident set of this process so far, in MiB (Linux). */
function peakResident(): number {
  const status = Deno.readTextFileSync("/proc/self/status");
  return Math.round(Number(/VmHWM:\s+(\d+)/.exec(status)?.[1]) / 1024);
}

const seconds = (since: number) => ((performance.now() - since) / 1000).toFixed(1);

await using file = await SafetensorsFile.open(reference);
const read = (name: string) => file.readTensor(name);

await using device = await openDevice();
console.log(`${device.name}: ${device.profile.kind}`);
const start = performance.now();
await using model = await loadModel(device, checkpoint);
const onDevice = Math.round(device.memory.live / 2 ** 20);
console.log(
  `load ${seconds(start)} s, ${onDevice} MiB on the device, peak resident ${peakResident()} MiB`,
);

for (const size of sizes) {
  const hidden = await read(`context.${size}`);
  const sample = await read(`sample.${size}`);
  const expected = await read(`prediction.${size}`);
  using denoiser = model.denoiser({ height: size, width: size });
  const conditions = [{ text: { hidden, tokens: 77 } }];
  const first = performance.now();
  const [prediction] = await denoiser.predict(sample, 500, conditions);
  const firstSeconds = seconds(first);
  const second = performance.now();
  await denoiser.predict(sample, 500, conditions);
  const time = seconds(second);
  let [error, power] = [0, 0];
  expected.forEach((v, i) => {
    error += (v - prediction[i]) ** 2;
    power += v * v;
  });
  console.log(
    `UNet ${size}×${size}: ${time} s (first ${firstSeconds} s), NMSE ${
      (error / power).toExponential(2)
    }, ` +
      `peak device ${
        Math.round(device.memory.peak / 2 ** 20)
      } MiB, ${device.pipelineCount} pipelines`,
  );
}
