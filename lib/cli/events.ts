/** The events of `--json`, in one place: what commands that make pictures write to stdout, one JSON object a line. */

/** What one event tells. */
interface About {
  readonly when: string;
  /** Field → what it holds. "?" after a name: not always there. */
  readonly fields: Readonly<Record<string, string>>;
}

/** Every event by its name, which stands in the field "event". `ldm help json` prints this. */
const EVENTS: Readonly<Record<string, About>> = {
  load: {
    when: "the model is opened",
    fields: {
      model: "the checkpoint's path",
      family: "sd1, sd2, sdxl …",
      device: "the adapter's name",
      bytes: "of the checkpoint that making pictures reads",
      seconds: "opening took",
    },
  },
  part: {
    when: "with -v: a part of the model is read",
    fields: { part: "its name", bytes: "read", seconds: "reading took" },
  },
  warning: { when: "something is amiss, and the work goes on", fields: { message: "a sentence" } },
  plan: {
    when: "a request begins; every setting, with defaults filled in",
    fields: {
      model: "the checkpoint's path",
      prompt: "",
      negativePrompt: "",
      "label?": "the class that was asked for",
      "boxes?": "what lies where: label, left, top, right, bottom",
      "sees?":
        "what a second picture is for: low (made large), mask (with a hole), map, or start (changed)",
      "keep?": "with a hole: whether what is around it stays to the bit",
      "maskBlur?": "with a hole: pixels by which its edge is blended; left out: 0",
      "strength?": "of a picture that is changed, or whose hole is filled: how much, from 0 to 1",
      width: "pixels",
      height: "pixels",
      steps: "",
      cfgScale: "",
      guidanceRescale: "0 is off",
      sampler: "as --sampler lists them",
      "schedule?": "left out: the checkpoint's own",
      "eta?": "left out: the sampler's own",
      clipSkip: "1 is the usual layer",
      "clipLayer?": "of the text encoder, from its last, 1; left out: the checkpoint's own",
      rng: "whose noise: cpu or cuda",
      "samplerRng?": "whose noise samplers add; left out: they go on with the first",
      batchSeeds: "each: a generator for each picture; one: one for all of a batch",
      batchCount: "pictures that the noise is drawn for, with one generator",
      weighting: "how prompts are read: a1111, comfy or none",
      rounding: "round or truncate, to 8 bits",
      zeroNegative: "whether SDXL is told zeros in place of the negative prompt",
      "match?": "the tool whose conventions were asked for",
      seeds: "one for each picture",
      sigmas: "the noise at the beginning of each step and at the end",
      timesteps: "what the network is told at each step",
      memory:
        "stages, each with bytes of its part; peak: bytes at most; turns: whether parts take turns",
    },
  },
  step: {
    when: "a step is done",
    fields: {
      image: "which picture of the request, from 0",
      index: "which step, from 0",
      of: "how many steps there are",
      sigma: "the noise that is left",
      seconds: "since the picture began",
    },
  },
  preview: {
    when: "--preview: the file is replaced",
    fields: {
      path: "the file",
      image: "which picture of the request, from 0",
      index: "after which step, from 0",
      of: "how many steps there are",
    },
  },
  saved: {
    when: "a picture is saved",
    fields: {
      path: "the file",
      index: "which picture of the request, from 0",
      seed: "",
      seconds: "since the picture began",
    },
  },
  sheet: {
    when: "--grid, --sweep: a contact sheet is saved",
    fields: { path: "the file", pictures: "on it, those that failed included" },
  },
  table: { when: "--sweep: the table is saved", fields: { path: "the file" } },
  item: {
    when: "one request of several is done",
    fields: { images: "that were saved", seconds: "since it began" },
  },
  skipped: { when: "batch: a request is done already", fields: { paths: "its files" } },
  error: {
    when: "the work fails, or one request of several",
    fields: { message: "a sentence", "code?": "the exit code, where the program ends" },
  },
  done: {
    when: "everything is done",
    fields: {
      images: "that were saved",
      seconds: "since the beginning",
      "done?": "batch: requests that are done",
      "failed?": "of several requests, those that failed",
      "skipped?": "batch: requests that were done before",
    },
  },
};

/** Fields of every event about one request of several. */
const OF_SEVERAL: Readonly<Record<string, string>> = {
  "item?": "batch: which request, from 0",
  "line?": "batch: its line in the file",
  "cell?": "sweep: which combination, from 0",
};

/** The names of an event's fields: those that are always there, and those that may be. */
export function fieldsOf(
  event: string,
): { always: readonly string[]; sometimes: readonly string[] } {
  const named = ["event", ...Object.keys(EVENTS[event]?.fields ?? {}), ...Object.keys(OF_SEVERAL)];
  return {
    always: named.filter((name) => !name.endsWith("?")),
    sometimes: named.filter((name) => name.endsWith("?")).map((name) => name.slice(0, -1)),
  };
}

/** What `ldm help json` says. */
export function describeEvents(): string {
  const lines = Object.entries(EVENTS).flatMap(([event, { when, fields }]) => [
    "",
    `${event}: ${when}`,
    ...fieldLines(fields),
  ]);
  return [
    "With --json commands that make pictures write one JSON object a line to stdout. Its field",
    '"event" says what happened; a "?" marks what is not always there. Readers should skip events',
    "and fields that they do not know: there will be more.",
    ...lines,
    "",
    "every event about one request of several:",
    ...fieldLines(OF_SEVERAL),
  ].join("\n");
}

function fieldLines(fields: Readonly<Record<string, string>>): string[] {
  const width = Math.max(...Object.keys(fields).map(({ length }) => length));
  return Object.entries(fields).map(([name, what]) => `  ${name.padEnd(width)}  ${what}`.trimEnd());
}
