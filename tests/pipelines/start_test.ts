/** What walks begin with, and what is kept around holes, in numbers small enough to follow. */

import assert from "node:assert/strict";
import { planSampling } from "../../lib/diffusion/plan.ts";
import { ve } from "../../lib/diffusion/schedule.ts";
import { blurred } from "../../lib/pipelines/holes.ts";
import { MATCHES } from "../../lib/pipelines/match.ts";
import { needsPicture, startOf } from "../../lib/pipelines/start.ts";

const scheduler = { betaStart: 0.00085, betaEnd: 0.012, betaSchedule: "scaled_linear" } as const;
const plan = planSampling({ sampler: "euler", steps: 4, scheduler, strength: 0.5 });

/** Draws 1, then 2, and so on. */
function counting() {
  let calls = 0;
  const source = {
    normal: (length: number) => new Float32Array(length).fill(++calls),
  };
  return { first: source, common: source, later: source };
}

const picture = { data: Float32Array.of(10, 20), channels: 1, height: 1, width: 2 };
const distributed = { ...picture, deviation: Float32Array.of(0.5, 0) };
const holes = Float32Array.of(1, 0);
const half = { sees: "mask", strength: 0.5 } as const;

function started(name: keyof typeof MATCHES, seen: Parameters<typeof startOf>[2], wanted = half) {
  return startOf(wanted, { plan, match: MATCHES[name], count: 2 }, seen, counting());
}

Deno.test("startOf draws a picture's latents before the noise where the tool does, and takes the mean elsewhere", () => {
  const { sigma } = plan.start;
  const drawn = started("diffusers", { picture: distributed, holes });
  assert.deepEqual(drawn.x, Float32Array.of(10.5 + 2 * sigma, 20 + 2 * sigma));
  const mean = started("a1111", { picture: distributed, holes });
  assert.deepEqual(mean.x, Float32Array.of(10 + sigma, 20 + sigma));
  const undistributed = started("diffusers", { picture, holes });
  assert.deepEqual(undistributed.x, mean.x);
});

Deno.test("startOf shows a model for holes the mask and what is around it, and puts nothing back as diffusers", () => {
  const start = started("diffusers", { picture: distributed, holes, rest: distributed });
  assert.deepEqual(start.shown, Float32Array.of(1, 0, 11.5, 20)); // the third draw
  assert.equal(start.land, undefined);
  assert.ok(started("comfyui", { picture, holes, rest: picture }).held !== start.held);
});

Deno.test("startOf keeps what is around a hole: after steps, in guesses, or in what the network is shown too", async () => {
  const level = ve(3, 500);
  const seen: Float32Array[] = [];
  const denoise = (x: Float32Array<ArrayBuffer>) => {
    seen.push(x);
    return Float32Array.of(-1, -2);
  };
  const x = Float32Array.of(7, 8);
  const steps = started("diffusers", { picture, holes });
  assert.deepEqual(steps.land?.(x, level), Float32Array.of(7, 20 + 3));
  assert.deepEqual(await steps.held(denoise)(x, level), Float32Array.of(-1, -2));
  for (const [name, shown] of [["a1111", 8], ["sdcpp", 8], ["comfyui", 20 + 3]] as const) {
    const { land, held } = started(name, { picture, holes });
    assert.equal(land, undefined);
    assert.deepEqual(await held(denoise)(x, level), Float32Array.of(-1, 20), name);
    assert.deepEqual(seen.at(-1), Float32Array.of(7, shown), name);
  }
});

Deno.test("needsPicture spares a model for holes the picture where diffusers' walk begins with noise alone", () => {
  const wanted = { sees: "mask", strength: 1 } as const;
  assert.equal(needsPicture(wanted, true, MATCHES.diffusers), false);
  assert.equal(needsPicture(wanted, false, MATCHES.diffusers), true);
  assert.equal(needsPicture(wanted, true, MATCHES.a1111), true);
  assert.equal(needsPicture(half, true, MATCHES.diffusers), true);
  assert.equal(needsPicture({ sees: "low" }, true, MATCHES.diffusers), false);
});

Deno.test("blurred goes from old to new over five deviations, half at the edge, and mirrors what lies beyond a side", () => {
  const [width, height] = [24, 3];
  const data = Uint8Array.from({ length: width * height }, (_, i) => i % width < 12 ? 255 : 0);
  const { data: soft } = blurred({ width, height, channels: 1, data }, 2);
  const row = [...soft.subarray(0, width)];
  assert.deepEqual([...soft.subarray(width, 2 * width)], row);
  assert.ok(row.every((value, i) => i === 0 || value <= row[i - 1]));
  assert.deepEqual([row[0], row[6], row[17], row[23]], [255, 255, 0, 0]);
  assert.ok(row[7] < 255 && row[16] > 0);
  row.forEach((value, i) => assert.ok(Math.abs(value + row[width - 1 - i] - 255) <= 1));
});
