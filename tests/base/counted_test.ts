import { deepEqual } from "node:assert/strict";
import { counted } from "../../lib/base/counted.ts";

Deno.test("counted says one in the singular, and all else in the plural", () => {
  deepEqual([0, 1, 2].map((n) => counted(n, "tensor")), ["0 tensors", "1 tensor", "2 tensors"]);
  deepEqual(counted(8600, "number", "8.600 k"), "8.600 k numbers");
});
