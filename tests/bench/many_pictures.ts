/**
 * What many pictures in one process take: of the device and of this machine. `deno run -A --v8-flags=--expose-gc
 * tests/bench/many_pictures.ts 1000` makes tiny pictures through the whole of `ldm batch` but its process, and prints what is in use after each tenth of them.
 */

import { fileURLToPath } from "node:url";
import { loadModel } from "../../lib/engine/load.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { encodePng } from "../../lib/formats/png.ts";
import { textToImagePipeline } from "../../lib/pipelines/text_to_image.ts";

const SD1 = fileURLToPath(new URL("../../fixtures/tiny/sd1", import.meta.url));

/** Bytes in use after a picture. */
export interface Use {
  /** Of the device, and how many buffers. */
  readonly device: number;
  /** Resident memory of this process, the driver's included, and what JavaScript's heap holds. */
  readonly host: number;
  readonly heap: number;
}

/** Makes pictures, each of another prompt and every fifth of another size, and tells after each what is in use. */
async function* manyPictures(count: number): AsyncGenerator<Use> {
  await using device: Device = await openDevice();
  await using model = await loadModel(device, SD1, { lifetime: "model" });
  using pipeline = textToImagePipeline(model);
  for (let i = 0; i < count; i++) {
    const side = i % 5 === 4 ? 48 : 32;
    const request = { prompt: `fox ${i}`, width: side, height: 32, steps: 1, seed: i };
    for await (const event of pipeline.run(request)) {
      if (event.kind === "image") await encodePng(event.image);
    }
    collectGarbage();
    const { rss, heapUsed } = Deno.memoryUsage();
    yield { device: device.memory.live, host: rss, heap: heapUsed };
  }
}

/** Removes what nothing refers to, where `--v8-flags=--expose-gc` allows it: what is left then is held, or lost. */
function collectGarbage(): void {
  const gc: unknown = Reflect.get(globalThis, "gc");
  if (typeof gc === "function") gc();
}

if (import.meta.main) {
  const count = Number(Deno.args[0] ?? 1000);
  const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1).padStart(8);
  const print = (line: string) => Deno.stdout.writeSync(new TextEncoder().encode(line + "\n"));
  let made = 0;
  print("pictures   device     host     heap (MiB)");
  for await (const { device, host, heap } of manyPictures(count)) {
    made += 1;
    if (made !== 10 && made % Math.max(10, Math.floor(count / 10)) !== 0) continue;
    print(`${String(made).padStart(8)} ${mib(device)} ${mib(host)} ${mib(heap)}`);
  }
}
