/** `deno task record NAME … FOLDER`: trains a model and says whether it learnt what it should. Exit code 1: it did not. */

import { join } from "node:path";
import { openDevice } from "../../lib/gpu/device.ts";
import { boxes } from "./boxes.ts";
import { builtin } from "./builtin.ts";
import { emoji } from "./emoji.ts";
import { fashion } from "./fashion.ts";
import type { Figure, Recipe } from "./record.ts";

const RECORDS: Readonly<Record<string, Recipe>> = { boxes, builtin, emoji, fashion };

function usage(): string {
  const lines = Object.entries(RECORDS).map(([name, { needs }]) =>
    `  deno task record ${[name, ...needs, "FOLDER"].join(" ")}`
  );
  return `Usage:\n${lines.join("\n")}\n`;
}

function isMet({ value, least }: Figure): boolean {
  return least === undefined || value >= least;
}

function line(figure: Figure): string {
  const { what, value, least } = figure;
  const bound = least === undefined ? "" : `at least ${least}: ${isMet(figure) ? "met" : "missed"}`;
  return `| ${what} | ${Number(value.toPrecision(4))} | ${bound} |`;
}

async function main([name, ...rest]: readonly string[]): Promise<number> {
  const recipe = Object.hasOwn(RECORDS, name) ? RECORDS[name] : undefined;
  const folder = rest.at(-1);
  if (recipe === undefined || folder === undefined || rest.length !== recipe.needs.length + 1) {
    await Deno.stderr.write(new TextEncoder().encode(usage()));
    return 2;
  }
  await Deno.mkdir(folder, { recursive: true });
  const print = async (text: string) =>
    void await Deno.stdout.write(new TextEncoder().encode(`${text}\n`));
  await using device = await openDevice();
  await print(`| ${name}, ${device.name} | | |\n| --- | ---: | --- |`);
  const figures: Figure[] = [];
  for await (const figure of recipe.run(device, folder, rest.slice(0, -1))) {
    figures.push(figure);
    await print(line(figure));
  }
  await Deno.writeTextFile(join(folder, "figures.json"), JSON.stringify(figures, null, 2));
  return figures.every(isMet) ? 0 : 1;
}

Deno.exit(await main(Deno.args));
