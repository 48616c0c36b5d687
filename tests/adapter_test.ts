import { ok } from "node:assert/strict";

Deno.test("requestAdapter finds a WebGPU adapter, so that a green run never means that nothing ran", async () => {
  Deno.env.set("DENO_WEBGPU_BACKEND", "vulkan");
  const adapter = await navigator.gpu.requestAdapter();
  ok(
    adapter !== null,
    "there is no WebGPU adapter: apt-get install -y mesa-vulkan-drivers brings a software one",
  );
});
