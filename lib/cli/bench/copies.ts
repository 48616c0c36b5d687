/** Copies of buffers into textures, which software devices read operands from. */

import { encodeStage, release, storageBuffer, storageTexture } from "../../gpu/buffers.ts";
import type { Device } from "../../gpu/device.ts";
import { rates } from "./rates.ts";
import type { Section } from "./report.ts";
import { type Contender, takeTurns, timed } from "./turns.ts";

/** Sizes whose copies are timed, in values. */
const COPIES: Readonly<Record<string, number>> = {
  "copy 4096×320": 4096 * 320,
  "copy 4096×2560": 4096 * 2560,
  "copy 512²×128": 512 ** 2 * 128,
};

/** A row for each size whose name is wanted; none on devices that read buffers. */
export async function copyRows(
  device: Device,
  { isWanted, rounds, progress }: {
    readonly isWanted: (name: string) => boolean;
    readonly rounds: number;
    readonly progress: (name: string) => void;
  },
): Promise<Section["rows"]> {
  if (device.profile.kind !== "software") return [];
  const rows: Section["rows"][number][] = [];
  for (const [name, size] of Object.entries(COPIES)) {
    if (!isWanted(name)) continue;
    progress(name);
    const buffer = storageBuffer(device, size * 4, name);
    const texture = storageTexture(device, size * 4, "rgba32float", name);
    if (texture.kind !== "texture") throw new TypeError("A texture was expected");
    const turn = async (times: number) => {
      const encoder = device.gpu.createCommandEncoder();
      for (let i = 0; i < times; i++) encodeStage(encoder, buffer, texture.texture, size * 4);
      device.gpu.queue.submit([encoder.finish()]);
      await device.finish();
    };
    await turn(1);
    const times = Math.ceil(2 ** 28 / size / 4);
    let idle = Infinity;
    for (let i = 0; i < 5; i++) idle = Math.min(idle, (await timed(() => turn(0))).wall);
    const mine: Contender = {
      name,
      turn: async () => {
        const { wall, cpu = 0 } = await timed(() => turn(times));
        return { work: { wall: Math.max(1e-9, wall - idle) / times, cpu: cpu / times } };
      },
    };
    const seconds = (await takeTurns([mine], rounds)).get(name)?.get("work");
    rows.push({ "copy": name, ...rates({ bytes: size * 4 }, seconds) });
    release(device, { kind: "buffer", buffer });
    release(device, texture);
  }
  return rows;
}
