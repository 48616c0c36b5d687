import assert from "node:assert/strict";
import { Programs } from "../../lib/engine/programs.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { Graph } from "../../lib/graph/tensor.ts";

Deno.test("Programs keep what was assembled of late when sizes change, and forget the rest", async () => {
  await using device = await openDevice();
  const programs = new Programs(device, new Map());
  let made = 0;
  const assembly = (size: number) =>
    programs.assembly(`twice ${size}`, () => {
      made++;
      const x = new Graph().input("x", [size]);
      return new Map([["y", x.add(x)]]);
    });
  for (let size = 1; size <= 10; size++) assembly(size);
  assembly(1);
  programs.trim();
  for (const size of [1, 4, 5, 10]) assembly(size);
  assert.equal(made, 10);
  for (const size of [2, 3]) assembly(size);
  assert.equal(made, 12);
  programs.clear();
  assembly(1);
  assert.equal(made, 13);
});
