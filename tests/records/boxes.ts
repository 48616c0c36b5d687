/** A denoiser that is told what lies where: shapes in boxes, asked for in layouts that it was never shown. */

import { join } from "node:path";
import { type LabelledBox, overlapOf } from "../../lib/base/box.ts";
import type { Picture } from "../../lib/base/picture.ts";
import { torchCpu } from "../../lib/base/random.ts";
import { drawBoxes } from "../../lib/formats/draw_boxes.ts";
import {
  drawn,
  type Figure,
  meanOf,
  type Recipe,
  reconstructed,
  trained,
  writeDataset,
  writeSheet,
} from "./record.ts";
import {
  COARSE,
  drawShapes,
  findShape,
  FINE,
  type Grid,
  isShape,
  randomLayout,
  SIDE,
} from "./shapes.ts";

/** Layouts that each of both is trained with, and that are asked for afterwards. */
const TRAINED = 2000;
const ASKED = 64;

type Layout = readonly LabelledBox[];

export const boxes: Recipe = {
  needs: [],
  run: async function* (device, folder) {
    const pictures = join(folder, "pictures");
    await writeDataset(pictures, layouts(TRAINED, FINE).map(example));
    const first = join(folder, "first");
    yield await trained("autoencoder", "boxes_first", { data: pictures, folder: first });

    const all = layouts(TRAINED + ASKED, COARSE);
    const asked = all.slice(TRAINED);
    const data = join(folder, "layouts");
    await writeDataset(data, all.slice(0, TRAINED).map(example));
    const originals = asked.map(drawShapes);
    const again = await reconstructed(device, join(first, "vae"), originals);
    yield { what: "mean IoU in drawn pictures", value: judge(asked, originals).overlap };
    yield { what: "mean IoU in reconstructions", value: judge(asked, again).overlap };

    const model = join(folder, "model");
    const set = [`first_stage=${join(first, "vae")}`];
    yield await trained("diffusion", "boxes", { data, folder: model, set });
    const made = await drawn(
      device,
      model,
      asked.map((boxes, i) => ({ prompt: "", boxes, seed: i, steps: 20 })),
    );
    yield* figures(asked, made);
    const shown = made.slice(0, 16);
    await writeSheet(
      join(folder, "boxes.png"),
      [...shown, ...shown.map((picture, i) => drawBoxes(picture, asked[i]))],
      { columns: shown.length },
    );
  },
};

/** Layouts by chance, none twice. */
function layouts(count: number, grid: Grid): Layout[] {
  const source = torchCpu(0);
  const random = () => source.uniform(1)[0];
  const all = new Map<string, Layout>();
  while (all.size < count) {
    const layout = randomLayout(random, grid);
    all.set(layout.map((box) => JSON.stringify(box)).sort().join(), layout);
  }
  return [...all.values()];
}

function example(layout: Layout) {
  return { picture: drawShapes(layout), said: { objects: layout.map(annotated) } };
}

/** An object as metadata.jsonl has it: left, top, width, height in pixels. */
function annotated({ label, left, top, right, bottom }: LabelledBox) {
  return { label, bbox: [left, top, right - left, bottom - top].map((share) => share * SIDE) };
}

/** How pictures keep to layouts; what is not found overlaps by nothing. */
function judge(asked: readonly Layout[], pictures: readonly Picture[]) {
  const objects = asked.flatMap((layout, i) =>
    layout.map((box) => ({ box, found: findShape(pictures[i], box.label) }))
  );
  const share = (count: number) => count / objects.length;
  return {
    overlap: meanOf(objects.map(({ box, found }) => found ? overlapOf(box, found.box) : 0)),
    found: share(objects.filter(({ found }) => found).length),
    shaped: share(
      objects.filter(({ box, found }) => found && isShape(box.label, found.shape)).length,
    ),
    objects: objects.length,
  };
}

function* figures(asked: readonly Layout[], made: readonly Picture[]): Generator<Figure> {
  const { overlap, found, shaped, objects } = judge(asked, made);
  yield { what: "mean IoU of asked and found boxes", value: overlap, least: 0.6 };
  yield { what: `share of ${objects} objects whose colour was found`, value: found };
  yield { what: "share with the right shape", value: shaped };
}
