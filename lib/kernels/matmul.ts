/** Products of matrices: activations by weights, and activations by activations in batches. */

import { show } from "../base/shape.ts";
import type { Tensor } from "../graph/tensor.ts";
import matmulSource from "../../wgsl/matmul.wgsl" with { type: "text" };
import rowsSource from "../../wgsl/matmul_rows.wgsl" with { type: "text" };
import {
  type Binding,
  type Dispatch,
  epilogueOf,
  type Kernel,
  MAX_GROUPS,
  MAX_ITERATIONS,
  type Profile,
  type Residence,
  resultBinding,
  type Variant,
  windowOn,
} from "./kernel.ts";
import {
  blocksOf,
  columnGroups,
  NUMBERS,
  type Operand,
  panelsOf,
  productParts,
  productResidences,
  READERS,
  sharing,
  STORE,
  type Tile,
  tilesFor,
} from "./product.ts";
import { packedBytes } from "./weights.ts";
import { type WorkgroupOptions, workgroupVariants } from "./workgroup.ts";

/** Sizes of result[batch, m, n] = a[batch, m, k] · w, and where the operands lie. */
export interface Product {
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Where each input of the node is read. */
  readonly residences: readonly Residence[];
  /** Bytes of the second operand, all batches together. */
  readonly bytes: number;
  /** Where operands do not begin with their memory, or their batches do not follow each other. */
  readonly placement?: Placement;
}

/** In elements as the shader counts them: the first of an operand, and those between a batch's end and the next one. */
export interface Placement {
  readonly a_first: number;
  readonly a_gap: number;
  /** Panels are not counted with their batch: all from a batch's begin to the next one's. */
  readonly w_gap: number;
  /** Counted in numbers. */
  readonly result_first: number;
  readonly result_gap: number;
  /** Columns of a row of the result, and the first of these, in vec4s. */
  readonly width: number;
  readonly first_group: number;
}

/** What one dispatch computes: rows of one batch, or several whole batches. */
interface Part {
  readonly batches: number;
  readonly rows: number;
  /** First row of `a` and of the result, all batches seen as one matrix. */
  readonly begin: number;
  /** First batch. */
  readonly batch: number;
}

/** Cuts a product into the fewest parts whose operands fit a binding each and whose rows fit a grid. */
function partsOf(node: Tensor, product: Product, rowsOfGrid: number, profile: Profile): Part[] {
  const { batch, m, n, k, residences, bytes } = product;
  const bytesOfRow = 4 * Math.max(n, residences[0] === "buffer" ? k : 0);
  const bytesOfBatch = Math.max(m * bytesOfRow, residences[1] === "buffer" ? bytes / batch : 0);
  const whole = batch * bytesOfBatch <= profile.maxBinding && batch <= MAX_GROUPS;
  if (whole && m <= rowsOfGrid) return [{ batches: batch, rows: m, begin: 0, batch: 0 }];
  const room = profile.maxBinding - 256; // a window begins up to 256 bytes early
  if (bytesOfRow > room || (residences[1] === "buffer" && bytes / batch > room)) {
    throw new RangeError(
      `Cannot multiply ${node.inputs.slice(0, 2).map(({ shape }) => show(shape)).join(" by ")}: ` +
        `an operand needs ${Math.max(bytesOfRow, bytes / batch)} bytes in one binding, ` +
        `this device binds ${profile.maxBinding}`,
    );
  }
  const rows = Math.min(rowsOfGrid, Math.floor(room / bytesOfRow));
  const parts: Part[] = [];
  if (rows >= m) {
    const most = Math.min(MAX_GROUPS, Math.floor(room / bytesOfBatch));
    for (let first = 0; first < batch; first += most) {
      const batches = Math.min(most, batch - first);
      parts.push({ batches, rows: m, begin: first * m, batch: first });
    }
    return parts;
  }
  const step = Math.ceil(m / Math.ceil(m / rows));
  for (let first = 0; first < batch; first++) {
    for (let row = 0; row < m; row += step) {
      const part = { batches: 1, rows: Math.min(step, m - row), begin: first * m + row };
      parts.push({ ...part, batch: first });
    }
  }
  return parts;
}

