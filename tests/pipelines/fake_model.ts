/** A model without a device: arithmetic that tests can follow, and a record of what it was asked. */

import type {
  Condition,
  DenoiserRequest,
  FloatPicture,
  Latents,
  Model,
  Run,
} from "../../lib/engine/model.ts";

/** What a fake model was asked, in order. */
export interface Calls {
  /** Token ids of the first text encoder, one entry a prompt. */
  readonly prompts: Int32Array[];
  readonly clipSkips: number[];
  /** How many prompts each call of encodeText was given. */
  readonly encoded: number[];
  readonly denoisers: DenoiserRequest[];
  readonly runs: Run[];
  readonly predictions: { readonly timestep: number; readonly conditions: readonly Condition[] }[];
  disposed: number;
}

/** Tiles that decoding reports. */
const TILES = 3;

/**
 * Predicts x times the first number of the condition's text states, which is the sum of a chunk's ids over 10⁷;
 * decodes a latent's first channels to f×f pixels each.
 */
export function fakeModel(overrides: Partial<Model> = {}): { model: Model; calls: Calls } {
  const calls: Calls = {
    prompts: [],
    clipSkips: [],
    encoded: [],
    denoisers: [],
    runs: [],
    predictions: [],
    disposed: 0,
  };
  const factor = overrides.factor ?? 8;
  const channels = overrides.latentChannels ?? 4;
  const model: Model = {
    factor,
    latentChannels: channels,
    path: "fake",
    family: "sd1",
    variant: "base",
    defaults: {
      steps: 3,
      cfgScale: 7,
      sampler: "euler",
      schedule: "karras",
      width: 2 * factor,
      height: 3 * factor,
    },
    scheduler: { _class_name: "EulerDiscreteScheduler", beta_schedule: "scaled_linear" },
    conditioner: undefined,
    beside: undefined,
    toldTokens: 0,
    readsText: true,
    encodeTold: () => Promise.resolve([]),
    tokenizers: [undefined],
    padTokens: [49407],
    zeroEmptyPrompt: false,
    guidanceWidth: undefined,
    wantsSizes: false,
    warnings: [],
    fileBytes: 0,
    textWidths: [2],
    prepare(run) {
      calls.runs.push(run);
      return { stages: [], peak: 0, turns: false, keeps: run.keeps };
    },
    encodeText(prompts, clipSkip = 1) {
      calls.prompts.push(...prompts.map(([ids]) => ids));
      calls.clipSkips.push(clipSkip);
      calls.encoded.push(prompts.length);
      return Promise.resolve(prompts.map(([ids]) => ({
        hidden: Float32Array.from(
          { length: ids.length * 2 },
          (_, i) => i === 0 ? ids.reduce((a, b) => a + b, 0) / 1e7 : ids[i >> 1] / 1e5 + i % 2,
        ),
        tokens: ids.length,
        pooled: Float32Array.of(1, ids[1]),
      })));
    },
    denoiser: (request) => ({
      predict(x, timestep, conditions) {
        if (calls.denoisers.at(-1) !== request) calls.denoisers.push(request);
        calls.predictions.push({ timestep, conditions });
        return Promise.resolve(
          conditions.map(({ text }) => Float32Array.from(x, (v) => v * text.hidden[0])),
        );
      },
      [Symbol.dispose]() {
        calls.disposed += 1;
      },
    }),
    async decodeImage(latents, { progress } = {}) {
      for (let tile = 1; tile <= TILES; tile++) {
        await Promise.resolve();
        progress?.(tile, TILES);
      }
      return enlarged(latents, factor);
    },
    useLoras: () => Promise.resolve([]),
    encodeImage: ({ height, width, data }) =>
      Promise.resolve({
        data: Float32Array.of(...data.slice(0, 3)),
        channels: 3,
        height: height / factor,
        width: width / factor,
      }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
    ...overrides,
  };
  return { model, calls };
}

function enlarged({ data, height, width }: Latents, factor: number): FloatPicture {
  const picture = {
    data: new Float32Array(height * width * factor * factor * 3),
    height: height * factor,
    width: width * factor,
  };
  for (let i = 0; i < picture.data.length; i++) {
    const [y, x, c] = [Math.floor(i / 3 / picture.width), Math.floor(i / 3) % picture.width, i % 3];
    const at = Math.floor(y / factor) * width + Math.floor(x / factor);
    picture.data[i] = data[c * height * width + at];
  }
  return picture;
}
