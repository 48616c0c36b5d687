/**
 * What a prompt asks for beside its words, in AUTOMATIC1111's writing (modules/extra_networks.py): `<lora:name:0.8>`. It is
 * cut out before the words are read.
 */

import { pythonFloat } from "./python.ts";

/** One tag. */
export interface Network {
  /** "lora", "lyco", "hypernet" … */
  readonly kind: string;
  readonly name: string;
  /** How much of it; 1 where nothing is written. */
  readonly multiplier: number;
  /** Of its part for text encoders. */
  readonly textMultiplier: number;
}

const TAG = /<(\w+):([^>]+)>/g;

/** The prompt without its tags, and what they ask for. A number that is none counts as 1. */
export function networksOf(prompt: string): { text: string; networks: readonly Network[] } {
  const networks = [...prompt.matchAll(TAG)].map(([, kind, said]): Network => {
    const named = new Map<string, string>();
    const placed: string[] = [];
    for (const part of said.split(":")) {
      const [key, value] = part.split("=", 2);
      if (value === undefined) placed.push(part);
      else named.set(key, value);
    }
    const [name = "", first, second] = placed;
    const number = (text: string | undefined) => text === undefined ? undefined : pythonFloat(text);
    const textMultiplier = number(named.get("te") ?? first) ?? 1;
    const multiplier = number(named.get("unet") ?? second) ?? textMultiplier;
    return { kind, name, multiplier, textMultiplier };
  });
  return { text: prompt.replaceAll(TAG, ""), networks };
}
