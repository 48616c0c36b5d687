/** An example's layout as it is trained with: objects in an order of chance, so that none depends on its place. */

import type { LabelledBox } from "../base/box.ts";
import { type LayoutForm, layoutTokens } from "../text/layout.ts";
import { permutation } from "./order.ts";

/**
 * Tokens of at most as many boxes as the form has room for, in the order and choice that the seed decides. Throws
 * `UsageError` for a label that is no class.
 */
export function shuffledLayout(
  boxes: readonly LabelledBox[],
  form: LayoutForm,
  seed: number,
): Int32Array {
  const order = [...permutation(boxes.length, seed)].slice(0, form.objects);
  return layoutTokens(order.map((i) => boxes[i]), form);
}
