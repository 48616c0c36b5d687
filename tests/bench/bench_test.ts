/** The benchmark's own parts, and that it runs: small, and without peers. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { FIXTURES } from "../cli/ldm.ts";
import { inFolder, names } from "../folders.ts";
import { startPeer } from "./peers.ts";

Deno.test("startPeer says which peer does not run", async () => {
  const peer = startPeer("torch_kernels.py", [], { python: "no-such-python" });
  await assert.rejects(peer, /there is no program "no-such-python"/);
});

Deno.test("the benchmark writes its sections as Markdown and as JSON", async () => {
  await inFolder(async (folder) => {
    const main = fileURLToPath(new URL("main.ts", import.meta.url));
    const small = ["-W", "16", "-H", "16", "-r", "1", "--steps", "1", "-o", folder];
    const model = join(FIXTURES, "tiny", "sd1");
    const args = ["kernels", "profile", "stages", "-f", "2×1280", "-m", model, ...small];
    const process = new Deno.Command(Deno.execPath(), { args: ["run", "-A", main, ...args] });
    const { code, stdout, stderr } = await process.output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    assert.deepEqual(names(folder), ["bench.json", "bench.md"]);
    const report = JSON.parse(await Deno.readTextFile(join(folder, "bench.json")));
    const titles = report.sections.map(({ title }: { title: string }) => title);
    assert.deepEqual(titles, [
      "Products",
      "Where the time goes: denoiser at 16×16",
      "Where the time goes: decoder at 16×16",
      "Stages at 16×16",
      "Pictures at 16×16",
      "Loading and memory",
    ]);
    const text = await Deno.readTextFile(join(folder, "bench.md"));
    for (const title of titles) assert.ok(text.includes(`## ${title}\n`), title);
    for (const key of ["device", "date", "version", "processor"]) {
      assert.ok(report[key].length > 0, key);
    }
    assert.ok(new TextDecoder().decode(stdout).includes("## Products"));
  });
});
