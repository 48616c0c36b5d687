/** A denoiser that is told a class: Fashion-MNIST, judged by a net that learnt from real pictures what the classes are. */

import { join } from "node:path";
import { readIdx } from "../../lib/formats/idx.ts";
import { flatten } from "../../lib/train/images.ts";
import { accuracy, Classifier, type Labelled, SIDE } from "./classifier.ts";
import { drawn, meanOf, psnr, type Recipe, reconstructed, trained, writeSheet } from "./record.ts";

/** What the data's numbers mean; settings/fashion.toml has the same. */
const CLASSES = [
  ...["T-shirt", "trouser", "pullover", "dress", "coat"],
  ...["sandal", "shirt", "sneaker", "bag", "boot"],
] as const;
/** Pictures that nothing is trained with. */
const HELD_OUT = 1000;
/** Pictures that the denoiser learns from, fewer than the others see: each has to be encoded, which takes its time. */
const SHOWN = 2000;
/** Samples of each class. */
const SAMPLES = 20;
const PIXELS = SIDE * SIDE;

export const fashion: Recipe = {
  needs: ["IMAGES-idx3-ubyte.gz", "LABELS-idx1-ubyte.gz"],
  run: async function* (device, folder, [images, names]) {
    const pixels = await idx(images);
    const labels = await idx(names);
    const known = labels.length - HELD_OUT;
    const real: Labelled = {
      pixels: pixels.subarray(0, known * PIXELS),
      labels: labels.subarray(0, known),
    };
    const unseen = { pixels: pixels.subarray(known * PIXELS), labels: labels.subarray(known) };
    const data = join(folder, "data");
    await writeIdx(data, real);
    const few = join(folder, "few");
    await writeIdx(few, {
      pixels: real.pixels.subarray(0, SHOWN * PIXELS),
      labels: real.labels.subarray(0, SHOWN),
    });

    const first = join(folder, "first");
    yield await trained("autoencoder", "fashion_first", { data, folder: first });
    const originals = Array.from({ length: 100 }, (_, i) => pictureAt(unseen.pixels, i));
    const again = await reconstructed(device, join(first, "vae"), originals);
    yield {
      what: "PSNR of reconstructions of unseen pictures, dB",
      value: meanOf(again.map((picture, i) => psnr(picture, flatten(originals[i], 3)))),
    };

    const model = join(folder, "model");
    const set = [`first_stage=${join(first, "vae")}`];
    yield await trained("diffusion", "fashion", { data: few, folder: model, set });

    using classifier = await Classifier.train(device, real, CLASSES.length);
    const held = accuracy(await classifier.classesOf(unseen.pixels), unseen.labels);
    yield { what: "share of unseen real pictures that the net knows", value: held, least: 0.85 };
    const requests = CLASSES.map((label, i) => ({
      ...{ prompt: "", label, seed: i * SAMPLES, batchCount: SAMPLES },
    }));
    const made = await drawn(device, model, requests);
    const grey = new Uint8Array(made.flatMap((picture) => [...flatten(picture, 1).data]));
    const told = await classifier.classesOf(grey);
    const right = Array.from(made, (_, i) => Math.floor(i / SAMPLES));
    yield {
      what: `share of ${made.length} samples that the net knows as their class`,
      value: accuracy(told, right),
      least: 0.8,
    };
    for (const [i, name] of CLASSES.entries()) {
      const own = told.slice(i * SAMPLES, (i + 1) * SAMPLES);
      yield { what: `of ${name}`, value: accuracy(own, right.slice(i * SAMPLES)) };
    }
    await writeSheet(join(folder, "fashion.png"), made, { columns: SAMPLES, rowLabels: CLASSES });
  },
};

/** The numbers of an IDX file. */
async function idx(path: string): Promise<Uint8Array> {
  return (await readIdx(await Deno.readFile(path), `"${path}"`)).data;
}

function pictureAt(pixels: Uint8Array, index: number) {
  const data = pixels.slice(index * PIXELS, (index + 1) * PIXELS);
  return { width: SIDE, height: SIDE, channels: 1, data } as const;
}

/** Writes pictures and classes as the data set's own files. */
async function writeIdx(folder: string, { pixels, labels }: Labelled): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  const write = async (name: string, shape: readonly number[], data: Uint8Array) => {
    const head = new DataView(new ArrayBuffer(4 + 4 * shape.length));
    head.setUint32(0, 0x0800 + shape.length); // bytes, and how many dimensions
    shape.forEach((n, i) => head.setUint32(4 + 4 * i, n));
    await Deno.writeFile(join(folder, name), new Blob([head, data.slice()]).stream());
  };
  await write("train-images-idx3-ubyte", [labels.length, SIDE, SIDE], pixels);
  await write("train-labels-idx1-ubyte", [labels.length], labels);
}
