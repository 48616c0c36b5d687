/** How many there are of something, in words. */

/** "1 tensor", "3 tensors". `shown` is how the number is written. */
export function counted(n: number, noun: string, shown = String(n)): string {
  return `${shown} ${noun}${n === 1 ? "" : "s"}`;
}
