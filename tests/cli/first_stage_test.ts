import { deepEqual, equal, match, ok } from "node:assert/strict";
import { join } from "node:path";
import { writeLatents } from "../../lib/formats/latents.ts";
import { decodePicture, encodePng } from "../../lib/formats/png.ts";
import { inFolder, names } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

const FOX = `${FIXTURES}/pictures/fox.png`;

Deno.test("ldm encode and decode carry a real picture through trained weights, tiled or not", () =>
  inFolder(async (cwd) => {
    const folder = join(cwd, "taesd");
    await Deno.mkdir(folder);
    for (const half of ["encoder", "decoder"]) {
      const name = `taesd_${half}.safetensors`;
      await Deno.copyFile(`${FIXTURES}/taesd/${name}`, join(folder, name));
    }
    const first = ["--taesd", folder, "-q"];
    const encoded = await ldm(["encode", FOX, ...first], { cwd });
    deepEqual([encoded.code, encoded.stdout, encoded.stderr], [0, "fox.safetensors\n", ""]);
    const { data: original } = await decodePicture(await Deno.readFile(FOX));
    for (const tiling of ["off", "on"]) {
      const args = ["decode", "fox.safetensors", ...first, "--vae-tiling", tiling];
      const decoded = await ldm([...args, "-o", `${tiling}.png`], { cwd });
      deepEqual([decoded.code, decoded.stdout], [0, `${tiling}.png\n`], decoded.stderr);
      const { data } = await decodePicture(await Deno.readFile(join(cwd, `${tiling}.png`)));
      equal(data.length, original.length);
      const error = data.reduce((sum, v, i) => sum + (v - original[i]) ** 2, 0) / data.length;
      const psnr = 10 * Math.log10(255 ** 2 / error);
      ok(psnr >= 28, `${psnr.toFixed(1)} dB ${tiling}`);
    }
    const stdout = await ldm(["decode", "fox.safetensors", ...first, "-o", "-"], { cwd });
    deepEqual(stdout.bytes, await Deno.readFile(join(cwd, "off.png")));
  }));

Deno.test("ldm encode refuses a picture that does not fit, and decode latents of another model", () =>
  inFolder(async (cwd) => {
    const picture = { width: 20, height: 16, channels: 3 as const, data: new Uint8Array(960) };
    await Deno.writeFile(join(cwd, "x.png"), await encodePng(picture));
    const stage = ["-m", `${FIXTURES}/tiny/vae_f16`];
    const odd = await ldm(["encode", "x.png", ...stage], { cwd });
    deepEqual([odd.code, odd.stdout], [2, ""]);
    match(odd.stderr, /20×16 pixels: both sides must be multiples of 16; crop it to 16×16 first/);
    const latents = { data: new Float32Array(3), channels: 3, height: 1, width: 1 };
    await writeLatents(join(cwd, "z.safetensors"), latents, {});
    const other = await ldm(["decode", "z.safetensors", ...stage], { cwd });
    deepEqual([other.code, other.stdout], [1, ""]);
    match(other.stderr, /have 3 channels, and the first stage of .* has 4/);
    await writeLatents(join(cwd, "z.safetensors"), {
      ...latents,
      data: new Float32Array(4).fill(NaN),
      channels: 4,
    }, {});
    const nan = await ldm(["decode", "z.safetensors", ...stage], { cwd });
    deepEqual([nan.code, nan.stdout], [1, ""]);
    match(nan.stderr, /its numbers are not finite after decoding; --dtype f32 may help/);
    deepEqual(names(cwd), ["x.png", "z.safetensors"]);
  }));

Deno.test("ldm encode --json tells where the latents are and their shape", () =>
  inFolder(async (cwd) => {
    const picture = { width: 8, height: 4, channels: 4 as const, data: new Uint8Array(128) };
    await Deno.writeFile(join(cwd, "x.png"), await encodePng(picture));
    const args = ["encode", "x.png", "-m", `${FIXTURES}/tiny/vae_f2`, "-o", "z/", "--json", "-q"];
    const { code, stdout, stderr } = await ldm(args, { cwd });
    equal(code, 0, stderr);
    equal(stderr, "warning: The picture's transparent parts are laid over white\n");
    const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    deepEqual(events.map(({ event }) => event), ["load", "saved", "done"]);
    deepEqual([events[1].path, events[1].shape], ["z/x.safetensors", [1, 4, 2, 4]]);
  }));
