/**
 * ComfyUI's "prompt", written: the graph of nodes that makes a picture, in the form its server takes (`nodes.py`,
 * `SaveImage`), with the nodes and numbers of the graph that ComfyUI starts with.
 */

/** What the plain graph says. Names of sampler and schedule are ComfyUI's. */
export interface ComfyGraph {
  /** The checkpoint's file name. */
  readonly checkpoint: string;
  /** Another autoencoder's file name. */
  readonly vae?: string | undefined;
  /** What to show. */
  readonly prompt: string;
  /** What not to show. */
  readonly negativePrompt: string;
  /** Pixels. */
  readonly width: number;
  /** Pixels. */
  readonly height: number;
  /** Of the noise. */
  readonly seed: number;
  /** Sampling steps. */
  readonly steps: number;
  /** 1 is no guidance. */
  readonly cfgScale: number;
  /** 0 is off. */
  readonly guidanceRescale: number;
  /** As ComfyUI names it. */
  readonly sampler: string;
  /** As ComfyUI names it. */
  readonly schedule: string;
  /** A picture that the walk begins with, by its file name, and how much of it changes; absent: it begins with noise. */
  readonly start?: { readonly image: string; readonly strength: number } | undefined;
  /** The text encoder's layer that is read, from its last, which is 1, where it is not the one ComfyUI takes by itself. */
  readonly clipLayer?: number | undefined;
}

/** The text for the PNG key "prompt": ASCII, as Python's `json.dumps` writes it. */
export function writeComfyGraph(graph: ComfyGraph): string {
  const { clipLayer, guidanceRescale, vae, start, width, height } = graph;
  const node = (class_type: string, inputs: Readonly<Record<string, unknown>>) => ({
    inputs,
    class_type,
  });
  const from = (id: string, output: number) => [id, output];
  const [sampler, checkpoint, latent, positive, negative, decode, save] = [
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
  ]; // the numbers of ComfyUI's own first graph
  const [skip, rescale, otherVae, load, scale] = ["10", "11", "12", "13", "14"];
  const firstStage = vae === undefined ? from(checkpoint, 2) : from(otherVae, 0);
  const clip = clipLayer !== undefined ? from(skip, 0) : from(checkpoint, 1);
  const nodes = {
    [sampler]: node("KSampler", {
      seed: graph.seed,
      steps: graph.steps,
      cfg: graph.cfgScale,
      sampler_name: graph.sampler,
      scheduler: graph.schedule,
      denoise: start?.strength ?? 1,
      model: guidanceRescale > 0 ? from(rescale, 0) : from(checkpoint, 0),
      positive: from(positive, 0),
      negative: from(negative, 0),
      latent_image: from(latent, 0),
    }),
    [checkpoint]: node("CheckpointLoaderSimple", { ckpt_name: graph.checkpoint }),
    [latent]: start
      ? node("VAEEncode", { pixels: from(scale, 0), vae: firstStage })
      : node("EmptyLatentImage", { width, height, batch_size: 1 }),
    [positive]: node("CLIPTextEncode", { text: graph.prompt, clip }),
    [negative]: node("CLIPTextEncode", { text: graph.negativePrompt, clip }),
    [decode]: node("VAEDecode", {
      samples: from(sampler, 0),
      vae: firstStage,
    }),
    [save]: node("SaveImage", { filename_prefix: "ldm", images: from(decode, 0) }),
    ...(clipLayer !== undefined && {
      [skip]: node("CLIPSetLastLayer", {
        stop_at_clip_layer: -clipLayer,
        clip: from(checkpoint, 1),
      }),
    }),
    ...(guidanceRescale > 0 && {
      [rescale]: node("RescaleCFG", { multiplier: guidanceRescale, model: from(checkpoint, 0) }),
    }),
    ...(start && {
      [load]: node("LoadImage", { image: start.image }),
      [scale]: node("ImageScale", {
        image: from(load, 0),
        upscale_method: "lanczos",
        width,
        height,
        crop: "disabled",
      }),
    }),
    ...(vae !== undefined && { [otherVae]: node("VAELoader", { vae_name: vae }) }),
  };
  return JSON.stringify(nodes).replaceAll(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
