import assert from "node:assert/strict";
import { FormatError, UsageError } from "../../lib/base/errors.ts";
import { SAMPLER_NAMES, SCHEDULE_NAMES } from "../../lib/diffusion/names.ts";
import {
  parseSchedulerConfig,
  planSampling,
  type SchedulerConfig,
} from "../../lib/diffusion/plan.ts";

/** scheduler_config.json of Stable Diffusion 1.5. */
const SD1 = {
  _class_name: "PNDMScheduler",
  _diffusers_version: "0.6.0",
  beta_end: 0.012,
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  num_train_timesteps: 1000,
  set_alpha_to_one: false,
  skip_prk_steps: true,
  steps_offset: 1,
  trained_betas: null,
  clip_sample: false,
};
const scheduler = parseSchedulerConfig(SD1);
const ZERO_SNR: SchedulerConfig = {
  ...scheduler,
  prediction: "v_prediction",
  rescaleZeroSnr: true,
  spacing: "trailing",
};

Deno.test("planSampling falls strictly to the end for every sampler, named schedule and number of steps", () => {
  const counts = [1, 2, 3, 4, 5, 7, 8, 10, 13, 20, 25, 30, 41, 50, 61, 77, 100, 150, 250, 333, 499];
  for (const sampler of SAMPLER_NAMES) {
    for (const schedule of SCHEDULE_NAMES) {
      for (const config of [scheduler, ZERO_SNR]) {
        for (const steps of counts) {
          const plan = planSampling({ sampler, schedule, steps, scheduler: config });
          const label = `${sampler} ${schedule} ${steps}`;
          const again = sampler === "pndm" && steps > 1 ? 1 : 0;
          assert.equal(plan.intervals.length, steps + again, label);
          const starts = plan.sigmas.slice(0, -1).filter((_, i) => !(again && i === 1));
          starts.slice(1).forEach((sigma, i) =>
            assert.ok(sigma < starts[i], `${label}, sigma ${i}`)
          );
          for (const { from, to } of plan.intervals) {
            assert.ok(to.sigma / to.alpha < from.sigma / from.alpha, label);
          }
          // ddim and pndm end, as the checkpoint says, at the noise of timestep 0, AUTOMATIC1111's kl_optimal there as well
          const endsAbove = schedule === "kl_optimal" ||
            ((sampler === "ddim" || sampler === "pndm") &&
              (schedule === "leading" || schedule === "trailing"));
          const end = plan.sigmas[plan.sigmas.length - 1];
          assert.ok(endsAbove ? end > 0 && end < 0.05 : end === 0, `${label} ends at ${end}`);
          assert.ok(plan.timesteps.every((t) => t >= 0 && t <= 999), label);
        }
      }
    }
  }
});

Deno.test("planSampling begins at unit variance in VP, at σ in VE, and at √(1 + σ²) with leading timesteps", () => {
  const plan = (request: Partial<Parameters<typeof planSampling>[0]>) =>
    planSampling({ sampler: "euler", steps: 10, scheduler, ...request });
  assert.equal(plan({}).initialScale.toFixed(4), "14.6146");
  assert.equal(plan({ schedule: "karras" }).initialScale.toFixed(4), "14.6146");
  assert.equal(
    plan({ sampler: "dpmpp_2m", schedule: "karras" }).initialScale.toFixed(4),
    "14.6146",
  );
  const leading = plan({ schedule: "leading" });
  assert.equal(leading.timesteps[0], 901);
  assert.equal(leading.initialScale, Math.hypot(1, leading.sigmas[0]));
  for (const sampler of ["dpmpp_2m", "ddim", "pndm", "unipc", "lcm"] as const) {
    assert.equal(plan({ sampler }).initialScale.toFixed(6), "1.000000", sampler);
  }
});

Deno.test("planSampling names the σ that diffusers takes for Karras and exponential when they span all timesteps", () => {
  for (const sigmas of ["karras", "exponential"] as const) {
    const own = planSampling({ sampler: "euler", steps: 12, scheduler: { ...scheduler, sigmas } });
    const named = planSampling({ sampler: "euler", schedule: sigmas, steps: 12, scheduler });
    assert.deepEqual(named.sigmas, own.sigmas);
    assert.deepEqual(named.timesteps, own.timesteps);
    assert.equal(named.initialScale, own.initialScale);
  }
});

