import assert from "node:assert/strict";
import { loadFirstStage } from "../../lib/engine/load.ts";
import type { FloatPicture, Latents } from "../../lib/engine/model.ts";
import { mergeMoments } from "../../lib/engine/tiles.ts";
import { decodePicture } from "../../lib/formats/png.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { fixture } from "../fixture.ts";
import { readGolden } from "../golden.ts";
import { psnr } from "../pictures.ts";
import { nmse } from "../tolerance.ts";

/** Smooth numbers of a seed. */
function waves(length: number, seed: number): Float32Array<ArrayBuffer> {
  return Float32Array.from(
    { length },
    (_, i) => Math.sin(i * 0.37 + seed) + 0.5 * Math.cos(i * 0.011),
  );
}

async function readPicture(name: string): Promise<FloatPicture> {
  const { data, width, height, channels } = await decodePicture(
    await Deno.readFile(fixture(`pictures/${name}.png`)),
  );
  assert.equal(channels, 3);
  return { data: Float32Array.from(data, (v) => v / 255), width, height };
}

/** 0 … 255, as pictures are stored. */
const bytesOf = ({ data }: FloatPicture) =>
  Uint8Array.from(data, (v) => Math.round(Math.min(1, Math.max(0, v)) * 255));

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  assert.equal(a.length, b.length);
  let most = 0;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(a[i] - b[i]));
  return most;
}

for (const kind of ["software", "gpu"] as const) {
  for (const [folder, h, w] of [["sd1", 6, 10], ["lcm", 7, 12], ["vae_f16", 5, 4]] as const) {
    Deno.test(`the ${folder} autoencoder gives the same in bands as whole on a ${kind} device`, async () => {
      await using device = await openDevice({ minimum: true, kind });
      using stage = await loadFirstStage(device, fixture(`tiny/${folder}`), { weights: "f32" });
      const size = { channels: stage.latentChannels, height: h, width: w };
      const latents: Latents = { data: waves(4 * h * w, 1), ...size };
      const whole = await stage.decode(latents, { tiling: "off" });
      const back = await stage.encode(whole, { tiling: "off" });
      assert.deepEqual([whole.height, whole.width], [h * stage.factor, w * stage.factor]);
      for (const rows of [1, 2, 3, 8]) {
        const bandPixels = rows * w * stage.factor;
        const decoded = await stage.decode(latents, { tiling: "on", bandPixels });
        assert.ok(nmse(decoded.data, whole.data) < 1e-10, `decoded in bands of ${rows} rows`);
        assert.ok(largestDifference(bytesOf(decoded), bytesOf(whole)) <= 1);
        const encoded = await stage.encode(whole, { tiling: "on", bandPixels: rows * w });
        assert.ok(nmse(encoded.data, back.data) < 1e-10, `encoded in bands of ${rows} rows`);
      }
      assert.ok(largestDifference(whole.data, new Float32Array(whole.data.length)) > 0.1);
    });
  }
}

/** [c, pixels] → [pixels, c]. */
const pixelsOf = (data: Float32Array) =>
  data.map((_, i) => data[(i % 3) * (data.length / 3) + Math.floor(i / 3)]);

Deno.test("the sd1 autoencoder's latents are in the denoiser's scale, its pictures in 0 … 1", async () => {
  const { tensors } = await readGolden("sd1");
  const config = JSON.parse(await Deno.readTextFile(fixture("tiny/sd1/vae/config.json")));
  const scale: number = config.scaling_factor;
  const given = (name: string) => {
    const tensor = tensors.get(name);
    assert.ok(tensor && scale > 0 && scale !== 1, name);
    return tensor;
  };
  await using device = await openDevice();
  using stage = await loadFirstStage(device, fixture("tiny/sd1"), { weights: "f32" });
  const [height, width] = [5 * stage.factor, 7 * stage.factor];
  const picture = pixelsOf(given("in.picture")).map((v) => (v + 1) / 2);
  const latents = await stage.encode({ data: picture, height, width });
  const mean = given("vae.moments").subarray(0, 4 * 5 * 7);
  assert.ok(nmse(latents.data, mean.map((v) => v * scale)) < 1e-8);
  const z = { data: given("in.z").map((v) => v * scale), channels: 4, height: 5, width: 7 };
  const decoded = await stage.decode(z);
  const expected = pixelsOf(given("vae.decoder")).map((v) => (v + 1) / 2);
  assert.ok(nmse(decoded.data, expected) < 1e-8);
});

