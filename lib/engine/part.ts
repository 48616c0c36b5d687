/** Parts of a model: weights that come to the device and leave it together. */

import type { ComponentName, Weights } from "../formats/checkpoint.ts";
import type { PlannedParameter, StoredParameter } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import type { Manifest } from "../nn/params.ts";
import { Programs } from "./programs.ts";
import { fileBytes, planWeights, releaseWeights, streamWeights } from "./weights.ts";

/** In the order in which a picture needs them; the encoder makes latents of pictures. */
export type PartName =
  | "text_encoder"
  | "text_encoder_2"
  | "conditioner"
  | "unet"
  | "decoder"
  | "encoder";

/** Where a part comes from. */
export interface PartSource {
  readonly name: PartName;
  readonly component: ComponentName;
  /** The component's tensors. */
  readonly weights: Weights;
  /** What the part needs of them. */
  readonly manifest: Manifest;
  /** The checkpoint, for messages. */
  readonly path: string;
  /** How weights are kept on the device. */
  readonly dtype: "f16" | "f32";
}

/** Bytes of a part read so far, and in all; the first call says 0, the last all. */
export type ReadProgress = (done: number, total: number, part: PartName) => void;

export class Part {
  readonly name: PartName;
  /** Bytes in the checkpoint's files. */
  readonly fileBytes: number;
  readonly programs: Programs;
  readonly #device: Device;
  readonly #source: PartSource;
  readonly #planned: Map<string, PlannedParameter>;
  readonly #parameters = new Map<string, StoredParameter>();
  #isLoaded = false;

  /** Throws `FormatError` where tensors are of a type that weights do not have. Reads nothing. */
  constructor(device: Device, source: PartSource) {
    this.name = source.name;
    this.#device = device;
    this.#source = source;
    this.#planned = planWeights(device, source);
    this.fileBytes = fileBytes(source);
    this.programs = new Programs(device, this.#parameters, (name) => {
      const planned = this.#planned.get(name);
      if (!planned) throw new TypeError(`The ${this.name} has no weight "${name}"`);
      return planned.layout;
    });
  }

  /** What the weights take on the device, or will take. */
  get bytes(): number {
    return [...this.#planned.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  get isLoaded(): boolean {
    return this.#isLoaded;
  }

  /** Streams the weights to the device and meanwhile compiles what is assembled. On failure nothing stays allocated. */
  async load(progress: ReadProgress): Promise<void> {
    let done = 0;
    progress(0, this.fileBytes, this.name);
    const stored = await streamWeights(this.#device, this.#source, {
      progress: (bytes) => progress(done += bytes, this.fileBytes, this.name),
      meanwhile: this.programs.warm(),
    });
    let isAsPlanned = true;
    for (const [name, { layout, bytes }] of stored) {
      isAsPlanned &&= this.#planned.get(name)?.layout.format === layout.format;
      this.#planned.set(name, { layout, bytes });
    }
    // Weights beyond f16 stay f32; what was assembled reads them as f16.
    if (!isAsPlanned) this.programs.clear();
    for (const [name, parameter] of stored) this.#parameters.set(name, parameter);
    this.#isLoaded = true;
  }

  unload(): void {
    releaseWeights(this.#device, this.#parameters);
    this.#parameters.clear();
    this.#isLoaded = false;
  }
}
