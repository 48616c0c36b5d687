/** What a conditioner is told, as numbers: the place of a class among names, with what is meant where it is misspelt. */

import { UsageError } from "../base/errors.ts";
import { hintOf } from "../base/nearest.ts";

/** The place of a class; the number of classes where none is told. Throws `UsageError` for a name that is no class. */
export function classId(name: string | undefined, classes: readonly string[]): number {
  if (name === undefined) return classes.length;
  const id = classes.indexOf(name);
  if (id >= 0) return id;
  throw new UsageError(
    `Cannot make a picture of class ${JSON.stringify(name)}: the model has no such class; ${
      hintOf(name, classes)
    }`,
  );
}
