import assert from "node:assert/strict";
import { join } from "node:path";
import { inFolder, names } from "../folders.ts";
import { FIXTURES, ldm, start } from "./ldm.ts";

/** A run of seconds. */
const SMALL = [
  ...["--data", join(FIXTURES, "pictures")],
  ...["size=16", "batch=1", "f=2", "autoencoder.width=8", "autoencoder.groups=4"],
  ...["autoencoder.layers=1", "discriminator.weight=0", "sample.every=2", "sample.count=2"],
].flatMap((word) => word.includes("=") ? ["--set", word] : [word]);

Deno.test("ldm train autoencoder makes a vae folder, goes on with --resume, and ldm uses it", async () => {
  await inFolder(async (folder) => {
    const run = join(folder, "run");
    const made = await ldm(["train", "autoencoder", ...SMALL, "--set", "steps=2", "-o", run], {
      cwd: folder,
    });
    assert.equal(made.code, 0, made.stderr);
    assert.equal(made.stdout, `${run}\n`);
    assert.deepEqual(names(run), [
      ...["checkpoints", "config.toml", "log.ndjson", "loss.svg", "samples", "vae"],
    ]);
    assert.deepEqual(names(join(run, "samples")), ["00000002.png"]);
    const settings = await Deno.readTextFile(join(run, "config.toml"));
    for (
      const [word, sentence] of [
        ["seed=5", /^[^]*\nldm: Cannot resume ".*run" with run\.seed=5: it began with 0, .*\n$/],
        [
          "steps=1",
          /^[^]*\nldm: Cannot resume ".*run" with run\.steps=1: 2 steps of it are done.*\n$/,
        ],
      ] as const
    ) {
      const refused = await ldm(["train", "autoencoder", "-o", run, "--resume", "--set", word]);
      assert.deepEqual([refused.code, refused.stdout], [2, ""]);
      assert.match(refused.stderr, sentence);
      assert.equal(await Deno.readTextFile(join(run, "config.toml")), settings);
    }
    const again = await ldm([
      "train",
      "autoencoder",
      "-o",
      run,
      "--resume",
      "--set",
      "steps=3",
      "--json",
    ]);
    assert.equal(again.code, 0, again.stderr);
    const events = again.stdout.trim().split("\n").map((line) => JSON.parse(line));
    const [planned, resumed, step, ...rest] = events;
    assert.deepEqual([planned.event, resumed.event], ["planned", "resumed"]);
    assert.deepEqual(rest.map(({ event }) => event), ["checkpoint", "saved"]);
    assert.equal(step.step, 3);
    const { frozen, trained, step: each } = planned.memory;
    assert.equal(step.planned_mib, Math.ceil((frozen + trained + each) / 2 ** 20));
    assert.equal(step.memory_mib, step.planned_mib);
    assert.match(made.stderr, /\d+ MiB on the device: \d+ of what stays as it is, \d+ of what/);
    const vae = join(run, "vae");
    const latents = join(folder, "fox.safetensors");
    const fox = join(FIXTURES, "pictures", "fox.png");
    const encoded = await ldm(["encode", fox, "--vae", vae, "-o", latents]);
    assert.equal(encoded.code, 0, encoded.stderr);
  });
});

Deno.test("ldm train says in a sentence what it cannot do", async () => {
  await inFolder(async (folder) => {
    const cases: [args: string[], code: number, sentence: RegExp][] = [
      [["train"], 2, /missing required argument/],
      [["train", "cat"], 2, /Cannot train "cat": one of autoencoder, diffusion, lora was needed/],
      [["train", "autoencoder", "--set", "lrr=1"], 2, /there is no lrr; did you mean lr\?/],
      [["train", "autoencoder", "-o", "run"], 2, /data\.path/],
      [
        ["train", "autoencoder", "-o", "run", "--data", "none"],
        1,
        /Cannot read the data set "none"/,
      ],
      [["train", "autoencoder", "missing.toml"], 1, /Cannot read the settings "missing.toml"/],
    ];
    for (const [args, code, sentence] of cases) {
      const { code: actual, stderr } = await ldm(args, { cwd: folder });
      assert.match(stderr, sentence, args.join(" "));
      assert.equal(actual, code, `${args.join(" ")}: ${stderr}`);
      assert.equal(stderr.trim().split("\n").length, 1);
    }
    await Deno.mkdir(join(folder, "data"));
    await Deno.copyFile(join(FIXTURES, "pictures", "fox.png"), join(folder, "data", "fox.png"));
    await Deno.writeTextFile(join(folder, "data", "text.png"), "no picture");
    const lost = await ldm(
      ["train", "autoencoder", ...SMALL, "-o", "run", "--data", "data", "--set", "memory_mib=1"],
      { cwd: folder },
    );
    assert.equal(lost.stderr.match(/text\.png/g)?.length, 1, lost.stderr); // though two passes meet it
    await Deno.remove(join(folder, "data"), { recursive: true });
    const little = [...SMALL, "-o", "run", "--set", "memory_mib=1"];
    const refused = await ldm(["train", "autoencoder", ...little], { cwd: folder });
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /\nldm: Cannot .*memory budget is 1 MiB[^\n]*\n$/);
    assert.deepEqual(names(folder), []);
    const printed = await ldm(["train", "autoencoder", ...SMALL, "-o", "x", "--print-config"]);
    assert.match(printed.stdout, /^kind = "autoencoder"\n/);
    assert.match(printed.stdout, /\nf = 2/);
    const from = join(FIXTURES, "tiny/sd1");
    for (const [kind, line] of [["autoencoder", "f = 4 #"], ["diffusion", "context = 32 #"]]) {
      const words = ["--data", "x", "-o", "x", "--set", `${kind}.from=${from}`, "--print-config"];
      const { stdout } = await ldm(["train", kind, ...words]);
      assert.ok(stdout.includes(`\n${line}`), stdout);
    }
  });
});

for (
  const [who, signal] of [["Ctrl-C", "SIGINT"], [
    "a cluster that asks for its machine",
    "SIGTERM",
  ]] as const
) {
  Deno.test(`${who} ends a training run with a checkpoint and code 130`, async () => {
    await inFolder(async (folder) => {
      const run = join(folder, "run");
      const args = ["train", "autoencoder", ...SMALL, "--set", "steps=100000", "-o", run, "--json"];
      const process = start(args, folder);
      const decoder = new TextDecoder();
      let told = "";
      let interrupted = false;
      for await (const chunk of process.stdout) {
        told += decoder.decode(chunk, { stream: true });
        if (!interrupted && told.includes('"event":"step"')) {
          process.kill(signal);
          interrupted = true;
        }
      }
      const { code } = await process.status;
      assert.equal(code, 130);
      const last = told.trim().split("\n").at(-1) ?? "";
      const { event, step } = JSON.parse(last);
      assert.equal(event, "stopped");
      assert.deepEqual(names(join(run, "checkpoints")), [String(step)]);
      assert.deepEqual(names(join(run, "checkpoints", String(step))), ["state.safetensors"]);
    });
  });
}
