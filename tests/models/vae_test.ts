/**
 * The autoencoder's segments, executed in tiles with statistics of the whole picture, equal it
 * executed whole.
 */

import assert from "node:assert/strict";
import { interpret, type Values } from "../../lib/graph/interpret.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import { vaeConfigFromJson } from "../../lib/models/config_from_json.ts";
import {
  decode,
  decoderSegments,
  encode,
  encoderSegments,
  factorOf,
  type Segment,
  type VaeConfig,
  type Value,
} from "../../lib/models/vae.ts";
import { paramsOf } from "../../lib/nn/params.ts";
import { readTiny } from "./tiny.ts";

/** A whole picture, [height, width, channels]. */
interface Picture {
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  readonly data: Float64Array;
}

/** Where a tile begins and ends along one axis, and what it reads for that. */
interface Span {
  readonly begin: number;
  readonly end: number;
  readonly from: number;
  readonly to: number;
  /** 1 where the tile ends at the edge. */
  readonly borders: readonly [number, number];
}

/** Tiles of `size` along an axis of `length` written pixels, as the head of vae.ts says. */
function spans(
  length: number,
  size: number,
  zoom: number,
  halo: readonly [number, number],
): Span[] {
  return Array.from({ length: Math.ceil(length / size) }, (_, i) => {
    const [begin, end] = [i * size, Math.min(length, (i + 1) * size)];
    return {
      begin,
      end,
      from: Math.max(0, begin / zoom - halo[0]),
      to: Math.min(length / zoom, end / zoom + halo[1]),
      borders: [begin === 0 ? 1 : 0, end === length ? 1 : 0],
    };
  });
}

function cut({ width, channels, data }: Picture, y: Span, x: Span): Float64Array {
  const row = (x.to - x.from) * channels;
  const out = new Float64Array((y.to - y.from) * row);
  for (let i = y.from; i < y.to; i++) {
    const at = (i * width + x.from) * channels;
    out.set(data.subarray(at, at + row), (i - y.from) * row);
  }
  return out;
}

function paste({ width, channels, data }: Picture, y: Span, x: Span, tile: Float64Array): void {
  const row = (x.end - x.begin) * channels;
  for (let i = y.begin; i < y.end; i++) {
    const part = tile.subarray((i - y.begin) * row, (i - y.begin + 1) * row);
    data.set(part, (i * width + x.begin) * channels);
  }
}

/** Mean and variance of each group over the whole picture. */
function momentsOf({ channels, data }: Picture, groups: number): number[] {
  const each = channels / groups;
  return Array.from({ length: groups }, (_, g) => {
    const values = data.filter((_, i) => Math.floor((i % channels) / each) === g);
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    return [mean, values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length];
  }).flat();
}

/**
 * Executes segments with tiles of at most `size` written pixels a side. Returns the last picture
 * and the number of tiles.
 */
function runTiled(
  segments: readonly Segment[],
  weights: Values,
  input: Picture,
  size: number,
): { picture: Picture; tiles: number } {
  const values: Record<Value, Picture> = { x: input, h: input, keys: input, values: input };
  let tiles = 0;
  for (const segment of segments) {
    const reads = segment.reads.map((v) => values[v]);
    const { height, width } = reads[0];
    const { zoom, halo, groups, channels } = segment;
    const written: Picture = {
      height: height * zoom,
      width: width * zoom,
      channels,
      data: new Float64Array(height * zoom * width * zoom * channels).fill(NaN),
    };
    const wholes = segment.readsWhole.map((v) => values[v]);
    const across = (length: number, ends: readonly [number, number]) =>
      spans(length, Math.min(size, length), zoom, ends);
    for (const y of across(written.height, [halo.top, halo.bottom])) {
      for (const x of across(written.width, [halo.left, halo.right])) {
        const graph = new Graph();
        const inputs = reads.map((read, i) =>
          graph.input(`in${i}`, [1, y.to - y.from, x.to - x.from, read.channels])
        );
        inputs.push(
          ...wholes.map((whole, i) =>
            graph.input(`whole${i}`, [1, whole.height, whole.width, whole.channels])
          ),
        );
        const moments = groups === undefined ? undefined : graph.input("moments", [1, groups, 2]);
        const [top, bottom] = y.borders;
        const [left, right] = x.borders;
        const border = { top, bottom, left, right };
        const out = segment.build(paramsOf(graph, "vae"), inputs, border, moments);
        assert.deepEqual(out.shape, [1, y.end - y.begin, x.end - x.begin, channels], segment.name);
        const bound: Record<string, ArrayLike<number>> = { ...weights };
        reads.forEach((read, i) => bound[`in${i}`] = cut(read, y, x));
        wholes.forEach((whole, i) => bound[`whole${i}`] = whole.data);
        if (groups !== undefined) bound.moments = momentsOf(reads[0], groups);
        paste(written, y, x, interpret([out], bound, { precision: "f64" })[0]);
        tiles++;
      }
    }
    values[segment.writes] = written;
  }
  return { picture: values.x, tiles };
}

