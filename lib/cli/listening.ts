/** Those who are told what happens while pictures are made: a person on stderr, whoever reads stdout. */

import { counted } from "../base/counted.ts";
import type { Settings } from "../pipelines/events.ts";
import { describeMemory, seconds } from "./loading.ts";
import type { ReportOptions } from "./options.ts";
import { type Pace, paceOf, rate } from "./pace.ts";
import { duration, type Progress } from "./progress.ts";
import type { RunEvent } from "./saving.ts";
import { printJson, printLine } from "./terminal.ts";

/** Hears of every event, in order; the work waits until it has. What it throws ends the work. */
export type Listener = (event: RunEvent) => Promise<void> | void;

/** Tells every event to each listener in turn. */
export async function listenTo(
  events: AsyncIterable<RunEvent>,
  listeners: readonly Listener[],
): Promise<void> {
  for await (const event of events) {
    for (const listener of listeners) await listener(event);
  }
}

/**
 * Progress to a person: the plan, steps and the time they take. A run of several requests has one `pace`, and tells the plan
 * of each only to those who want details.
 */
function personListener(
  progress: Progress,
  pace: Pace = paceOf(),
  isOneOfSeveral = false,
): Listener {
  const tellPlan = isOneOfSeveral ? progress.detail : progress.say;
  let since = performance.now(); // when the current picture began
  let sampled = since; // when its last step was done
  let steps = 0;
  return (event) => {
    const now = performance.now();
    switch (event.kind) {
      case "warning":
        return progress.warn(event.message);
      case "plan": {
        const { settings, seeds, memory } = event;
        steps = settings.steps;
        pace.plan(seeds.length, steps, now);
        tellPlan(summary(settings, seeds));
        for (const line of describeMemory(memory)) progress.detail(line);
        return progress.show("reading the prompt", 0, settings.steps);
      }
      case "step": {
        const { index, of } = event;
        pace.step(index, of, now);
        steps = of;
        sampled = now;
        const { step = 0, left = 0, picture, pictures } = pace.reckon();
        const which = pictures > 1 ? [`picture ${picture} of ${pictures}`] : [];
        const notes = [`${index + 1}/${of}`, `${duration(left)} left`, rate(step), ...which];
        return progress.show("sampling", index + 1, of, ...notes);
      }
      case "decode":
        return progress.show("decoding", event.done, event.of);
      case "saved": {
        const { picture, pictures, step = 0 } = pace.reckon();
        pace.saved(now);
        const which = pictures > 1 ? `picture ${picture} of ${pictures}` : "picture";
        const sampling = `${counted(steps, "step")} in ${duration(sampled - since)} (${
          rate(step)
        })`;
        const line = `${which}, seed ${event.seed}: ${sampling}, ${duration(now - since)} in all`;
        progress.clear();
        progress.plain(line);
        since = now;
        return;
      }
      case "image":
      case "preview":
      case "done":
        return;
      default:
        return event satisfies never;
    }
  };
}

/** Saved paths to stdout, a line each. */
const pathListener: Listener = async (event) => {
  if (event.kind === "saved" && event.path !== "-") await printLine(event.path);
};

/** Which request of several events are about, for whoever reads them. */
export type About = Readonly<Record<string, number>>;

/**
 * Events to stdout as JSON, a line each. `model` is the checkpoint's path. One request of several says what it is `about`,
 * and ends with an event "item".
 */
function jsonListener(model: string, about?: About): Listener {
  const start = performance.now();
  let since = start; // when the current picture began
  let saved = 0;
  const elapsed = () => seconds(performance.now() - since);
  const tell = ({ event, ...fields }: Readonly<Record<string, unknown>>) =>
    printJson({ event, ...about, ...fields });
  return async (event) => {
    switch (event.kind) {
      case "warning":
        return await tell({ event: "warning", message: event.message });
      case "plan": {
        const { settings, seeds, sigmas, timesteps, memory } = event;
        return await tell({ event: "plan", model, ...settings, seeds, sigmas, timesteps, memory });
      }
      case "step": {
        const { image, index, of, sigma } = event;
        return await tell({ event: "step", image, index, of, sigma, seconds: elapsed() });
      }
      case "saved": {
        const { path, index, seed } = event;
        await tell({ event: "saved", path, index, seed, seconds: elapsed() });
        since = performance.now();
        saved += 1;
        return;
      }
      case "preview": {
        const { kind, ...fields } = event;
        return await tell({ event: kind, ...fields });
      }
      case "done":
        return await tell({
          event: about === undefined ? "done" : "item",
          images: saved,
          seconds: seconds(performance.now() - start),
        });
      case "decode":
      case "image":
        return;
      default:
        return event satisfies never;
    }
  };
}

/** The usual listeners, by options. */
export function listenersOf(
  { json }: ReportOptions,
  model: string,
  progress: Progress,
  pace?: Pace,
  about?: About,
): Listener[] {
  return [
    personListener(progress, pace, about !== undefined),
    json ? jsonListener(model, about) : pathListener,
  ];
}

/** "512×512, 20 steps of dpmpp_2m karras, cfg 7, seed 42". */
function summary(
  { width, height, steps, sampler, schedule, cfgScale }: Settings,
  seeds: readonly number[],
) {
  const seed = seeds.length > 1 ? `seeds ${seeds[0]} to ${seeds.at(-1)}` : `seed ${seeds[0]}`;
  const walk = schedule === undefined ? sampler : `${sampler} ${schedule}`;
  return `${width}×${height}, ${counted(steps, "step")} of ${walk}, cfg ${cfgScale}, ${seed}`;
}
