import { deepEqual, equal, match } from "node:assert/strict";
import { join } from "node:path";
import { describeRun, isRunFolder } from "../../lib/cli/inspect_run.ts";
import { inFolder } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

/** A first stage of seconds, with a checkpoint after each of three steps. */
const SMALL = [
  ...["size=16", "batch=1", "f=2", "autoencoder.width=8", "autoencoder.groups=4"],
  ...["autoencoder.layers=1", "discriminator.weight=0", "sample.every=3", "sample.count=1"],
  ...["steps=3", "save_every=1", "keep=0"],
].flatMap((setting) => ["--set", setting]);

Deno.test("ldm inspect tells how a training run goes, and what of it is damaged", () =>
  inFolder(async (cwd) => {
    const run = join(cwd, "run");
    const data = join(FIXTURES, "pictures");
    const made = await ldm(["train", "autoencoder", "--data", data, "-o", "run", ...SMALL], {
      cwd,
    });
    equal(made.code, 0, made.stderr);
    const told = await ldm(["inspect", "run"], { cwd });
    equal(told.code, 0, told.stderr);
    match(told.stdout, /^run: a run of `ldm train autoencoder`, 3 of 3 steps, epoch 0\n/);
    match(told.stdout, /\nsettings of its own \(\d+\):\n {2}run\.folder = "run"\n/);
    match(told.stdout, /\n {2}autoencoder\.f = 2\n/);
    match(told.stdout, /\nloss: [\d.]+, the mean of steps 1 to 3 \(pixel [^\n]*\)\npace: /);
    match(
      told.stdout,
      /\ncheckpoints: after step 1, 2, 3\ngoes on with: ldm train autoencoder -o run --resume --set run\.steps=N\n/,
    );
    match(
      told.stdout,
      /\nplot: run\/loss\.svg\nsamples: run\/samples\/00000003\.png\nmodel: run\/vae\n/,
    );
    match(told.stdout, /\nrun\/vae: one component\n {2}vae /);

    const json = await ldm(["inspect", "run", "--json"], { cwd });
    const { event, kind, trains, step, last, checkpoints, resumable, problems, made: model } = JSON
      .parse(json.stdout);
    deepEqual([event, kind, trains, step, checkpoints], ["inspect", "run", "autoencoder", 3, [
      ...[1, 2, 3],
    ]]);
    deepEqual([last.from, last.to, resumable, problems, model.kind], [1, 3, 3, [], "checkpoint"]);

    // as a power cut may leave it: a line, a state and a checkpoint's folder that are not whole
    const log = join(run, "log.ndjson");
    const text = await Deno.readTextFile(log);
    await Deno.writeTextFile(log, text.slice(0, -20));
    const state = join(run, "checkpoints", "3", "state.safetensors");
    await Deno.truncate(state, (await Deno.stat(state)).size - 9);
    await Deno.remove(join(run, "checkpoints", "1", "state.safetensors"));
    const cut = (await describeRun(run)).lines.join("\n");
    match(cut, /2 of 3 steps/);
    match(cut, /\ncheckpoints: after step 2\ngoes on with: [^\n]* --resume\n/);
    match(cut, /\nnot as it should be: 1 line of the log cannot be read\n/);
    match(cut, /\nnot as it should be: [^\n]*\/1\/state\.safetensors": there is no such file/);
    match(cut, /\nnot as it should be: [^\n]*\/3\/state\.safetensors/);

    await Deno.remove(join(run, "checkpoints"), { recursive: true });
    await Deno.writeTextFile(join(run, "config.toml"), 'kind = "autoencoder"\n[run]\nsteps = "x"');
    const { lines, model: unknown } = await describeRun(run);
    equal(lines[0], `${run}: a training run, 2 steps, epoch 0`);
    match(lines.join("\n"), /\ncheckpoints: none, so that it cannot be resumed\n/);
    match(lines.join("\n"), /\nnot as it should be: Cannot use [^\n]* run\.steps is "x"/);
    equal(unknown, undefined);
    await Deno.remove(log);
    equal(await isRunFolder(run), false);
    equal(await isRunFolder(join(FIXTURES, "tiny/sd1")), false);
  }));
