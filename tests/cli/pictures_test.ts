/** The program's pictures against diffusers': every sampler of fixtures/make/pictures.py with the checkpoint's own schedule. */

import { equal, ok } from "node:assert/strict";
import { join } from "node:path";
import { decodePicture } from "../../lib/formats/png.ts";
import { SafetensorsFile } from "../../lib/formats/safetensors.ts";
import { inFolder } from "../folders.ts";
import { entriesOf, psnr } from "../pictures.ts";
import { FIXTURES, ldm } from "./ldm.ts";

/** The least PSNR in dB: rounding through all steps in f32, rounding of the weights in f16. */
const BOUNDS = { f32: 50, f16: 35 } as const;

/** Entries of each checkpoint that an option can ask for; single files hold the same weights. */
const CASES: readonly (readonly [
  family: string,
  path: string,
  dtype: "f16" | "f32",
  names: readonly string[],
])[] = [
  ["sd1", "tiny/sd1", "f32", [
    ...["euler", "euler_a", "heun", "dpm2", "dpmpp_2m", "dpmpp_2m_sde", "ddim"],
    ...["pndm", "lms", "unipc", "lcm"],
  ]],
  ["sd1", "tiny/sd1", "f16", ["euler"]],
  ["sd1", "tiny/sd1.safetensors", "f32", ["pndm"]],
  ["sd2", "tiny/sd2", "f32", ["ddim"]],
  ["sd2", "tiny/sd2.safetensors", "f32", ["ddim"]],
  ["sdxl", "tiny/sdxl", "f32", ["euler"]],
  ["sdxl", "tiny/sdxl.safetensors", "f32", ["euler"]],
  ["lcm", "tiny/lcm", "f32", ["lcm"]],
];

for (const [family, path, dtype, names] of CASES) {
  Deno.test(`ldm makes diffusers' pictures from ${path} in ${dtype}`, async (t) => {
    using golden = await SafetensorsFile.open(`${FIXTURES}/goldens/pictures_${family}.safetensors`);
    const entries = entriesOf(golden);
    for (const name of names) {
      await t.step(name, () =>
        inFolder(async (cwd) => {
          const entry = entries[name];
          const { code, stderr } = await ldm([
            ...[entry.prompt, "-m", `${FIXTURES}/${path}`, "--dtype", dtype, "-q", "-o", "x.png"],
            ...["-n", entry.negative_prompt ?? ""],
            ...["-W", `${entry.width}`, "-H", `${entry.height}`, "-s", `${entry.seed}`],
            ...["--steps", `${entry.steps}`, "--cfg-scale", `${entry.guidance}`],
            ...["--sampler", entry.sampler],
            // single files carry no tokenizer, and these are not made for CLIP's vocabulary
            ...["--tokenizer", `${FIXTURES}/tiny/${family}/tokenizer`],
          ], { cwd });
          equal(code, 0, stderr);
          const { data } = await decodePicture(await Deno.readFile(join(cwd, "x.png")));
          const measured = psnr(data, await golden.read(`${name}.picture`));
          ok(measured >= BOUNDS[dtype], `${measured.toFixed(1)} dB`);
        }));
    }
  });
}
