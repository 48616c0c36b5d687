/** Devices as kernels are told of them, where a test needs no device. */

import type { Profile } from "../../lib/kernels/kernel.ts";

/** The least that WebGPU promises, of either kind of device. */
export const LEAST: Omit<Profile, "kind"> = {
  maxBinding: 2 ** 27,
  maxTextureSide: 8192,
  maxWorkgroupMemory: 16384,
  maxInvocations: 256,
  f16: false,
};

/** What llvmpipe offers. */
export const LLVMPIPE: Profile = {
  kind: "software",
  maxBinding: 2 ** 27,
  maxTextureSide: 16384,
  maxWorkgroupMemory: 32768,
  maxInvocations: 1024,
  f16: true,
  subgroups: true,
};
