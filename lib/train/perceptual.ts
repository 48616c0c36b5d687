/** The network of a perceptual loss, from the user's file to the device. */

import { FormatError } from "../base/errors.ts";
import { compare, requireMatch } from "../engine/weights.ts";
import { SafetensorsFile } from "../formats/safetensors.ts";
import type { Parameters } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import type { Tensor } from "../graph/tensor.ts";
import { lpips, lpipsFromShapes, lpipsManifest } from "../models/lpips.ts";
import { paramsOf } from "../nn/params.ts";
import { fromCheckpoint } from "./component.ts";
import { Frozen } from "./frozen.ts";

/** Scope of its parameters. */
const SCOPE = "lpips";

/** Dispose of it to free its weights. */
export interface Perceptual extends Disposable {
  readonly parameters: Parameters;
  /** Of pictures [n, h, w, c]: [n, 1, 1, 1]. */
  distance(a: Tensor, b: Tensor): Tensor;
}

/**
 * LPIPS' weights, which stay as they are, for pictures of `size` pixels a side. Throws `FileError`, and `FormatError` where
 * the file does not hold them or pictures are too small.
 */
export async function openPerceptual(
  device: Device,
  path: string,
  size: number,
): Promise<Perceptual> {
  using file = await SafetensorsFile.open(path);
  const shapes = new Map([...file.tensors].map(([name, { shape }]) => [name, shape]));
  const { config, names } = lpipsFromShapes(shapes, `"${path}"`);
  if (size < config.least) {
    throw new FormatError(
      `Cannot compare pictures of ${size} pixels with "${path}": data.size must be at least ${config.least}`,
    );
  }
  const infos = new Map([...names].map(([source, name]) => {
    const { dtype, shape } = file.entry(source);
    return [name, { name, dtype, shape, source }];
  }));
  const manifest = lpipsManifest(SCOPE, config);
  requireMatch(compare(infos, manifest, SCOPE), "perceptual network", path);
  const values = new Map<string, Float32Array<ArrayBuffer>>();
  for (const { name, source } of infos.values()) {
    values.set(`${SCOPE}.${name}`, await file.readTensor(source));
  }
  const frozen = new Frozen(device, manifest, ({ name, shape, role }) => {
    const read = values.get(name) ?? new Float32Array();
    return role === "conv" ? fromCheckpoint(read, shape) : read;
  });
  return {
    parameters: frozen.parameters,
    distance: (a, b) => lpips(paramsOf(a.graph, SCOPE), config, a, b),
    [Symbol.dispose]: () => frozen[Symbol.dispose](),
  };
}
