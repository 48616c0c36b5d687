/**
 * Several prompts in one (Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models"), in
 * AUTOMATIC1111's writing: `a cat AND a dog :1.2`. The guided prediction is uncond + Σ weight · cfg · (condᵢ − uncond).
 */

import { pythonFloat, SPACE, splitAtWord, trimEnd } from "./python.ts";

/** One of the prompts. */
export interface PromptPart {
  /** What it says. */
  readonly text: string;
  /** How much it counts; 1 where nothing is written. */
  readonly weight: number;
}

/** A colon and a number, where nothing follows. */
const WEIGHT = new RegExp(
  String.raw`:${SPACE}*([-+]?(?:\p{Nd}+\.?|\p{Nd}*\.\p{Nd}+))$`,
  "u",
);

/**
 * The parts of a prompt, at least one, before their schedules are read. A1111 does not look for AND in a negative prompt.
 */
export function composePrompt(text: string): PromptPart[] {
  return splitAtWord(text, "AND").map((part) => {
    const trimmed = trimEnd(part);
    const colon = trimmed.lastIndexOf(":");
    const number = colon < 0 ? null : WEIGHT.exec(trimmed.slice(colon));
    const weight = number === null ? undefined : pythonFloat(number[1]);
    return weight === undefined
      ? { text: trimmed, weight: 1 }
      : { text: trimEnd(trimmed.slice(0, colon)), weight };
  });
}
