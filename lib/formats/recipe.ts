/**
 * What a picture is made with, as prompt files and the metadata of pictures say it. Fields are named as a request to the
 * pipelines is, so that a recipe can be laid over one; names of samplers and schedules are still those of the file.
 */

/** Whatever a file leaves out is undefined. */
export interface Recipe {
  readonly prompt?: string;
  readonly negativePrompt?: string;
  /** Pixels. */
  readonly width?: number;
  readonly height?: number;
  readonly steps?: number;
  readonly cfgScale?: number;
  readonly guidanceRescale?: number;
  /** Any tool's spelling. */
  readonly sampler?: string;
  readonly schedule?: string;
  readonly eta?: number;
  /** −1 draws one. */
  readonly seed?: number;
  readonly batchCount?: number;
  /** Whose generator the noise is: torch's on a CPU or on CUDA. */
  readonly rng?: "cpu" | "cuda";
  readonly clipSkip?: number;
}
