/** What A1111 and ComfyUI make of some 300 prompts, from fixtures/make/prompts.py. */

type Pair = readonly [text: string, number: number];

export interface PromptCase {
  readonly prompt: string;
  /** [text, weight], the parts between BREAKs. */
  readonly a1111: readonly (readonly Pair[])[];
  readonly comfy: readonly Pair[];
  readonly and: readonly Pair[];
  readonly schedule: readonly (readonly [until: number, text: string])[];
  /** Token ids between start and end, and the weights that are not 1 by their index. */
  readonly chunks: Readonly<
    Record<
      "a1111" | "comfy",
      readonly { readonly ids: readonly number[]; readonly weights: Record<string, number> }[]
    >
  >;
}

const file = new URL("../../fixtures/goldens/prompts.json", import.meta.url);
const golden: { readonly steps: number; readonly cases: readonly PromptCase[] } = JSON.parse(
  await Deno.readTextFile(file),
);

/** The number of steps that the schedules are for. */
export const STEPS = golden.steps;
export const CASES = golden.cases;
