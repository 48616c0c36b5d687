/** WGSL sources are imported as text: `import source from "../../wgsl/x.wgsl" with { type: "text" }`. */
declare module "*.wgsl" {
  const source: string;
  export default source;
}

/** Vocabularies likewise. */
declare module "*.txt" {
  const text: string;
  export default text;
}
