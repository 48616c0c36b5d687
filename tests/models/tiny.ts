/** Reading the tiny models of fixtures/tiny and running their graphs in the interpreter. */

import type { Shape } from "../../lib/base/shape.ts";
import {
  type ComponentName,
  openCheckpoint,
  requireComponent,
} from "../../lib/formats/checkpoint.ts";
import { toFloat32 } from "../../lib/formats/safetensors.ts";
import { interpret, type Values } from "../../lib/graph/interpret.ts";
import type { Graph } from "../../lib/graph/tensor.ts";
import { fixture } from "../fixture.ts";

/**
 * One component: its config, its shapes, and its values in the graph's layout under names that
 * begin with the component.
 */
export interface Tiny {
  readonly config: unknown;
  readonly shapes: ReadonlyMap<string, Shape>;
  readonly values: Values;
  readonly names: ReadonlySet<string>;
}

/** A component of a folder or file in fixtures/. */
export async function readTiny(path: string, component: ComponentName): Promise<Tiny> {
  const where = fixture(path);
  await using checkpoint = await openCheckpoint(where);
  const weights = requireComponent(checkpoint, component);
  const shapes = new Map<string, Shape>();
  const values: Record<string, Float32Array> = {};
  for (const { name, shape } of weights.infos.values()) {
    shapes.set(name, shape);
    const { dtype, data } = await weights.read(name);
    const loaded = toFloat32(dtype, data, name);
    values[`${component}.${name}`] = shape.length === 4 ? channelsLast(loaded, shape) : loaded;
  }
  const config = checkpoint.configs.get(component.startsWith("taesd") ? "taesd" : component);
  return { config, shapes, values, names: new Set(shapes.keys()) };
}

/** [n, c, h, w] → [n, h, w, c]. */
export function channelsLast(
  x: ArrayLike<number>,
  [n, c, h, w]: Shape,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(n * c * h * w);
  let to = 0;
  for (let i = 0; i < n; i++) {
    for (let y = 0; y < h * w; y++) {
      for (let j = 0; j < c; j++) out[to++] = x[(i * c + j) * h * w + y];
    }
  }
  return out;
}

/**
 * Every labelled tensor's value in double precision, in torch's order ([n, c, h, w] where there are
 * four axes).
 */
export function runLabelled(graph: Graph, values: Values): Map<string, Float64Array> {
  const labels = [...graph.labels];
  const results = interpret(labels.map(([, tensor]) => tensor), values, { precision: "f64" });
  return new Map(labels.map(([name, { shape }], i) => [
    name,
    shape.length === 4 ? channelsFirst(results[i], shape) : results[i],
  ]));
}

/** [n, h, w, c] → [n, c, h, w]. */
export function channelsFirst(x: Float64Array, [n, h, w, c]: Shape): Float64Array {
  const out = new Float64Array(x.length);
  let to = 0;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < c; j++) {
      for (let y = 0; y < h * w; y++) out[to++] = x[(i * h * w + y) * c + j];
    }
  }
  return out;
}
