/** Where fixtures stand. */

import { fileURLToPath } from "node:url";

/** The path of what stands under this path in fixtures/. */
export const fixture = (path: string): string =>
  fileURLToPath(new URL(`../fixtures/${path}`, import.meta.url));