Deno.test("TAESD encodes and decodes real pictures as the reference does, whole and in bands", async (t) => {
  const golden = await readGolden("taesd");
  const recorded: Record<string, number> = JSON.parse(
    golden.metadata.get("round_trip_psnr_db") ?? "{}",
  );
  await using device = await openDevice();
  using stage = await loadFirstStage(device, fixture("taesd/taesd_decoder.safetensors"));
  for (const name of ["fox", "rocket", "pizza", "scene"]) {
    await t.step(name, async () => {
      const picture = await readPicture(name);
      const expected = golden.tensors.get(`taesd.${name}.latents`);
      assert.ok(expected);
      const latents = await stage.encode(picture, { tiling: "off" });
      const error = nmse(latents.data, expected);
      assert.ok(error < 1e-6, `latents: NMSE ${error.toExponential(2)}`);
      const inBands = await stage.encode(picture, {
        tiling: "on",
        bandPixels: latents.width * (latents.height / 2),
      });
      assert.ok(nmse(inBands.data, latents.data) < 1e-10, "encoded in bands");

      const decoded = await stage.decode(latents, { tiling: "off" });
      const tiled = await stage.decode(latents, { tiling: "on", bandPixels: decoded.width * 40 });
      assert.ok(largestDifference(bytesOf(tiled), bytesOf(decoded)) <= 1, "decoded in bands");
      const reference = golden.tensors.get(`taesd.${name}.decoded`);
      if (reference) {
        const [plane, { data }] = [decoded.height * decoded.width, decoded];
        const ours = data.map((_, i) => data[(i % plane) * 3 + Math.floor(i / plane)]); // as NCHW
        assert.ok(largestDifference(ours, reference) < 1 / 255, "decoded like the reference");
      }
      const ratio = psnr(bytesOf(decoded), bytesOf(picture));
      assert.ok(Math.abs(ratio - recorded[`taesd.${name}`]) < 0.05, `${ratio.toFixed(2)} dB`);
      if (name === "fox" || name === "rocket") assert.ok(ratio >= 28, `${ratio.toFixed(2)} dB`);
    });
  }
});

Deno.test("mergeMoments gives the mean and variance of the whole", () => {
  const values = waves(60, 3).map((v) => v + 100);
  const parts = [values.subarray(0, 10), values.subarray(10, 45), values.subarray(45)];
  const moments = parts.flatMap((part) => {
    const mean = part.reduce((a, b) => a + b, 0) / part.length;
    return [mean, part.reduce((sum, v) => sum + (v - mean) ** 2, 0) / part.length];
  });
  const merged = mergeMoments(Float32Array.from(moments), parts.map((part) => part.length), 1);
  const mean = values.reduce((a, b) => a + b, 0) / 60;
  const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / 60;
  assert.ok(Math.abs(merged[0] - mean) < 1e-4 && Math.abs(merged[1] - variance) < 1e-4);
});

Deno.test("2048×2048 pixels decode under a budget that no whole value fits, as without a budget", async () => {
  const budget = 96 * 2 ** 20;
  const latents = { data: waves(4 * 128 * 128, 2), channels: 4, height: 128, width: 128 };
  const decode = async (options: { memoryBudget?: number }) => {
    await using device = await openDevice(options);
    using stage = await loadFirstStage(device, fixture("tiny/vae_f16"), { weights: "f32" });
    return { picture: await stage.decode(latents), peak: device.memory.peak };
  };
  const small = await decode({ memoryBudget: budget });
  assert.deepEqual([small.picture.height, small.picture.width], [2048, 2048]);
  assert.ok(small.peak <= budget, `${small.peak} bytes`);
  const large = await decode({});
  assert.ok(large.peak > budget, `the whole takes ${large.peak} bytes only`);
  assert.ok(nmse(small.picture.data, large.picture.data) < 1e-10);
});
