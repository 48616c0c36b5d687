/** The oracle of most kernels: the interpreter, in double precision. */

import { interpret } from "../../lib/graph/interpret.ts";
import type { Oracle } from "./harness.ts";

export const meaning: Oracle = (node, values) => interpret([node], values, { precision: "f64" })[0];
