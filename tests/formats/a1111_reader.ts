/**
 * AUTOMATIC1111's reader of infotext, line by line after `parse_generation_parameters` in `modules/infotext_utils.py`, with its
 * regular expressions as they stand there (Python's `\w` spelt out). Styles, hypernetworks and old hires settings are left out.
 */

const PARAM = /\s*([\p{L}\p{N}_][\p{L}\p{N}_ \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)/gu;
const IMAGE_SIZE = /^(\d+)x(\d+)$/;

/** What is taken where a key is missing. */
const DEFAULTS: Readonly<Record<string, string>> = {
  "Clip skip": "1",
  "Hires sampler": "Use same sampler",
  "Hires checkpoint": "Use same checkpoint",
  "Hires prompt": "",
  "Hires negative prompt": "",
  "Mask mode": "Inpaint masked",
  "Masked content": "original",
  "Inpaint area": "Whole picture",
  "Masked area padding": "32",
  "RNG": "GPU",
  "Schedule type": "Automatic",
  "VAE Encoder": "Full",
  "VAE Decoder": "Full",
  "FP8 weight": "Disable",
};

export function parseGenerationParameters(x: string): Record<string, string> {
  const lines = x.trim().split("\n");
  let lastline = lines.pop() ?? "";
  if ([...lastline.matchAll(PARAM)].length < 3) {
    lines.push(lastline);
    lastline = "";
  }
  let prompt = "";
  let negativePrompt = "";
  let doneWithPrompt = false;
  for (let line of lines) {
    line = line.trim();
    if (line.startsWith("Negative prompt:")) {
      doneWithPrompt = true;
      line = line.slice(16).trim();
    }
    if (doneWithPrompt) negativePrompt += (negativePrompt === "" ? "" : "\n") + line;
    else prompt += (prompt === "" ? "" : "\n") + line;
  }
  const res: Record<string, string> = { "Prompt": prompt, "Negative prompt": negativePrompt };
  for (const [, k, raw] of lastline.matchAll(PARAM)) {
    if (raw === "") continue; // there v[0] raises, which is caught
    const v = raw.startsWith('"') && raw.endsWith('"') ? unquote(raw) : raw;
    const size = IMAGE_SIZE.exec(v);
    if (size) [res[`${k}-1`], res[`${k}-2`]] = [size[1], size[2]];
    else res[k] = v;
  }
  return { ...DEFAULTS, ...res };
}

function unquote(text: string): string {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
