import assert from "node:assert/strict";
import { editDistance, nearestOf } from "../../lib/base/nearest.ts";

Deno.test("editDistance counts insertions, deletions and substitutions", () => {
  for (
    const [a, b, d] of [["", "abc", 3], ["kitten", "sitting", 3], ["heun", "heun", 0], [
      "ab",
      "ba",
      2,
    ]] as const
  ) {
    assert.equal(editDistance(a, b), d);
    assert.equal(editDistance(b, a), d);
  }
});

Deno.test("nearestOf finds what was misspelt, and nothing where all is different", () => {
  const names = ["learning_rate", "lr", "weight_decay"];
  assert.equal(nearestOf("weigth-decay", names), "weight_decay");
  assert.equal(nearestOf("LR", names), "lr");
  assert.equal(nearestOf("codebook", names), undefined);
  assert.equal(nearestOf("x", []), undefined);
});
