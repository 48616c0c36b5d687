import assert from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { ownDefaults, ownDefaultsJson } from "../../lib/models/defaults.ts";

Deno.test("ownDefaults reads what ownDefaultsJson writes, and nothing where nothing is said", () => {
  const own = { steps: 12, cfgScale: 2.5 };
  assert.deepEqual(ownDefaults({ _class_name: "A", ...ownDefaultsJson(own) }, "run"), own);
  for (const index of [undefined, null, {}, { steps: 3 }]) {
    assert.deepEqual(ownDefaults(index, "run"), {});
  }
});

Deno.test("ownDefaults refuses what nobody can sample with, naming the file", () => {
  for (const [steps, cfg_scale] of [[0, 1], [1.5, 1], ["20", 1], [20, -1], [20, null]]) {
    assert.throws(() => ownDefaults({ _defaults: { steps, cfg_scale } }, "run"), (error) => {
      assert.ok(error instanceof FormatError);
      assert.match(error.message, /^Cannot use the model_index\.json in "run": "_defaults" is \{/);
      return true;
    });
  }
});
