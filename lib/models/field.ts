/** A field of what a JSON file says; `undefined` where that has none, or is nothing that has fields. */
export function fieldOf(json: unknown, name: string): unknown {
  return typeof json === "object" && json !== null ? Reflect.get(json, name) : undefined;
}