Deno.test("planSampling takes dpm2's σ as AUTOMATIC1111 does: one more, without the last but one", () => {
  const euler = planSampling({ sampler: "euler", schedule: "karras", steps: 11, scheduler });
  const dpm2 = planSampling({ sampler: "dpm2", schedule: "karras", steps: 10, scheduler });
  assert.deepEqual(dpm2.sigmas, [...euler.sigmas.slice(0, 10), 0]);
});

Deno.test("planSampling rescales to zero terminal SNR where diffusers does, and for every named list", () => {
  const first = (sampler: (typeof SAMPLER_NAMES)[number], schedule?: "karras") =>
    planSampling({ sampler, schedule, steps: 5, scheduler: ZERO_SNR }).sigmas[0];
  assert.equal(first("ddim"), Infinity);
  assert.equal(first("lcm"), Infinity);
  for (const sampler of ["euler", "euler_a", "dpmpp_2m", "unipc"] as const) {
    assert.ok(Math.abs(first(sampler) - 4096) < 1, sampler);
  }
  for (const sampler of ["heun", "lms", "pndm"] as const) assert.ok(first(sampler) < 15, sampler);
  for (const sampler of SAMPLER_NAMES) {
    assert.ok(Math.abs(first(sampler, "karras") - 4096) < 1, sampler);
  }
});

Deno.test("planSampling refuses what cannot be sampled", () => {
  const plan = (steps: number, more: Partial<Parameters<typeof planSampling>[0]> = {}) => () =>
    planSampling({ sampler: "euler", steps, scheduler, ...more });
  for (const steps of [0, -1, 1.5, NaN, 1001]) assert.throws(plan(steps), UsageError);
  assert.throws(plan(51, { sampler: "lcm" }), /in 51 steps with lcm: .* at most 50/);
  assert.throws(plan(1000, { sampler: "dpmpp_2m" }), /not so many different noise levels/);
  assert.throws(
    plan(1000, { sampler: "ddim", schedule: "leading" }),
    /timestep 1000 does not exist/,
  );
  const epsilon = { ...ZERO_SNR, prediction: "epsilon" } as const;
  assert.throws(
    plan(5, { sampler: "ddim", scheduler: epsilon }),
    /predicts noise .* v_prediction was needed/,
  );
  plan(1000, { schedule: "discrete" })();
});

Deno.test("parseSchedulerConfig reads what a checkpoint says, and leaves out what it does not", () => {
  const given = Object.entries(scheduler).filter(([, value]) => value !== undefined);
  assert.deepEqual(Object.fromEntries(given), {
    sampler: "pndm",
    trainTimesteps: 1000,
    betaStart: 0.00085,
    betaEnd: 0.012,
    betaSchedule: "scaled_linear",
    stepsOffset: 1,
    setAlphaToOne: false,
    unfollowed: [],
  });
  const more = parseSchedulerConfig({
    _class_name: "DPMSolverMultistepScheduler",
    algorithm_type: "sde-dpmsolver++",
    use_karras_sigmas: true,
    use_exponential_sigmas: false,
    prediction_type: "v_prediction",
    timestep_spacing: "trailing",
    final_sigmas_type: "sigma_min",
    trained_betas: [0.1, 0.2],
    solver_order: 3,
    thresholding: false,
  });
  assert.equal(more.sampler, "dpmpp_2m_sde");
  assert.equal(more.sigmas, "karras");
  assert.equal(more.trainTimesteps, 2);
  assert.deepEqual(more.unfollowed, ["solver_order: 3"]);
  assert.equal(parseSchedulerConfig({ _class_name: "DDPMScheduler" }).sampler, undefined);
});

Deno.test("parseSchedulerConfig refuses values that cannot be, by key", () => {
  for (
    const [json, message] of [
      [[], /a JSON object was needed/],
      [null, /a JSON object was needed/],
      [
        { prediction_type: "flow_prediction" },
        /prediction_type is "flow_prediction", one of epsilon/,
      ],
      [{ beta_schedule: "exp" }, /beta_schedule is "exp"/],
      [{ beta_start: "0.1" }, /beta_start is "0.1", a number was needed/],
      [{ set_alpha_to_one: 1 }, /set_alpha_to_one is 1, true or false was needed/],
      [{ trained_betas: [0.1, "x"] }, /trained_betas .* a list of numbers was needed/],
    ] as const
  ) {
    assert.throws(() => parseSchedulerConfig(json), (error) => {
      assert.ok(error instanceof FormatError);
      assert.match(error.message, message);
      return true;
    });
  }
});
