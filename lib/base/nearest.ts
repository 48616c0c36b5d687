/** The name that was meant, where one was misspelt. */

/** Levenshtein's distance: insertions, deletions and substitutions that turn `a` into `b`. */
export function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitution, row[j] + 1, next[j - 1] + 1));
    }
    row = next;
  }
  return row[b.length];
}

/** The nearest of some names; undefined where even that differs in more than half of its letters. */
export function nearestOf(name: string, names: Iterable<string>): string | undefined {
  let nearest: string | undefined;
  let least = Infinity;
  for (const candidate of names) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance > Math.max(name.length, candidate.length) / 2 || distance >= least) continue;
    nearest = candidate;
    least = distance;
  }
  return nearest;
}

/** What to say where `name` is none of the names: the nearest, else what there is. */
export function hintOf(name: string, names: readonly string[]): string {
  const nearest = nearestOf(name, names);
  if (nearest !== undefined) return `did you mean ${JSON.stringify(nearest)}?`;
  return `it knows ${names.slice(0, 20).join(", ")}${names.length > 20 ? ", …" : ""}`;
}
