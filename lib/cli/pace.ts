/**
 * How fast a run goes and when it ends, from the times at which things happened. Pure: every time is the caller's, in
 * milliseconds. A run makes pictures one after another; each is some steps and then its decoding and saving.
 */

/** What can be said of a run at some moment. */
export interface Reckoning {
  /** Milliseconds that a step takes; `undefined` before there was one. */
  readonly step: number | undefined;
  /** Milliseconds until all pictures are saved. */
  readonly left: number | undefined;
  /** Which picture is being made, from 1, and how many there will be as far as is known. */
  readonly picture: number;
  readonly pictures: number;
}

export interface Pace {
  /** So many pictures of so many steps come next. */
  plan(pictures: number, steps: number, now: number): void;
  /** Step `index` of `of` of the current picture is done, counted from 0. */
  step(index: number, of: number, now: number): void;
  /** The current picture is saved. */
  saved(now: number): void;
  reckon(): Reckoning;
}

/** Things that a mean remembers. */
const MEMORY = 10;

/** A mean in which what is older weighs less and less; of the first few all weigh the same. */
function recentMean() {
  let value: number | undefined;
  let count = 0;
  return {
    add(next: number) {
      count = Math.min(MEMORY, count + 1);
      value = (value ?? 0) + (next - (value ?? 0)) / count;
    },
    /** What follows may differ: the mean stays until something is added, and then gives way. */
    forget() {
      count = 0;
    },
    get: () => value,
  };
}

/**
 * The pace of a run of as many pictures as `expected` says; where that is left out, of those that are planned. The first
 * step after a plan waits for weights and shaders, so it stands for others only until there is another.
 */
export function paceOf(expected: () => number = () => 0): Pace {
  const stepTime = recentMean();
  const endTime = recentMean(); // from the last step to the saved file
  let planned = 0; // pictures
  let done = 0;
  let steps = 0; // of a picture
  let at = 0; // steps of the current picture that are done
  let last = 0; // when the last thing happened
  let isFirst = true; // no step since the plan
  return {
    plan(pictures, count, now) {
      planned = done + pictures;
      steps = count;
      at = 0;
      last = now;
      isFirst = true;
      stepTime.forget();
      endTime.forget();
    },
    step(index, of, now) {
      steps = of;
      if (!isFirst || stepTime.get() === undefined) stepTime.add(now - last);
      if (isFirst) stepTime.forget();
      isFirst = false;
      at = index + 1;
      last = now;
    },
    saved(now) {
      endTime.add(now - last);
      done += 1;
      at = 0;
      last = now;
    },
    reckon() {
      const step = stepTime.get();
      const pictures = Math.max(expected(), planned, done);
      const togo = (pictures - done) * steps - at;
      return {
        step,
        left: step === undefined
          ? undefined
          : togo * step + (pictures - done) * (endTime.get() ?? 0),
        picture: Math.min(pictures, done + 1),
        pictures,
      };
    },
  };
}

/** Steps in a second or, where they are slow, seconds of a step: "3.2 it/s", "1.5 s/it". */
export function rate(milliseconds: number): string {
  const seconds = milliseconds / 1000;
  if (seconds > 1) return `${threeDigits(seconds)} s/it`;
  return seconds > 0 ? `${threeDigits(1 / seconds)} it/s` : "";
}

function threeDigits(value: number): string {
  return value < 99.5 ? value.toPrecision(value < 9.95 ? 2 : 3) : String(Math.round(value));
}
