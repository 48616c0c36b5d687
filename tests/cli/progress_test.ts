import { deepEqual, equal, ok } from "node:assert/strict";
import { paceOf, rate } from "../../lib/cli/pace.ts";
import { barLine, duration } from "../../lib/cli/progress.ts";

Deno.test("paceOf reckons the time left of all steps and pictures, ends included", () => {
  const pace = paceOf();
  equal(pace.reckon().left, undefined);
  pace.plan(3, 4, 0);
  equal(pace.reckon().left, undefined);
  pace.step(0, 4, 5000); // weights were read: until there is another it stands for all
  deepEqual(pace.reckon(), { step: 5000, left: 11 * 5000, picture: 1, pictures: 3 });
  pace.step(1, 4, 6000);
  deepEqual(pace.reckon(), { step: 1000, left: 10 * 1000, picture: 1, pictures: 3 });
  pace.step(2, 4, 7000);
  pace.step(3, 4, 8000);
  pace.saved(8500);
  deepEqual(pace.reckon(), { step: 1000, left: 2 * 4500, picture: 2, pictures: 3 });
  for (const picture of [1, 2]) {
    for (let i = 0; i < 4; i++) pace.step(i, 4, 8500 + (picture - 1) * 4500 + (i + 1) * 1000);
    pace.saved(8500 + picture * 4500);
  }
  deepEqual(pace.reckon(), { step: 1000, left: 0, picture: 3, pictures: 3 });
});

Deno.test("paceOf follows a pace that changes, and keeps it from request to request", () => {
  const pace = paceOf(() => 4);
  let now = 0;
  const draw = (steps: number, each: number) => {
    pace.plan(1, steps, now);
    for (let i = 0; i < steps; i++) pace.step(i, steps, now += each);
    pace.saved(now);
  };
  draw(10, 100);
  deepEqual(pace.reckon(), { step: 100, left: 3 * 10 * 100, picture: 2, pictures: 4 });
  pace.plan(1, 20, now);
  // not a step of the new size yet: the old pace stands for it, and its first step counts for nothing
  equal(pace.reckon().left, 3 * 20 * 100);
  pace.step(0, 20, now += 900);
  equal(pace.reckon().step, 100);
  pace.step(1, 20, now += 300);
  equal(pace.reckon().step, 300);
  for (let i = 2; i < 20; i++) pace.step(i, 20, now += 200);
  const { step = 0 } = pace.reckon();
  ok(step > 200 && step < 250, `${step}`);
});

Deno.test("rate says steps in a second, or seconds of a step where they are slow", () => {
  const said = [1000 / 3.21, 1000, 1001, 12345, 7, 123456, 0].map(rate);
  deepEqual(said, ["3.2 it/s", "1.0 it/s", "1.0 s/it", "12.3 s/it", "143 it/s", "123 s/it", ""]);
});

Deno.test("duration says what a person wants to know of a time", () => {
  const said = [40, 9949, 9951, 12400, 99_400, 99_600, 3_599_600, 7_800_000].map(duration);
  deepEqual(said, [
    "0.0 s",
    "9.9 s",
    "10 s",
    "12 s",
    "99 s",
    "1 min 40 s",
    "60 min 0 s",
    "2 h 10 min",
  ]);
});

Deno.test("barLine fits every width: notes give way, then the bar, then what is left", () => {
  const notes = ["12/20", "5 s left", "1.6 it/s", "picture 2 of 4"];
  const lines = [100, 79, 60, 44, 30, 24, 20, 14, 6, 0]
    .map((width) => barLine(width, "sampling", 0.6, notes));
  deepEqual(lines, [
    "sampling ██████████████░░░░░░░░░░ 12/20, 5 s left, 1.6 it/s, picture 2 of 4",
    "sampling ██████████████░░░░░░░░░░ 12/20, 5 s left, 1.6 it/s, picture 2 of 4",
    "sampling █████░░░░ 12/20, 5 s left, 1.6 it/s, picture 2 of 4",
    "sampling █████░░░░ 12/20, 5 s left, 1.6 it/s",
    "sampling █████████░░░░░░ 12/20",
    "sampling █████░░░░ 12/20",
    "sampling 12/20",
    "sampling 12/20",
    "sampli",
    "",
  ]);
  equal(barLine(30, "loading unet", NaN, []), "loading unet ░░░░░░░░░░░░░░░░");
  equal(barLine(40, "x", 1, [""]), `x ${"█".repeat(24)}`);
});
