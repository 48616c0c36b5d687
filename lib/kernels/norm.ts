/** Group norms (moments, then normalisation), layer norms and softmax: one kernel for each, over any number of rows. */

import { type Across, acrossesFor, acrossParts, BY_WORKGROUP } from "./across.ts";
import {
  type Binding,
  type Dispatch,
  epilogueOf,
  type Kernel,
  residencesOf,
  resultBinding,
  splitRows,
  type Variant,
} from "./kernel.ts";
import {
  ALONE,
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
import { flatGrid } from "./views.ts";
import combineMomentsSource from "../../wgsl/combine_moments.wgsl" with { type: "text" };
import groupMomentsSource from "../../wgsl/group_moments.wgsl" with { type: "text" };
import groupNormSource from "../../wgsl/group_norm.wgsl" with { type: "text" };
import groupNormalizeSource from "../../wgsl/group_normalize.wgsl" with { type: "text" };
import layerNormSource from "../../wgsl/layer_norm.wgsl" with { type: "text" };
import softmaxSource from "../../wgsl/softmax.wgsl" with { type: "text" };

const LANES = 64;

/** Of a group: so many are merged by one lane. */
const FEW_PARTS = 4096;

/** Moments of chunks of pixels, then of groups; scratch holds the former. */
export const groupMoments: Kernel<"groupMoments"> = (node, profile, layoutOf) => {
  const [x] = node.inputs;
  const { groups } = node.attrs;
  const [samples, channels] = [x.shape[0], x.shape[x.rank - 1]];
  const pixels = x.size / samples / channels;
  const { type, width } = widthOf(channels);
  const [residence] = residencesOf(node, profile, layoutOf);
  const BLOCK = 8;
  // Enough chunks to keep the device busy, few enough to be merged quickly.
  const wanted = profile.kind === "software" ? 16 : 128;
  const chunkPixels = Math.ceil(Math.max(pixels / wanted, 32) / BLOCK) * BLOCK;
  const chunks = Math.ceil(pixels / chunkPixels);
  const columns = channels / width;
  const partials = residence === "texture"
    ? [{ begin: 0, end: samples * chunks }]
    : splitRows(samples * chunks, chunkPixels * channels, profile);
  const first = partials.map(({ begin, end }): Dispatch => {
    const pixelOf = (chunk: number) =>
      Math.floor(chunk / chunks) * pixels + Math.min(chunk % chunks * chunkPixels, pixels);
    const rows = { begin: pixelOf(begin), end: pixelOf(end) };
    const part = partOf(x, rows, residence, profile);
    const count = (end - begin) * columns;
    const [gridColumns, gridRows] = flatGrid(Math.ceil(count / LANES));
    return {
      shader: {
        source: groupMomentsSource,
        type,
        constants: { LANES, BLOCK },
        bindings: [
          { name: "x", source: 0, element: type, access: "read", residence, ...windowed(part) },
          {
            name: "partial",
            source: { scratch: 0 },
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
          columns,
          first_chunk: begin,
          chunks,
          chunk_pixels: chunkPixels,
          pixels,
          x_shift: (part.window?.offset ?? 0) / (4 * width),
        },
      },
      grid: [gridColumns, gridRows, 1],
      iterations: chunkPixels / BLOCK,
    };
  });
  const groupChannels = channels / groups;
  const all = samples * groups;
  const second = (lanes: number, threads: number, across: Across): Dispatch => {
    const { constants, functions } = acrossParts(across, "vec2f", threads);
    const [gridColumns, gridRows] = flatGrid(Math.ceil(all * lanes / threads));
    return {
      shader: {
        source: combineMomentsSource,
        type: "f32",
        constants: { LANES: lanes, ...constants, WIDTH: width },
        functions,
        bindings: [
          {
            name: "partial",
            source: { scratch: 0 },
            element: "f32",
            access: "read",
            residence: "buffer",
          },
          resultBinding("f32"),
        ],
      },
      params: {
        u32: {
          count: all,
          grid_columns: gridColumns,
          groups,
          channels,
          group_channels: groupChannels,
          chunks,
          chunk_pixels: chunkPixels,
          pixels,
        },
      },
      grid: [gridColumns, gridRows, 1],
      iterations: 2 * Math.ceil(chunks * groupChannels / lanes) + 2 * threads,
    };
  };
  const bytes = samples * chunks * channels * 2 * 4;
  const variantOf = (name: string, last: Dispatch): Variant => ({
    name,
    scratch: [bytes],
    dispatches: [...first, last],
  });
  const together = acrossesFor(profile).map((across) =>
    variantOf(across.name, second(LANES, LANES, across))
  );
  const alone = chunks * groupChannels <= FEW_PARTS
    ? [variantOf("lanes", second(1, 8, BY_WORKGROUP))]
    : [];
  const [best, ...others] = profile.kind === "software"
    ? [...alone, ...together]
    : [...together, ...alone];
  return [best, ...others];
};

export const groupNormalize: Kernel<"groupNormalize"> = (node, profile, layoutOf) => {
  const [x] = node.inputs;
  const { groups, eps } = node.attrs;
  const [samples, channels] = [x.shape[0], x.shape[x.rank - 1]];
  const pixels = x.size / samples / channels;
  const { type, width } = widthOf(channels);
  const columns = channels / width;
  const residences = residencesOf(node, profile, layoutOf);
  const ROWS = Math.min(profile.kind === "software" ? 64 : 4, pixels);
  const blocks = Math.ceil(pixels / ROWS);
  const dispatches = splitRows(samples * blocks, ROWS * channels, profile).map(
    ({ begin, end }): Dispatch => {
      const rowOf = (block: number) =>
        Math.floor(block / blocks) * pixels + Math.min(block % blocks * ROWS, pixels);
      const rows = { begin: rowOf(begin), end: rowOf(end) };
      const epilogue = epilogueOf(node, type, {
        residences,
        ...(node.size * 4 > profile.maxBinding ? { rows } : {}),
      });
      const source = partOf(x, rows, residences[0], profile);
      const target = partOf(x, rows, "buffer", profile);
      const count = (end - begin) * columns;
      const [gridColumns, gridRows] = flatGrid(Math.ceil(count / LANES));
      const read = (name: string, index: number, element: "f32" | "vec4f"): Binding => ({
        name,
        source: index,
        element,
        access: "read",
        residence: residences[index],
        ...(index === 0 ? windowed(source) : {}),
      });
      return {
        shader: {
          source: groupNormalizeSource,
          type,
          constants: { LANES, ROWS, WIDTH: width },
          functions: `${FOLDS[type]}\n${groupNormSource}\n${epilogue.functions}`,
          bindings: [
            read("x", 0, type),
            read("moments", 1, "f32"),
            read("weight", 2, type),
            read("bias", 3, type),
            { ...resultBinding(type), ...windowed(target) },
            ...epilogue.bindings,
          ],
        },
        params: {
          u32: {
            count,
            grid_columns: gridColumns,
            columns,
            first_block: begin,
            blocks,
            pixels,
            groups,
            group_channels: channels / groups,
            first_row: target.window ? rows.begin : 0,
            x_shift: (source.window?.offset ?? 0) / (4 * width),
            result_shift: (target.window?.offset ?? 0) / (4 * width),
            ...epilogue.params,
          },
          f32: { eps },
        },
        grid: [gridColumns, gridRows, 1],
        iterations: ROWS,
      };
    },
  );
  return [{ name: "columns", scratch: [], dispatches }];
};

export const layerNorm: Kernel<"layerNorm"> = (node, profile, layoutOf) => {
  const [x] = node.inputs;
  const channels = x.shape[x.rank - 1];
  const { type, width } = widthOf(channels);
  const residences = residencesOf(node, profile, layoutOf);
  const together = togetherOn(profile);
  return byRows(
    node,
    profile,
    profile.kind === "software" ? [SEVERAL, ...together] : [...together, SEVERAL],
    (sharing, rows, whole) => {
      const across = acrossParts(sharing.across, "vec2f", THREADS);
      const epilogue = epilogueOf(node, type, { residences, ...(whole ? {} : { rows }) });
      const source = partOf(x, rows, residences[0], profile);
      const target = partOf(x, rows, "buffer", profile);
      const [gridColumns, gridRows] = rowGrid(rows.end - rows.begin, sharing);
      const columns = channels / width;
      const read = (name: string, index: number): Binding => ({
        name,
        source: index,
        element: type,
        access: "read",
        residence: residences[index],
        ...(index === 0 ? windowed(source) : {}),
      });
      const skipped = residences[0] === "texture" ? rows.begin * channels : source.first;
      return {
        shader: {
          source: layerNormSource,
          type,
          constants: {
            ...across.constants,
            LANES: sharing.lanes,
            ROWS: sharing.rows,
            WIDTH: width,
          },
          functions: `${across.functions}\n${FOLDS[type]}\n${epilogue.functions}`,
          bindings: [
            read("x", 0),
            read("weight", 1),
            read("bias", 2),
            { ...resultBinding(type), ...windowed(target) },
            ...epilogue.bindings,
          ],
        },
        params: {
          u32: {
            grid_columns: gridColumns,
            columns,
            rows: rows.end - rows.begin,
            x_first: skipped / width,
            result_first: target.first / width,
            ...epilogue.params,
          },
          f32: { eps: node.attrs.eps },
        },
        grid: [gridColumns, gridRows, 1],
        iterations: 3 * Math.ceil(columns / sharing.lanes) + 2 * sharing.rows * THREADS,
      };
    },
  );
};

export const softmax: Kernel<"softmax"> = (node, profile, layoutOf) => {
  const [x] = node.inputs;
  const channels = x.shape[x.rank - 1];
  const { type, width } = widthOf(channels);
  const [residence] = residencesOf(node, profile, layoutOf);
  const columns = channels / width;
  const LONG = 16_384; // three passes of a lane alone would come near the limit of iterations
  const together = togetherOn(profile);
  const sharings = columns > LONG
    ? together
    : profile.kind === "software"
    ? [ALONE, ...together] as const
    : [...together, ALONE] as const;
  return byRows(node, profile, sharings, (sharing, rows) => {
    const across = acrossParts(sharing.across, "f32", THREADS);
    const source = partOf(x, rows, residence, profile);
    const target = partOf(x, rows, "buffer", profile);
    const [gridColumns, gridRows] = rowGrid(rows.end - rows.begin, sharing);
    const skipped = residence === "texture" ? rows.begin * channels : source.first;
    return {
      shader: {
        source: softmaxSource,
        type,
        constants: { ...across.constants, LANES: sharing.lanes },
        functions: `${across.functions}\n${FOLDS[type]}`,
        bindings: [
          { name: "x", source: 0, element: type, access: "read", residence, ...windowed(source) },
          { ...resultBinding(type), ...windowed(target) },
        ],
      },
      params: {
        u32: {
          grid_columns: gridColumns,
          columns,
          rows: rows.end - rows.begin,
          x_first: skipped / width,
          result_first: target.first / width,
        },
      },
      grid: [gridColumns, gridRows, 1],
      iterations: 3 * Math.ceil(columns / sharing.lanes) + 2 * THREADS,
    };
  });
};
