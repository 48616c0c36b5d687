import { equal } from "node:assert/strict";
import { writeInfotext } from "../../lib/formats/infotext.ts";

Deno.test("writeInfotext gives AUTOMATIC1111's three parts", () => {
  const text = writeInfotext({
    prompt: "a red fox",
    negativePrompt: "blurry",
    entries: { Steps: 20, Sampler: "DPM++ 2M", "Clip skip": undefined, Size: "512x768" },
  });
  equal(text, "a red fox\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M, Size: 512x768");
});

Deno.test("writeInfotext leaves out an empty negative prompt and strips an empty prompt's line", () => {
  equal(writeInfotext({ prompt: "", negativePrompt: "", entries: { Steps: 1 } }), "Steps: 1");
});

Deno.test("writeInfotext quotes what readers would cut, and only that", () => {
  const model = (name: string) =>
    writeInfotext({ prompt: "", negativePrompt: "", entries: { Model: name } });
  equal(model("a b-c_d"), "Model: a b-c_d");
  equal(model("a, b"), 'Model: "a, b"');
  equal(model('é: "x"\n'), 'Model: "é: \\"x\\"\\n"');
});