function wave(height: number, width: number, channels: number): Picture {
  const data = Float64Array.from(
    { length: height * width * channels },
    (_, i) => Math.sin(i * 0.7) + Math.cos(i * 0.013),
  );
  return { height, width, channels, data };
}

function largestDifference(a: Float64Array, b: Float64Array): number {
  assert.equal(a.length, b.length);
  return a.reduce(
    (most, v, i) => Math.max(most, Number.isNaN(v) ? Infinity : Math.abs(v - b[i])),
    0,
  );
}

async function readVae(path: string): Promise<{ config: VaeConfig; values: Values }> {
  const { config, values } = await readTiny(path, "vae");
  return { config: vaeConfigFromJson(config), values };
}

for (const path of ["tiny/sd1", "tiny/vae_f2"]) {
  Deno.test(`decoderSegments of ${path} give the same picture in tiles as whole`, async () => {
    const { config, values } = await readVae(path);
    const z = wave(5, 7, config.latentChannels);
    const graph = new Graph();
    const whole = decode(
      paramsOf(graph, "vae"),
      config,
      graph.input("z", [1, 5, 7, config.latentChannels]),
    );
    const [expected] = interpret([whole], { ...values, z: z.data }, { precision: "f64" });
    for (const size of [4, 6, 1000]) {
      const { picture, tiles } = runTiled(decoderSegments(config), values, z, size);
      assert.ok(size === 1000 || tiles > 50, `${tiles} tiles`);
      const difference = largestDifference(picture.data, expected);
      assert.ok(difference < 1e-11, `tiles of ${size}: ${difference}`);
    }
  });

  Deno.test(`encoderSegments of ${path} give the same latent in tiles as whole`, async () => {
    const { config, values } = await readVae(path);
    const f = factorOf(config);
    const [height, width] = [5 * f, 6 * f];
    const input = wave(height, width, 3);
    const graph = new Graph();
    const whole = encode(
      paramsOf(graph, "vae"),
      config,
      graph.input("picture", [1, height, width, 3]),
    );
    const [expected] = interpret([whole], { ...values, picture: input.data }, { precision: "f64" });
    for (const size of [3, 8, 1000]) {
      const { picture } = runTiled(encoderSegments(config), values, input, size);
      const difference = largestDifference(picture.data, expected);
      assert.ok(difference < 1e-11, `tiles of ${size}: ${difference}`);
    }
  });
}

Deno.test("decoderSegments write what the next segment normalises, and end at f times the latent", async () => {
  for (const path of ["tiny/sd1", "tiny/vae_f2", "tiny/vae_f16"]) {
    const { config } = await readVae(path);
    for (
      const [segments, zoom] of [
        [decoderSegments(config), factorOf(config)],
        [encoderSegments(config), 1 / factorOf(config)],
      ] as const
    ) {
      segments.forEach((segment, i) => {
        if (segment.groups !== undefined) {
          assert.ok(segments.slice(0, i).some(({ writes }) => writes === segment.reads[0]));
        }
      });
      assert.equal(segments.reduce((product, segment) => product * segment.zoom, 1), zoom);
      assert.equal(segments[segments.length - 1].writes, "x");
      assert.equal(new Set(segments.map((segment) => segment.name)).size, segments.length);
    }
  }
});

Deno.test("tiles that ignore whole-picture moments or the border do not give the same picture", async () => {
  const { config, values } = await readVae("tiny/vae_f2");
  const z = wave(5, 7, config.latentChannels);
  const right = runTiled(decoderSegments(config), values, z, 4).picture.data;
  const local = decoderSegments(config).map((segment): Segment => ({
    ...segment,
    build: (p, inputs, border) => segment.build(p, inputs, border),
  }));
  assert.ok(largestDifference(runTiled(local, values, z, 4).picture.data, right) > 1e-3);
});

Deno.test("decode builds an autoencoder without attention and without 1×1 convolutions of the latent", async () => {
  const { config } = await readVae("tiny/vae_f2");
  const graph = new Graph();
  const bare = { ...config, midAttention: false, quantConv: false, postQuantConv: false };
  decode(paramsOf(graph, "vae"), bare, graph.input("z", [1, 2, 2, 4]));
  encode(paramsOf(graph, "vae"), bare, graph.input("picture", [1, 4, 4, 3]));
  const names = graph.nodes.flatMap((node) => node.op === "parameter" ? [node.attrs.name] : []);
  assert.ok(names.length > 0);
  assert.deepEqual(names.filter((name) => /attentions|quant_conv/.test(name)), []);
});
