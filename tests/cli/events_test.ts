import { deepEqual, equal, ok } from "node:assert/strict";
import { fieldsOf } from "../../lib/cli/events.ts";
import { FIXTURES, inFolder, ldm } from "./ldm.ts";

const SD1 = `${FIXTURES}/tiny/sd1`;
const QUICK = ["a fox", "-m", SD1, "--steps", "5", "-W", "32", "-H", "48", "-s", "5"];

Deno.test("every event of --json has the fields that are documented, and no others", () =>
  inFolder(async (cwd) => {
    const all = ["--grid", "--json", "-v", "-b", "2"];
    const sweep = ["--sweep", "cfg=1,2", "--sweep", "width=32,33", "--json"];
    for (const args of [all, sweep]) {
      const { stdout } = await ldm([...QUICK, ...args], { cwd });
      for (const line of stdout.trimEnd().split("\n")) {
        const event = JSON.parse(line);
        const { always, sometimes } = fieldsOf(event.event);
        const has = Object.keys(event);
        deepEqual(always.filter((name) => !has.includes(name)), [], line);
        deepEqual(has.filter((name) => ![...always, ...sometimes].includes(name)), [], line);
      }
    }
    const help = await ldm(["help", "json"]);
    equal(help.code, 0);
    ok(help.stdout.includes("\nsaved: a picture is saved\n  path "), help.stdout);
  }));
