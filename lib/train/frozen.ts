/** Parameters that a run reads and never changes, f32 on the device. */

import { sizeOf } from "../base/shape.ts";
import { release, storageBuffer, type StoredParameter } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import type { Manifest, ManifestEntry } from "../nn/params.ts";
import type { Weight } from "./component.ts";

/** Dispose of it to free them. */
export class Frozen implements Disposable {
  readonly parameters: ReadonlyMap<string, StoredParameter>;
  readonly weights: readonly Weight[];
  readonly #owned: DisposableStack;

  /** Throws `MemoryError` where they do not fit. */
  constructor(
    device: Device,
    manifest: Manifest,
    valuesOf: (entry: ManifestEntry) => Float32Array<ArrayBuffer>,
  ) {
    using owned = new DisposableStack();
    const weights: Weight[] = [];
    const parameters = new Map<string, StoredParameter>();
    for (const entry of manifest.values()) {
      const { name, shape } = entry;
      const values = valuesOf(entry);
      const bytes = Math.ceil(sizeOf(shape) * 4 / 16) * 16;
      const buffer = storageBuffer(device, bytes, name);
      owned.defer(() => release(device, { kind: "buffer", buffer }));
      device.gpu.queue.writeBuffer(buffer, 0, values);
      weights.push({ entry, values });
      parameters.set(name, {
        layout: { format: "rows32", residence: "buffer" },
        bytes,
        resource: { kind: "buffer", buffer },
      });
    }
    this.weights = weights;
    this.parameters = parameters;
    this.#owned = owned.move();
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}
