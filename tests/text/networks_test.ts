import assert from "node:assert/strict";
import { loraTag } from "../../lib/formats/recipe.ts";
import { networksOf } from "../../lib/text/networks.ts";

/** What a prompt asks for, as [kind, name, multiplier, multiplier of text encoders]. */
const asked = (prompt: string) =>
  networksOf(prompt).networks.map(({ kind, name, multiplier, textMultiplier }) => [
    kind,
    name,
    multiplier,
    textMultiplier,
  ]);

Deno.test("networksOf cuts tags out of a prompt and leaves all else", () => {
  const { text } = networksOf("a <lora:x:0.8>fox, <b> <c d:e> a<hypernet:h:1> < lora:x:1>");
  assert.equal(text, "a fox, <b> <c d:e> a < lora:x:1>");
});

Deno.test("networksOf reads multipliers by place and by name; one of the UNet's holds for it alone", () => {
  assert.deepEqual(asked("<lora:x> <lora:y:0.5> <lora:z:.5:-2>"), [
    ["lora", "x", 1, 1],
    ["lora", "y", 0.5, 0.5],
    ["lora", "z", -2, 0.5],
  ]);
  assert.deepEqual(asked("<lora:x:te=0.3:unet=0.7><lyco:y:unet=2><lora:z:much>"), [
    ["lora", "x", 0.7, 0.3],
    ["lyco", "y", 2, 1],
    ["lora", "z", 1, 1],
  ]);
  assert.deepEqual(asked(loraTag("a b", 0.25)), [["lora", "a b", 0.25, 0.25]]);
  const parts = asked(loraTag("b/a.v2.safetensors", 0.25, 0.5));
  assert.deepEqual(parts, [["lora", "a.v2", 0.25, 0.5]]);
});