/** What the two shaders of a product differ in. */
interface Form {
  readonly source: string;
  readonly constants: Dispatch["shader"]["constants"];
  readonly functions: string;
  readonly type: "f32" | "vec4f";
  readonly f16?: boolean;
  readonly elements: { readonly a: "f32" | "vec4f"; readonly w: Binding["element"] };
  readonly params: Readonly<Record<string, number>>;
  /** Rows of a workgroup. */
  readonly height: number;
  readonly columns: number;
  readonly iterations: number;
}

function variantOf(
  name: string,
  node: Tensor,
  product: Product,
  form: Form,
  profile: Profile,
): Variant {
  const { n, k, residences } = product;
  if (form.iterations > MAX_ITERATIONS) {
    throw new RangeError(
      `Cannot multiply ${node.inputs.slice(0, 2).map(({ shape }) => show(shape)).join(" by ")}: ` +
        `sums of ${k} products take ${form.iterations} loop iterations, ` +
        `devices run at most ${MAX_ITERATIONS}`,
    );
  }
  const parts = partsOf(node, product, MAX_GROUPS * form.height, profile);
  const split = parts.length > 1;
  const bytesOf = (element: Binding["element"]) => element.startsWith("vec4") ? 16 : 4;
  /** An operand's elements begin … end − 1: their window, and the first of them as the shader counts. */
  const partOf = (
    residence: Residence,
    begin: number,
    end: number,
    element: Binding["element"],
  ) => {
    const scale = bytesOf(element) / 4;
    if (!split || residence === "texture") return { window: {}, first: begin / scale };
    const { window, first } = windowOn(begin, end, 4);
    return { window: { window }, first: first / scale };
  };
  const dispatches = parts.map(({ batches, rows, begin, batch }): Dispatch => {
    const end = begin + batches * rows;
    const epilogue = epilogueOf(node, form.type, {
      residences,
      byColumns: form.type === "vec4f",
      ...(split ? { rows: { begin, end } } : {}),
    });
    const a = partOf(residences[0], begin * k, end * k, form.elements.a);
    const isShared = product.batch === 1;
    const w = isShared
      ? { window: {}, first: 0 }
      : partOf(residences[1], batch * n * k, (batch + batches) * n * k, form.elements.w);
    const result = partOf("buffer", begin * n, end * n, "f32");
    return {
      shader: {
        source: form.source,
        type: form.type,
        f16: form.f16 ?? false,
        constants: form.constants,
        functions: `${form.functions}\n${epilogue.functions}`,
        bindings: [
          { ...resultBinding(form.type), ...result.window },
          {
            name: "a",
            source: 0,
            element: form.elements.a,
            access: "read",
            residence: residences[0],
            ...a.window,
          },
          {
            name: "w",
            source: 1,
            element: form.elements.w,
            access: "read",
            residence: residences[1],
            ...w.window,
          },
          ...epilogue.bindings,
        ],
      },
      params: {
        u32: {
          m: rows,
          width: n,
          a_first: a.first,
          w_first: w.first,
          result_first: result.first,
          ...form.params,
          ...epilogue.params,
        },
      },
      grid: [form.columns, Math.ceil(rows / form.height), batches],
      iterations: form.iterations,
    };
  });
  return { name, scratch: [], dispatches };
}

/** A product whose reduction fills vec4s, in register tiles of each size worth trying, the best first. */
export function tiledProducts(
  node: Tensor,
  product: Product,
  operand: Operand,
  profile: Profile,
): Variant[] {
  const { batch, m, n, k } = product;
  return tilesFor(m, n, READERS[operand].parts, batch * m * n * k, profile).map((
    { prefix, tile },
  ) => tiledProduct(node, product, operand, tile, profile, `${prefix}tiles`));
}

