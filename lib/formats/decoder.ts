/**
 * Pictures decoded in other threads: the platform decodes in the thread that asks, and one that waits for a device cannot
 * ask.
 */

import type { Picture } from "../base/picture.ts";
import { readBmp } from "./bmp.ts";
import source from "./decode_worker.js" with { type: "text" };
import { decodePicture, isPng, withoutAlpha } from "./png.ts";

/** A picture from a file's bytes, as `decodePicture` gives it. */
export type Decode = (bytes: Uint8Array<ArrayBuffer>, name: string) => Promise<Picture>;

export interface Decoder extends Disposable {
  readonly decode: Decode;
}

/** What a thread answers: nothing where it could not decode. */
interface Answer {
  readonly id: number;
  readonly pixels?: ArrayBuffer;
}

/** Starts `threads` threads at the first picture; with none, pictures are decoded here. End it with `Symbol.dispose`, which drops what waits. */
export function openDecoder(threads: number): Decoder {
  const url = `data:text/javascript,${encodeURIComponent(source)}`;
  const waiting = new Map<number, (pixels: ArrayBuffer | undefined) => void>();
  const workers: Worker[] = [];
  const start = () => {
    const worker = new Worker(url, { type: "module" });
    worker.onmessage = ({ data: { id, pixels } }: MessageEvent<Answer>) => {
      waiting.get(id)?.(pixels);
      waiting.delete(id);
    };
    workers.push(worker);
  };
  let asked = 0;
  const ask = (bytes: Uint8Array<ArrayBuffer>) =>
    new Promise<ArrayBuffer | undefined>((resolve) => {
      while (workers.length < threads) start();
      const id = asked++;
      waiting.set(id, resolve);
      workers[id % workers.length].postMessage({ id, bytes });
    });
  return {
    async decode(bytes, name) {
      const pixels = threads > 0 && isPlain(bytes) ? await ask(bytes) : undefined;
      // what a thread could not decode is decoded here for its pixels or for its error
      return pixels === undefined
        ? await decodePicture(bytes, name)
        : withoutAlpha(readBmp(new Uint8Array(pixels)));
    },
    [Symbol.dispose]() {
      for (const worker of workers) worker.terminate();
    },
  };
}

/** Whether a bitmap can hold the pixels: it has no 16 bits, and no grey with alpha. */
function isPlain(bytes: Uint8Array): boolean {
  const [depth, colourType] = [bytes[24], bytes[25]];
  return !isPng(bytes) || (depth === 8 && (colourType === 2 || colourType === 6));
}
