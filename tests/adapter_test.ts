import { equal, ok } from "node:assert/strict";

Deno.test("requestAdapter finds a WebGPU adapter, so that a green run never means that nothing ran", async () => {
  Deno.env.set("DENO_WEBGPU_BACKEND", "vulkan");
  const adapter = await navigator.gpu.requestAdapter();
  ok(
    adapter !== null,
    "there is no WebGPU adapter: apt-get install -y mesa-vulkan-drivers brings a software one",
  );
});

Deno.test({
  name: "openDevice asks llvmpipe for four threads a core, unless the user has said how many",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const mod = new URL("../mod.ts", import.meta.url);
    const script = `import { openDevice } from ${JSON.stringify(mod.href)};
await (await openDevice())[Symbol.asyncDispose]();
console.log(Deno.env.get("LP_NUM_THREADS"));`;
    const threads = async (said: Record<string, string>) => {
      const { stdout } = await new Deno.Command(Deno.execPath(), {
        args: ["eval", "--ext=ts", script],
        env: { ...environment, ...said },
        clearEnv: true,
        cwd: new URL("..", import.meta.url),
      }).output();
      return new TextDecoder().decode(stdout).trim();
    };
    const { LP_NUM_THREADS: _, ...environment } = Deno.env.toObject();
    equal(await threads({}), String(4 * navigator.hardwareConcurrency));
    equal(await threads({ LP_NUM_THREADS: "3" }), "3");
  },
});
