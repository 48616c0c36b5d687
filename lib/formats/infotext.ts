/**
 * The text that AUTOMATIC1111's web UI writes into a picture under the key "parameters" and that most tools read:
 * the prompt, a line "Negative prompt: …", and one line of "Key: value" pairs.
 */

/** What a text-to-image picture was made with. Sampler and schedule are AUTOMATIC1111's labels. */
export interface Infotext {
  readonly prompt: string;
  readonly negativePrompt: string;
  /** In the order in which they are written; `undefined` leaves an entry out. */
  readonly entries: Readonly<Record<string, string | number | undefined>>;
}

/** The text for the PNG key "parameters". The order of entries is the caller's; AUTOMATIC1111 begins with Steps. */
export function writeInfotext({ prompt, negativePrompt, entries }: Infotext): string {
  const pairs = Object.entries(entries)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key}: ${quote(String(value))}`);
  const negative = negativePrompt === "" ? [] : [`Negative prompt: ${negativePrompt}`];
  return [prompt, ...negative, pairs.join(", ")].join("\n").trim();
}

/** Readers cut values at commas and colons, unless they are JSON strings. */
function quote(value: string): string {
  return /[,\n:]/.test(value) ? JSON.stringify(value) : value;
}
