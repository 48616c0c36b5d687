/** The one device that tests run on: whatever adapter exists, with the smallest limits WebGPU allows. */

import assert from "node:assert/strict";
import type { Profile } from "../lib/kernels/kernel.ts";

/** A device, and the check that nothing went wrong on it outside any error scope. */
export interface TestDevice {
  readonly gpu: GPUDevice;
  /** Throws when the device reported an error since it was opened. */
  readonly check: () => void;
}

async function open(requiredFeatures: GPUFeatureName[] = []): Promise<TestDevice> {
  // Without a Vulkan driver the default back end would fall back to OpenGL; this makes that an honest failure.
  if (Deno.build.os === "linux") Deno.env.set("DENO_WEBGPU_BACKEND", "vulkan");
  if (!Deno.env.has("XDG_RUNTIME_DIR")) Deno.env.set("XDG_RUNTIME_DIR", "/tmp");
  const adapter = await navigator.gpu?.requestAdapter();
  assert.ok(adapter, "Tests need a WebGPU adapter; on Debian install mesa-vulkan-drivers");
  const gpu = await adapter.requestDevice({ requiredFeatures }); // the minimum limits
  const errors: string[] = [];
  gpu.addEventListener("uncapturederror", (event) => {
    errors.push(event instanceof GPUUncapturedErrorEvent ? event.error.message : event.type);
  });
  return { gpu, check: () => assert.deepEqual(errors, []) };
}

let plain: Promise<TestDevice> | undefined;
let withSubgroups: Promise<TestDevice | undefined> | undefined;

/** The shared device, without features. Fails where there is no adapter: a green run never means that nothing ran. */
export function testDevice(): Promise<TestDevice> {
  return plain ??= open();
}

/** The shared device with subgroups, and f16 where the driver has that too; `undefined` where it has no subgroups. */
export async function subgroupDevice(): Promise<TestDevice | undefined> {
  await testDevice();
  return await (withSubgroups ??= open(["subgroups", "shader-f16"])
    .catch(() => open(["subgroups"])).catch(() => undefined));
}

/** What kernels are told of the device; `change` pretends another kind or smaller limits. */
export function profileOf({ gpu }: TestDevice, change: Partial<Profile>): Profile {
  return {
    kind: "software",
    maxBinding: gpu.limits.maxStorageBufferBindingSize,
    maxTextureSide: gpu.limits.maxTextureDimension2D,
    maxWorkgroupMemory: gpu.limits.maxComputeWorkgroupStorageSize,
    maxInvocations: gpu.limits.maxComputeInvocationsPerWorkgroup,
    f16: gpu.features.has("shader-f16"),
    subgroups: gpu.features.has("subgroups"),
    ...change,
  };
}
