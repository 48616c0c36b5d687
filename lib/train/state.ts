/**
 * A run's state as a file: every vector of every trainer, how many steps were made, and which example comes next. Noise and
 * order depend on seed and step alone, so that nothing else is needed to go on as if there had been no interruption.
 */

import { FormatError } from "../base/errors.ts";
import { SafetensorsFile, writeSafetensors } from "../formats/safetensors.ts";
import type { Position } from "./order.ts";
import type { Trainer } from "./trainer.ts";
import type { Vectors } from "./vectors.ts";

export interface Progress {
  /** Steps that were made. */
  readonly step: number;
  /** The next example. */
  readonly position: Position;
}

/** Trainers by name. */
export type Trainers = Readonly<Record<string, Trainer>>;

/** Gradients are not kept: each step begins with new ones. */
const keptOf = ({ names }: Vectors) => names.filter((name) => name !== "gradient");
const FORMAT = "ldm training state 1";

/** Writes the state whole. Throws `FileError`. */
export async function writeState(
  path: string,
  progress: Progress,
  trainers: Trainers,
): Promise<void> {
  const tensors: { name: string; dtype: "F32"; shape: readonly number[]; data: Uint8Array }[] = [];
  for (const [trainer, { vectors }] of Object.entries(trainers)) {
    for (const vector of keptOf(vectors)) {
      for (const [name, data] of await vectors.read(vector)) {
        const shape = vectors.places.get(name)?.entry.shape ?? [data.length];
        const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
        tensors.push({ name: `${trainer}/${vector}/${name}`, dtype: "F32", shape, data: bytes });
      }
    }
  }
  await writeSafetensors(path, tensors, { format: FORMAT, progress: JSON.stringify(progress) });
}

/** Reads a state into trainers of the same parameters; an average that they do not have is left out. Throws `FileError`, and `FormatError` where it is another run's. */
export async function readState(path: string, trainers: Trainers): Promise<Progress> {
  using file = await SafetensorsFile.open(path);
  const progress = progressOf(path, file.metadata);
  for (const [trainer, { vectors }] of Object.entries(trainers)) {
    for (const vector of keptOf(vectors)) {
      const values = new Map<string, Float32Array<ArrayBuffer>>();
      for (const [name, { entry }] of vectors.places) {
        const key = `${trainer}/${vector}/${name}`;
        const found = file.tensors.get(key);
        if (!found || found.shape.join() !== entry.shape.join()) {
          throw new FormatError(
            `Cannot resume from "${path}": its "${key}" is ${
              found ? `of shape [${found.shape.join(", ")}]` : "missing"
            }, [${
              entry.shape.join(", ")
            }] was needed; resume with the settings that the run began with`,
          );
        }
        values.set(name, Float32Array.from(await file.readTensor(key)));
      }
      vectors.write(vector, values);
    }
  }
  return progress;
}

/** How far a run had come that wrote a state. Throws as `readState` does. */
export async function progressIn(path: string): Promise<Progress> {
  using file = await SafetensorsFile.open(path);
  return progressOf(path, file.metadata);
}

function progressOf(path: string, metadata: ReadonlyMap<string, string>): Progress {
  const json: unknown = metadata.get("format") === FORMAT
    ? JSON.parse(metadata.get("progress") ?? "null")
    : null;
  if (isProgress(json)) return json;
  throw new FormatError(`Cannot resume from "${path}": it is no state of a training run`);
}

const isObject = (value: unknown): value is object => typeof value === "object" && value !== null;

function isProgress(value: unknown): value is Progress {
  if (!isObject(value) || !("step" in value) || !("position" in value)) return false;
  const { step, position } = value;
  return Number.isInteger(step) && isObject(position) && "epoch" in position &&
    "index" in position && Number.isInteger(position.epoch) && Number.isInteger(position.index);
}
