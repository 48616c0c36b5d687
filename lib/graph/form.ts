/**
 * Forms: what a node computes, as a `map` would compute it: a body over strided views of tensors that are stored.
 * Views of forms are forms, forms put together are forms; the fuse pass decides which of them become nodes.
 */

import type { Shape } from "../base/shape.ts";
import { type Expression, substitute } from "./expression.ts";
import type { View } from "./ops.ts";
import type { Graph, Tensor } from "./tensor.ts";
import {
  broadcastView,
  canonicalView,
  isWhole,
  reshapeView,
  sameView,
  sliceView,
  transposeView,
  wholeView,
} from "./view.ts";

export interface Form {
  readonly shape: Shape;
  readonly body: Expression;
  readonly operands: readonly Operand[];
}

/** A stored tensor, and how it is read for each element. */
export interface Operand {
  readonly tensor: Tensor;
  readonly view: View;
}

/** A stored tensor read in order; a number where it is that everywhere. */
export function stored(tensor: Tensor): Form {
  const { shape } = tensor;
  if (tensor.op === "constant" && tensor.attrs.values.length === 1) {
    return { shape, body: tensor.attrs.values[0], operands: [] };
  }
  return viewed(tensor, wholeView(shape), shape);
}

/** A stored tensor read through a view. */
export function viewed(tensor: Tensor, view: View, shape: Shape): Form {
  const operands = [{ tensor, view: canonicalView(view, shape) }];
  return { shape, body: { input: 0 }, operands };
}

const moved = (form: Form, shape: Shape, move: (view: View) => View): Form => ({
  shape,
  body: form.body,
  operands: form.operands.map(({ tensor, view }) => ({ tensor, view: move(view) })),
});

export function transposed(form: Form, order: readonly number[]): Form {
  const shape = order.map((axis) => form.shape[axis]);
  return moved(form, shape, (view) => transposeView(view, order));
}

export function sliced(form: Form, begin: readonly number[], shape: Shape): Form {
  return moved(form, shape, (view) => sliceView(view, begin, shape));
}

export function spread(form: Form, shape: Shape): Form {
  return moved(form, shape, (view) => broadcastView(view, form.shape, shape));
}

/** The same elements in another shape; `undefined` where strides cannot say how one of the operands is then read. */
export function reshaped(form: Form, shape: Shape): Form | undefined {
  const views = form.operands.map(({ view }) => reshapeView(view, form.shape, shape));
  const operands = form.operands.flatMap(({ tensor }, i) => {
    const view = views[i];
    return view ? [{ tensor, view }] : [];
  });
  return operands.length < views.length ? undefined : { shape, body: form.body, operands };
}

/** One form of several; `build` writes its body from theirs. Operands stand in the order of their first use, each once. */
export function combined(
  shape: Shape,
  parts: readonly Form[],
  build: (part: (i: number) => Expression) => Expression,
): Form {
  const operands: Operand[] = [];
  const place = ({ tensor, view }: Operand): Expression => {
    const known = operands.findIndex((o) => o.tensor === tensor && sameView(o.view, view));
    return { input: known >= 0 ? known : operands.push({ tensor, view }) - 1 };
  };
  const body = build((i) => substitute(parts[i].body, (j) => place(parts[i].operands[j])));
  return { shape, body, operands };
}

/** The node of a form: a constant, a tensor as it is or reshaped, else a map. */
export function nodeOf({ shape, body, operands }: Form, graph: Graph): Tensor {
  if (typeof body === "number") return graph.constant(body, shape);
  if ("input" in body) {
    const { tensor, view } = operands[body.input];
    if (isWhole(view, shape, tensor.size)) return tensor.reshape(shape);
  }
  const views = operands.map(({ view }) => view);
  return graph.node("map", operands.map(({ tensor }) => tensor), { shape, body, views });
}
