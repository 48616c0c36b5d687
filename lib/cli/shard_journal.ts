/** Where a batch, or a shard of one, writes down what it has done. */

import { basename, extname, join } from "node:path";
import { Journal } from "../formats/journal.ts";
import type { Shard } from "./shard.ts";

/** "prompts", and for a shard "prompts.2-of-8". */
export function stemOf(name: string, { index, of }: Shard): string {
  const stem = basename(name, extname(name));
  return of === 1 ? stem : `${stem}.${index}-of-${of}`;
}

const JOURNAL = ".journal.jsonl";

/** The journal of a batch or of its shard. What other shards have done, of however many, counts as well. */
export async function openJournal(folder: string, stem: string, name: string): Promise<Journal> {
  const whole = basename(name, extname(name));
  const own = stem + JOURNAL;
  const others: string[] = [];
  for await (const { name } of Deno.readDir(folder)) {
    const isOurs = name.startsWith(whole) && name.endsWith(JOURNAL) && name !== own;
    const between = name.slice(whole.length, -JOURNAL.length);
    if (isOurs && /^(\.\d+-of-\d+)?$/.test(between)) others.push(join(folder, name));
  }
  return await Journal.open(join(folder, own), name, others.sort());
}
