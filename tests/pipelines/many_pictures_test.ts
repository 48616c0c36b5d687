import { equal, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";

const SCRIPT = fileURLToPath(new URL("../bench/many_pictures.ts", import.meta.url));

Deno.test("sixty pictures in one process take no more of the device and of the host than ten", async () => {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    // without what JavaScript would collect some time
    args: ["run", "-A", "--v8-flags=--expose-gc", SCRIPT, "60"],
    env: { NO_COLOR: "1" },
  }).output();
  equal(code, 0, new TextDecoder().decode(stderr));
  const text = new TextDecoder().decode(stdout);
  const rows = text.trimEnd().split("\n").slice(1).map((line) =>
    line.trim().split(/ +/).map(Number)
  );
  equal(rows.length, 6, text);
  const [[, device, host, heap]] = rows;
  for (const [, ...use] of rows) {
    equal(use[0], device, text);
    // MiB: what allocators keep; a program or a buffer of each picture would be more
    ok(use[1] - host < 16 && use[2] - heap < 2, text);
  }
});
