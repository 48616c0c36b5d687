import { deepEqual, equal, match, ok } from "node:assert/strict";
import { adviceOn, type SystemFacts } from "../../lib/cli/doctor.ts";
import { knownAnswers } from "../../lib/engine/known_answers.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { ldm } from "./ldm.ts";

Deno.test("ldm doctor tells the adapter and finds every known answer right", async () => {
  const { code, stdout, stderr } = await ldm(["doctor"]);
  deepEqual([code, stderr], [0, ""]);
  match(stdout, /^adapter +\S.*\ndriver +\S/);
  match(stdout, /^feature +shader-f16: (yes|no) /m);
  match(stdout, /^limit +maxStorageBufferBindingSize: \d+ MiB$/m);
  match(stdout, /^kernels +those for (software devices|GPUs): /m);
  match(stdout, /^tuned +(\d+ choices?, which --tuned uses|The tuned table .* is not used: .*)$/m);
  match(stdout, /^answers +\d+ known answers are right \(.+\)\n(next +`ldm .*\n)+$/m);
  const json = (await ldm(["doctor", "--json"])).stdout.trimEnd().split("\n")
    .map((line) => JSON.parse(line));
  equal(json[0].event, "adapter");
  equal(json[1].event, "device");
  const tests = json.filter(({ event }) => event === "test");
  equal(tests.length, tests[0].of);
  deepEqual(json.at(-1), { event: "done", tests: tests.length });
});

Deno.test("knownAnswers tells a device that fails as wrong answers", async () => {
  await using device = await openDevice();
  device.gpu.destroy();
  const answers = await Array.fromAsync(knownAnswers(device));
  ok(answers.length > 10);
  ok(answers.every(({ error }) => error !== undefined));
});

Deno.test("knownAnswers tries every variant on a GPU", async () => {
  const pipelines = { software: 0, gpu: 0 };
  for (const kind of ["software", "gpu"] as const) {
    await using device = await openDevice({ kind });
    for await (const { name, error } of knownAnswers(device)) {
      equal(error, undefined, `${kind}: ${name}`);
      if (name === "product with few rows") break; // the others take long to compile here
    }
    pipelines[kind] = device.pipelineCount;
  }
  ok(pipelines.gpu >= pipelines.software + 8, JSON.stringify(pipelines));
});

Deno.test("adviceOn says what keeps a GPU's driver from answering", () => {
  const none = { nvidia: undefined, renderNode: undefined };
  deepEqual(adviceOn(false, { ...none, nvidia: "550.54" }), []);
  const advice = (facts: Partial<SystemFacts>) => adviceOn(true, { ...none, ...facts }).join();
  match(advice({}), /^this driver computes on the CPU: if this machine has a GPU, install its/);
  match(advice({ nvidia: "" }), /NVIDIA GPU .* container with NVIDIA_DRIVER_CAPABILITIES=all$/);
  match(advice({ renderNode: "/dev/dri/renderD128" }), /renderD128.*group render/);
});
