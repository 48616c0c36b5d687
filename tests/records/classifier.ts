/** A small convolutional net that tells classes of grey pictures, trained by the same graphs, gradients and optimiser. */

import { around, conv2d, linear, relu, type Window } from "../../lib/nn/layers.ts";
import { type Params, paramsOf } from "../../lib/nn/params.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { compile, type Program } from "../../lib/gpu/program.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { initial } from "../../lib/train/initial.ts";
import { permutation, seedOf } from "../../lib/train/order.ts";
import { learningRate } from "../../lib/train/rate.ts";
import { Trainer } from "../../lib/train/trainer.ts";

/** Pixels of a side. */
export const SIDE = 28;
const PIXELS = SIDE * SIDE;
const BATCH = 64;
const EPOCHS = 5;
const LR = 3e-3;
const SEED = 0;

const HALVING: Window = { kernel: 3, stride: 2, padding: around(1), bias: true };

/** Logits [n, classes] of pictures [n, 28, 28, 1] in −1 … 1. */
function logitsOf(p: Params, pictures: Tensor, classes: number): Tensor {
  const [n] = pictures.shape;
  const a = relu(conv2d(p.at("conv1"), pictures, 16, HALVING)); // [n, 14, 14, 16]
  const b = relu(conv2d(p.at("conv2"), a, 32, HALVING)); // [n, 7, 7, 32]
  const c = relu(linear(p.at("hidden"), b.reshape([n, 7 * 7 * 32]), 64));
  return linear(p.at("out"), c, classes);
}

/** Mean of −log p(right class); `right` [n, classes] is 1 there, else 0. */
function crossEntropy(logits: Tensor, right: Tensor): Tensor {
  const shifted = logits.sub(logits.maximum([1]).detach());
  const logSum = shifted.exp().sum([1]).log(); // [n, 1]
  const [n] = logits.shape;
  return logSum.sub(shifted.mul(right).sum([1])).sum([0, 1]).div(n).reshape([]);
}

/** Grey pictures of 28×28 bytes, one after another, and the numbers of their classes. */
export interface Labelled {
  readonly pixels: Uint8Array;
  readonly labels: Uint8Array;
}

/** Pictures `which` as the net takes them. */
function batchOf(pixels: Uint8Array, which: ArrayLike<number>): Float32Array<ArrayBuffer> {
  const batch = new Float32Array(BATCH * PIXELS);
  for (let i = 0; i < which.length; i++) {
    for (let j = 0; j < PIXELS; j++) {
      batch[i * PIXELS + j] = pixels[which[i] * PIXELS + j] / 127.5 - 1;
    }
  }
  return batch;
}

/** A trained net. Dispose of it to free it. */
export class Classifier implements Disposable {
  readonly #program: Program;
  readonly #classes: number;
  readonly #owned: DisposableStack;

  private constructor(program: Program, classes: number, owned: DisposableStack) {
    this.#program = program;
    this.#classes = classes;
    this.#owned = owned;
  }

  /** Trains a net from new weights on all examples, five times each. */
  static async train(
    device: Device,
    { pixels, labels }: Labelled,
    classes: number,
  ): Promise<Classifier> {
    using owned = new DisposableStack();
    const inputsOf = (graph: Graph) => graph.input("pictures", [BATCH, SIDE, SIDE, 1]);
    const graph = new Graph();
    const logits = logitsOf(paramsOf(graph, "classifier"), inputsOf(graph), classes);
    const loss = crossEntropy(logits, graph.input("right", [BATCH, classes]));
    const optimizer = {
      beta1: 0.9,
      beta2: 0.999,
      eps: 1e-8,
      weightDecay: 0.01,
      clip: undefined,
      ema: 0,
    };
    const trainer = owned.use(
      await Trainer.make(device, { loss }, {
        isTrained: () => true,
        optimizer,
        label: "training the classifier",
      }),
    );
    await trainer.vectors.begin((entry) => initial(entry, SEED));
    const perEpoch = Math.floor(labels.length / BATCH);
    const steps = EPOCHS * perEpoch;
    for (let step = 0; step < steps; step++) {
      const at = step % perEpoch;
      const order = permutation(labels.length, seedOf(SEED, Math.floor(step / perEpoch)));
      const which = order.subarray(at * BATCH, (at + 1) * BATCH);
      const right = new Float32Array(BATCH * classes);
      which.forEach((index, i) => right[i * classes + labels[index]] = 1);
      await trainer.backward({ pictures: batchOf(pixels, which), right });
      const schedule = { lr: LR, schedule: "cosine", warmup: 0, final: 0, steps } as const;
      await trainer.step(step + 1, learningRate(step, schedule));
    }
    const second = new Graph();
    const outputs = new Map([[
      "logits",
      logitsOf(paramsOf(second, "classifier"), inputsOf(second), classes),
    ]]);
    const program = owned.use(
      await compile(device, outputs, trainer.vectors.parameters(), { label: "the classifier" }),
    );
    return new Classifier(program, classes, owned.move());
  }

  /** The class that each picture is likeliest to be of. */
  async classesOf(pixels: Uint8Array): Promise<number[]> {
    const count = pixels.length / PIXELS;
    const classes: number[] = [];
    for (let begin = 0; begin < count; begin += BATCH) {
      const which = Array.from({ length: Math.min(BATCH, count - begin) }, (_, i) => begin + i);
      const logits = (await this.#program.run({ pictures: batchOf(pixels, which) })).get("logits");
      for (let i = 0; i < which.length; i++) {
        const own = [...logits?.subarray(i * this.#classes, (i + 1) * this.#classes) ?? []];
        classes.push(own.indexOf(Math.max(...own)));
      }
    }
    return classes;
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}

/** Share of classes that are the right ones. */
export function accuracy(told: readonly number[], right: ArrayLike<number>): number {
  return told.filter((each, i) => each === right[i]).length / told.length;
}
