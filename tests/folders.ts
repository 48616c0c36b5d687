/** Folders for tests, which vanish afterwards. */

import { join } from "node:path";

/** For as long as it is in scope. */
export interface TemporaryFolder extends AsyncDisposable {
  readonly path: string;
  at(...names: string[]): string;
}

export async function temporaryFolder(): Promise<TemporaryFolder> {
  const path = await Deno.makeTempDir();
  return {
    path,
    at: (...names) => join(path, ...names),
    [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }),
  };
}

/** Runs `work` in a folder that is removed afterwards. */
export async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  await using folder = await temporaryFolder();
  return await work(folder.path);
}

/** The names in a folder, sorted. */
export function names(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
}
