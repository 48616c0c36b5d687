import { deepEqual, equal, match } from "node:assert/strict";
import { join } from "node:path";
import { encodePng } from "../../lib/formats/png.ts";
import {
  SafetensorsFile,
  type TensorData,
  writeSafetensors,
} from "../../lib/formats/safetensors.ts";
import { inFolder } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

Deno.test("ldm inspect tells what a checkpoint is and holds, without a GPU", async () => {
  const env = { VK_ICD_FILENAMES: "/nowhere.json", VK_DRIVER_FILES: "/nowhere.json" };
  const { code, stdout, stderr } = await ldm(["inspect", `${FIXTURES}/tiny/sdxl`], { env });
  deepEqual([code, stderr], [0, ""]);
  match(stdout, /: a diffusers folder, Stable Diffusion XL\n/);
  match(
    stdout,
    /^ {2}unet +[\d.]+ k parameters +\d+ tensors +\d+ kB +F32 +latents of 4 channels, text 40 wide$/m,
  );
  const json = await ldm(["inspect", `${FIXTURES}/tiny/lcm`, "--json"], { env });
  const told = JSON.parse(json.stdout);
  deepEqual([told.kind, told.form, told.family, told.variant], [
    "checkpoint",
    "folder",
    "sd1",
    "lcm",
  ]);
  deepEqual(told.components.map(({ name }: { name: string }) => name).sort(), [
    "text_encoder",
    "unet",
    "vae",
  ]);
  for (const { missing, unexpected, misshapen } of told.components) {
    deepEqual([missing, unexpected, misshapen], [[], [], []]);
  }
});

/** Copies a file of tensors with changes: a name to other fields, or to nothing. */
async function altered(
  from: string,
  to: string,
  changes: Readonly<Record<string, Partial<TensorData> | undefined>>,
): Promise<void> {
  using file = await SafetensorsFile.open(from);
  const tensors: TensorData[] = [];
  for (const { name, dtype, shape } of file.tensors.values()) {
    if (name in changes && changes[name] === undefined) continue;
    tensors.push({ name, dtype, shape, data: await file.read(name), ...changes[name] });
  }
  await writeSafetensors(to, tensors);
}

Deno.test("ldm inspect names what is missing, not used and of the wrong shape", () =>
  inFolder(async (cwd) => {
    const [from, to] = [`${FIXTURES}/tiny/vae_f2`, join(cwd, "vae")];
    await Deno.mkdir(to);
    await Deno.copyFile(`${from}/config.json`, `${to}/config.json`);
    const name = "diffusion_pytorch_model.safetensors";
    await altered(`${from}/${name}`, `${to}/${name}`, {
      "decoder.conv_in.bias": undefined,
      "encoder.conv_in.bias": { name: "encoder.conv_in.extra" },
      "decoder.conv_out.bias": { shape: [1, 3] },
    });
    const { code, stdout } = await ldm(["inspect", to, "--json"]);
    equal(code, 0);
    const { components: [vae] } = JSON.parse(stdout);
    deepEqual(vae.missing.toSorted(), ["decoder.conv_in.bias", "encoder.conv_in.bias"]);
    deepEqual(vae.unexpected, ["encoder.conv_in.extra"]);
    deepEqual(vae.misshapen, [{ name: "decoder.conv_out.bias", shape: [1, 3], expected: [3] }]);
    const text = await ldm(["inspect", to]);
    match(text.stdout, /missing in the vae \(2\):\n {2}\S+\n {2}\S+/);
    match(text.stdout, /decoder\.conv_out\.bias: \[1, 3\], expected \[3\]/);
  }));

Deno.test("ldm inspect tells a picture's size and text", () =>
  inFolder(async (cwd) => {
    const picture = { width: 2, height: 1, channels: 3 as const, data: new Uint8Array(6) };
    const path = join(cwd, "x.png");
    await Deno.writeFile(
      path,
      await encodePng(picture, { text: [["parameters", "a fox\nSteps: 3"]] }),
    );
    const { code, stdout } = await ldm(["inspect", path]);
    equal(code, 0);
    match(stdout, /a picture of 2×1 pixels, RGB, \d+ B\nparameters:\n {2}a fox\n {2}Steps: 3\n$/);
    const json = JSON.parse((await ldm(["inspect", path, "--json"])).stdout);
    deepEqual(json.texts, { parameters: "a fox\nSteps: 3" });
  }));

Deno.test("ldm inspect tells the colours and bits of a picture as its file has them", () =>
  inFolder(async (cwd) => {
    const size = { width: 2, height: 1 };
    const cases = [
      [{ ...size, channels: 1, data: new Uint8Array(2) }, "grey"],
      [{ ...size, channels: 3, data: new Uint16Array(6) }, "RGB of 16 bits"],
      [{ ...size, channels: 4, data: new Uint8Array(8).fill(255) }, "RGBA"],
    ] as const;
    for (const [picture, told] of cases) {
      await Deno.writeFile(join(cwd, "x.png"), await encodePng(picture));
      const { stdout } = await ldm(["inspect", "x.png"], { cwd });
      match(stdout, new RegExp(` 2×1 pixels, ${told}, `));
    }
    const { colours, bits } = JSON.parse(
      (await ldm(["inspect", "x.png", "--json"], { cwd })).stdout,
    );
    deepEqual([colours, bits], ["RGBA", 8]);
    await Deno.writeTextFile(join(cwd, "x.png"), "no picture");
    const { code, stderr } = await ldm(["inspect", "x.png"], { cwd });
    deepEqual([code, stderr], [
      1,
      'ldm: Cannot read "x.png": it is not a sound PNG, JPEG, WebP, GIF or BMP picture\n',
    ]);
  }));

Deno.test("ldm inspect tells who made a picture, and what cannot be matched", () =>
  inFolder(async (cwd) => {
    const picture = { width: 2, height: 1, channels: 3 as const, data: new Uint8Array(6) };
    const parameters = "a fox\nSteps: 3, Seed: 5, Hires upscale: 2, Version: v1.10.1";
    await Deno.writeFile(
      join(cwd, "x.png"),
      await encodePng(picture, { text: [["parameters", parameters]] }),
    );
    const { stdout } = await ldm(["inspect", "x.png"], { cwd });
    match(stdout, /^made by AUTOMATIC1111's web UI; `ldm rerun` makes it again$/m);
    match(stdout, /^what that cannot match \(1\):\n {2}Hires upscale: 2$/m);
    const { made } = JSON.parse((await ldm(["inspect", "x.png", "--json"], { cwd })).stdout);
    deepEqual([made.tool, made.recipe.seed], ["a1111", 5]);
    await Deno.copyFile(`${FIXTURES}/goldens/metadata/comfyui.webp`, join(cwd, "x.webp"));
    const webp = await ldm(["inspect", "x.webp"], { cwd });
    match(webp.stdout, /a picture of 2×2 pixels[^]*\nmade by ComfyUI;[^]*\nModel:\n {2}prompt:/);
  }));

Deno.test("ldm inspect refuses what it cannot read with one sentence", () =>
  inFolder(async (cwd) => {
    await Deno.writeTextFile(join(cwd, "x.txt"), "hello");
    for (const path of ["nothing", "x.txt"]) {
      const { code, stdout, stderr } = await ldm(["inspect", path], { cwd });
      deepEqual([code, stdout], [1, ""]);
      match(stderr, /^ldm: [^\n]+\n$/);
    }
  }));
