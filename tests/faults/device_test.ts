/** The device is lost in each stage: one sentence, no picture, no hang. */

import { rejects } from "node:assert/strict";
import { DeviceError } from "../../lib/base/errors.ts";
import { loadModel } from "../../lib/engine/load.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import type { PipelineEvent } from "../../lib/pipelines/events.ts";
import { textToImage } from "../../lib/pipelines/text_to_image.ts";
import { fixture } from "../fixture.ts";

const SD1 = fixture("tiny/sd1");
const REQUEST = { prompt: "a fox", width: 32, height: 32, steps: 2 };

/** The event after which the device goes away, and the stage that then fails. */
const MOMENTS: readonly (readonly [stage: string, isMoment: (event: PipelineEvent) => boolean])[] =
  [
    ["the text encoder", ({ kind }) => kind === "plan"],
    ["the denoiser", (event) => event.kind === "step" && event.index === 0],
    ["the decoder", (event) => event.kind === "step" && event.index === 1],
  ];

async function makePicture(device: Device, lose: (event: PipelineEvent) => boolean): Promise<void> {
  await using model = await loadModel(device, SD1);
  for await (const event of textToImage(model, REQUEST)) if (lose(event)) device.gpu.destroy();
}

for (const [stage, isMoment] of MOMENTS) {
  Deno.test(`textToImage throws DeviceError when the device is lost before ${stage} runs`, async () => {
    await using device = await openDevice();
    await rejects(
      makePicture(device, isMoment),
      (error) => error instanceof DeviceError && /^[^\n]+$/.test(error.message),
    );
  });
}

Deno.test("loadModel throws DeviceError when the device is lost while weights stream in", async () => {
  await using device = await openDevice();
  const progress = () => device.gpu.destroy();
  await rejects(loadModel(device, SD1, { progress }), DeviceError);
});
