/** Gradients of norms: sums over pixels by channel, and the gradient of a layer norm by its rows. */

import { show } from "../base/shape.ts";
import groupNormSource from "../../wgsl/group_norm.wgsl" with { type: "text" };
import groupSumsSource from "../../wgsl/group_sums.wgsl" with { type: "text" };
import layerNormSource from "../../wgsl/layer_norm_gradient.wgsl" with { type: "text" };
import { acrossParts } from "./across.ts";
import { type Binding, type Dispatch, type Kernel, residencesOf, resultBinding } from "./kernel.ts";
import {
  byRows,
  FOLDS,
  partOf,
  rowGrid,
  SEVERAL,
  THREADS,
  togetherOn,
  widthOf,
  windowed,
} from "./norm_rows.ts";
import { sumOfParts } from "./parts.ts";
import { flatGrid } from "./views.ts";

const LANES = 64;

/** Pixels that are summed up one by one at most, and those worth an invocation of their own. */
const MOST_PIXELS = 512;
const FEWEST_PIXELS = 32;

/** Invocations that keep a device busy. */
const ENOUGH = { software: 512, gpu: 65_536 } as const;

/** Sums of chunks of pixels, then of the chunks. Throws `RangeError` on operands that exceed a binding. */
export const groupSums: Kernel<"groupSums"> = (node, profile, layoutOf) => {
  const [x] = node.inputs;
  const { groups, eps } = node.attrs;
  const [, samples, channels] = node.shape;
  const pixels = x.size / samples / channels;
  const { type, width } = widthOf(channels);
  const residences = residencesOf(node, profile, layoutOf);
  if ([0, 2].some((i) => residences[i] === "buffer") && x.size * 4 > profile.maxBinding) {
    throw new RangeError(
      `The gradient of a group norm reads ${show(x.shape)}: ${
        x.size * 4
      } bytes, this device binds ${profile.maxBinding}`,
    );
  }
  const columns = channels / width;
  const wanted = Math.ceil(ENOUGH[profile.kind] / (samples * columns));
  const least = Math.ceil(pixels / MOST_PIXELS);
  const parts = Math.max(least, Math.min(wanted, Math.ceil(pixels / FEWEST_PIXELS)));
  const chunkPixels = Math.ceil(pixels / parts);
  const chunks = Math.ceil(pixels / chunkPixels);
  const count = samples * columns * chunks;
  const [gridColumns, gridRows] = flatGrid(Math.ceil(count / LANES));
  const read = (name: string, index: number, element: "f32" | "vec4f"): Binding => ({
    name,
    source: index,
    element,
    access: "read",
    residence: residences[index],
  });
  const sums: Dispatch = {
    shader: {
      source: groupSumsSource,
      type,
      constants: { LANES, WIDTH: width },
      functions: `${FOLDS[type]}\n${groupNormSource}`,
      bindings: [
        read("x", 0, type),
        read("moments", 1, "f32"),
        read("dy", 2, type),
        {
          name: "sums",
          source: chunks > 1 ? { scratch: 0 } : "result",
          element: type,
          access: "read_write",
          residence: "buffer",
        },
      ],
    },
    params: {
      u32: {
        count,
        grid_columns: gridColumns,
        samples,
        pixels,
        columns,
        groups,
        group_channels: channels / groups,
        chunk_pixels: chunkPixels,
      },
      f32: { eps },
    },
    grid: [gridColumns, gridRows, 1],
    iterations: chunkPixels,
  };
  if (chunks === 1) return [{ name: "columns", scratch: [], dispatches: [sums] }];
  const scratch = [4 * node.size * chunks];
  return [{ name: "columns", scratch, dispatches: [sums, sumOfParts(node, type, chunks)] }];
};

export const layerNormGradient: Kernel<"layerNormGradient"> = (node, profile, layoutOf) => {
  const [x] = node.inputs;
  const channels = x.shape[x.rank - 1];
  const { type, width } = widthOf(channels);
  const residences = residencesOf(node, profile, layoutOf);
  const together = togetherOn(profile);
  const sharings = profile.kind === "software"
    ? [SEVERAL, ...together] as const
    : [...together, SEVERAL] as const;
  return byRows(node, profile, sharings, (sharing, rows) => {
    const across = acrossParts(sharing.across, "vec4f", THREADS);
    const [gridColumns, gridRows] = rowGrid(rows.end - rows.begin, sharing);
    const target = partOf(x, rows, "buffer", profile);
    const first = (residence: Binding["residence"]) =>
      (residence === "texture" ? rows.begin * channels : target.first) / width;
    const read = (name: string, index: number): Binding => ({
      name,
      source: index,
      element: type,
      access: "read",
      residence: residences[index],
      ...(index !== 1 && residences[index] === "buffer" ? windowed(target) : {}),
    });
    const columns = channels / width;
    return {
      shader: {
        source: layerNormSource,
        type,
        constants: { ...across.constants, LANES: sharing.lanes, ROWS: sharing.rows, WIDTH: width },
        functions: `${across.functions}\n${FOLDS[type]}`,
        bindings: [
          read("x", 0),
          read("weight", 1),
          read("dy", 2),
          { ...resultBinding(type), ...windowed(target) },
        ],
      },
      params: {
        u32: {
          grid_columns: gridColumns,
          columns,
          rows: rows.end - rows.begin,
          x_first: first(residences[0]),
          dy_first: first(residences[2]),
          result_first: target.first / width,
        },
        f32: { eps: node.attrs.eps },
      },
      grid: [gridColumns, gridRows, 1],
      iterations: 3 * Math.ceil(columns / sharing.lanes) + 2 * sharing.rows * THREADS,
    };
  });
};
