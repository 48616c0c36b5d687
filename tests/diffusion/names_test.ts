import assert from "node:assert/strict";
import { UsageError } from "../../lib/base/errors.ts";
import {
  findSampler,
  parseSampler,
  parseSchedule,
  SAMPLER_LABELS,
  SAMPLER_NAMES,
  SCHEDULE_LABELS,
  SCHEDULE_NAMES,
} from "../../lib/diffusion/names.ts";

Deno.test("parseSampler reads every tool's spelling", () => {
  // conventions.md, section 7: AUTOMATIC1111, ComfyUI, stable-diffusion.cpp, diffusers
  const spellings = {
    euler: ["Euler", "euler", "EulerDiscreteScheduler", "EulerDiscrete", "k_euler"],
    euler_a: [
      "Euler a",
      "euler_ancestral",
      "euler_a",
      "EulerAncestralDiscreteScheduler",
      "EULER-A",
    ],
    heun: ["Heun", "heun", "HeunDiscreteScheduler"],
    dpm2: ["DPM2", "dpm_2", "dpm2", "KDPM2DiscreteScheduler", "KDPM2"],
    dpmpp_2m: ["DPM++ 2M", "dpmpp_2m", "dpm++2m", "DPMSolverMultistepScheduler", "dpm++ 2m"],
    dpmpp_2m_sde: [
      "DPM++ 2M SDE",
      "dpmpp_2m_sde",
      "dpmpp_2m_sde_gpu",
      "dpm++2m_sde",
      "sde-dpmsolver++",
    ],
    ddim: ["DDIM", "ddim", "DDIMScheduler"],
    pndm: ["PLMS", "PNDM", "pndm", "PNDMScheduler"],
    lms: ["LMS", "lms", "LMSDiscreteScheduler"],
    unipc: ["UniPC", "uni_pc", "uni_pc_bh2", "UniPCMultistepScheduler", "unipc"],
    lcm: ["LCM", "lcm", "LCMScheduler"],
  };
  for (const [sampler, each] of Object.entries(spellings)) {
    for (const spelling of each) assert.deepEqual(parseSampler(spelling), { sampler }, spelling);
  }
});

Deno.test("parseSampler reads a schedule at the end of the sampler's name", () => {
  const expected = {
    "DPM++ 2M Karras": { sampler: "dpmpp_2m", schedule: "karras" },
    "DPM++ 2M SDE Karras": { sampler: "dpmpp_2m_sde", schedule: "karras" },
    "DPM++ 2M SDE Exponential": { sampler: "dpmpp_2m_sde", schedule: "exponential" },
    "DPM2 Karras": { sampler: "dpm2", schedule: "karras" },
    "LMS Karras": { sampler: "lms", schedule: "karras" },
    "euler_a discrete": { sampler: "euler_a", schedule: "discrete" },
    "Euler SGM Uniform": { sampler: "euler", schedule: "sgm_uniform" },
    "ddim_trailing": { sampler: "ddim", schedule: "trailing" },
  };
  for (const [text, parsed] of Object.entries(expected)) {
    assert.deepEqual(parseSampler(text), parsed, text);
  }
});

Deno.test("parseSchedule reads every tool's spelling", () => {
  const spellings = {
    discrete: ["discrete", "normal", "Normal", "Uniform", "uniform"],
    karras: ["karras", "Karras", "use_karras_sigmas"],
    exponential: ["exponential", "Exponential"],
    sgm_uniform: ["sgm_uniform", "SGM Uniform"],
    simple: ["simple", "Simple"],
    trailing: ["trailing"],
    leading: ["leading", "ddim_uniform", "DDIM"],
  };
  for (const [schedule, each] of Object.entries(spellings)) {
    for (const spelling of each) assert.equal(parseSchedule(spelling), schedule, spelling);
  }
});

Deno.test("parseSampler and parseSchedule read the names and labels that we write", () => {
  for (const name of SAMPLER_NAMES) {
    assert.deepEqual(parseSampler(name), { sampler: name });
    assert.deepEqual(parseSampler(SAMPLER_LABELS[name]), { sampler: name });
  }
  for (const name of SCHEDULE_NAMES) {
    assert.equal(parseSchedule(name), name);
    assert.equal(parseSchedule(SCHEDULE_LABELS[name]), name);
  }
});

Deno.test("parseSampler names the nearest sampler and all of them when it knows none", () => {
  assert.throws(() => parseSampler("eulr_b"), (error) => {
    assert.ok(error instanceof UsageError);
    assert.equal(
      error.message,
      'Unknown sampler "eulr_b": did you mean "euler"? There are euler, euler_a, heun, dpm2, dpmpp_2m, ' +
        "dpmpp_2m_sde, ddim, pndm, lms, unipc, lcm",
    );
    return true;
  });
  assert.throws(
    () => parseSampler("nothing"),
    /"nothing": there are euler, /,
  );
  assert.throws(() => parseSampler("dpmpp2s"), /did you mean "dpmpp_2m"/);
  assert.throws(() => parseSampler(""), UsageError);
  assert.throws(
    () => parseSchedule("karas"),
    /Unknown schedule "karas": did you mean "karras"\? There are discrete, karras/,
  );
  assert.throws(() => parseSampler("karras"), UsageError);
});

Deno.test("findSampler gives nothing for a class that is not one of ours", () => {
  for (const name of ["DDPMScheduler", "DPMSolverSinglestepScheduler", "Scheduler", ""]) {
    assert.equal(findSampler(name), undefined, name);
  }
});
