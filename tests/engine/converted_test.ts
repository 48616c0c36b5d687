import { deepEqual, equal } from "node:assert/strict";
import { folderClip } from "../../lib/engine/converted.ts";
import { clipConfigFromJson } from "../../lib/models/config_from_json.ts";
import { fixture } from "../fixture.ts";

Deno.test("folderClip leaves out what a file of SD 2 has beyond the states that it uses, as published folders do", async () => {
  const read = async (name: string) =>
    JSON.parse(await Deno.readTextFile(fixture(`configs/${name}.json`))).text_encoder;
  const published = clipConfigFromJson(await read("sd2_inpainting"));
  equal(published.layers, 23);
  const whole = { ...published, layers: 24, projection: 1024 };
  deepEqual(folderClip("sd2", whole), published);
  deepEqual(folderClip("sd2", published), published);
  const first = clipConfigFromJson(await read("sd15"));
  for (const family of ["sd1", "sdxl"] as const) deepEqual(folderClip(family, first), first);
});