/** A product whose reduction fills vec4s, in register tiles. */
export function tiledProduct(
  node: Tensor,
  product: Product,
  operand: Operand,
  tile: Tile,
  profile: Profile,
  name = "tiles",
): Variant {
  const { n, k, placement } = product;
  const { parts, across, element, type, functions } = productParts(operand, n);
  const blocks = k / (4 * parts);
  const form: Form = {
    source: matmulSource,
    constants: { ...tile, ...sharing(tile.TM, profile), PARTS: parts, ACROSS: across },
    functions,
    type,
    elements: { a: "vec4f", w: element },
    params: {
      blocks,
      a_gap: 0,
      w_gap: 0,
      result_gap: 0,
      first_group: 0,
      ...placement,
      ...turnedParams(node, operand, blocks),
    },
    height: tile.TM * tile.ROWS,
    columns: columnGroups(n, tile),
    iterations: blocks,
  };
  return variantOf(name, node, product, form, profile);
}

/** What readers of a turned weight need to know of it: as a convolution of one tap. */
function turnedParams(
  { inputs: [, weight] }: Tensor,
  operand: Operand,
  blocks: number,
): Record<string, number> {
  if (operand !== "turned16" && operand !== "turned32") return {};
  const taps = { kernel_height: 1, kernel_width: 1, tap_blocks: blocks, tap_depth: blocks };
  return { ...taps, weight_blocks: weight ? blocksOf(weight, operand) : 0 };
}

/** The variants for GPUs that stage operands in workgroup memory, the best first. */
export function stagedProducts(
  node: Tensor,
  product: Product,
  operand: Operand,
  profile: Profile,
  options: WorkgroupOptions = {},
): Variant[] {
  const shape = { ...product, operand, a: "rows" as const };
  return workgroupVariants(
    node,
    shape,
    profile,
    (form) => {
      const params = { ...form.params, ...turnedParams(node, operand, product.k / 4) };
      return variantOf(form.name, node, product, { ...form, params }, profile);
    },
    options,
  );
}

/** A product one number at a time. */
function scalarProduct(
  node: Tensor,
  product: Product,
  operand: Operand,
  profile: Profile,
): Variant {
  const { m, n, k } = product;
  const ROWS = Math.min(8, Math.ceil(m / 4));
  const { element, parts } = READERS[operand];
  const packed = operand !== "rows" && operand !== "columns";
  const form: Form = {
    source: rowsSource,
    constants: { ROWS },
    functions: `${NUMBERS[operand]}\n${STORE.f32}`,
    type: "f32",
    elements: { a: "f32", w: packed ? element : "f32" },
    params: {
      k,
      blocks: Math.ceil(k / (4 * parts)),
      ...turnedParams(node, operand, 0),
    },
    height: 4 * ROWS,
    columns: Math.ceil(n / 32),
    iterations: k,
  };
  return variantOf("scalars", node, product, form, profile);
}

/** Panels as they are read by a product with the weight itself, not its transpose. */
const TURNED = { panels16: "turned16", panels32: "turned32" } as const;

export const matmul: Kernel<"matmul"> = (node, profile, layoutOf) => {
  const [a, b] = node.inputs;
  const { transposeB } = node.attrs;
  const [n, k] = [node.shape[node.rank - 1], a.shape[a.rank - 1]];
  const batch = b.size / (n * k);
  const m = node.size / n / batch;
  const layout = layoutOf(b);
  const panels = panelsOf(layout);
  const residences = productResidences(node, profile, layoutOf);
  const bytes = b.op === "parameter" ? packedBytes(b.shape, layout) : b.size * 4;
  const product = { batch, m, n, k, residences, bytes };
  const operand = transposeB ? panels ?? "rows" : panels ? TURNED[panels] : "columns";
  const { parts, across } = READERS[operand];
  const whole = k % (4 * parts) === 0 && (!across || n % 4 === 0);
  if (!panels && layout.format !== "rows32") {
    throw new RangeError(`Cannot multiply by the weight ${show(b.shape)}: it lies in f16 rows`);
  }
  const alone = whole
    ? tiledProducts(node, product, operand, profile)
    : [scalarProduct(node, product, operand, profile)];
  const [first, ...others] = [...stagedProducts(node, product, operand, profile), ...alone];
  return [first, ...others];
};
