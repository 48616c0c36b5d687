/**
 * Liveness → slots: which values share memory. Greedy for shared objects, by size or by breadth, whichever takes less
 * (Pisarchyk & Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
 * Slots are whole buffers or textures, because WebGPU tracks use by buffer, not by range.
 */

/** A value that needs memory from step `first` to step `last`, both included. */
export interface Life {
  readonly bytes: number;
  readonly kind: "buffer" | "texture";
  readonly first: number;
  readonly last: number;
}

/** Memory shared by values whose lives do not meet. */
export interface Slot {
  readonly bytes: number;
  readonly kind: "buffer" | "texture";
}

export interface Plan {
  readonly slots: readonly Slot[];
  /** Slot of each value, in the order given. */
  readonly slotOf: readonly number[];
  /** Bytes of all slots. */
  readonly bytes: number;
}

/** Assigns every value a slot: for buffers and for textures in the order that takes less. */
export function planSlots(values: readonly Life[]): Plan {
  const order = (["buffer", "texture"] as const).flatMap((kind) => {
    const own = [...values.keys()].filter((i) => values[i].kind === kind);
    const [sizes, breadths] = [bySize(values, own), byBreadth(values, own)];
    return placed(values, sizes).bytes <= placed(values, breadths).bytes ? sizes : breadths;
  });
  return placed(values, order);
}

function bySize(values: readonly Life[], own: readonly number[]): number[] {
  return [...own].sort((a, b) => values[b].bytes - values[a].bytes || a - b);
}

/** What is alive at the step where most bytes are, the largest first; then at the next such step, and so on. */
function byBreadth(values: readonly Life[], own: readonly number[]): number[] {
  const alive: number[][] = [];
  for (const i of bySize(values, own)) {
    for (let step = values[i].first; step <= values[i].last; step++) (alive[step] ??= []).push(i);
  }
  const breadths = Array.from(
    alive,
    (here = []) => here.reduce((sum, i) => sum + values[i].bytes, 0),
  );
  const steps = [...breadths.keys()].sort((a, b) => breadths[b] - breadths[a] || a - b);
  return [...new Set(steps.flatMap((step) => alive[step] ?? []))];
}

/**
 * Values in this order, each in the tightest slot that is free during its whole life and large enough, else in the
 * largest free one, which grows, else in a new one.
 */
function placed(values: readonly Life[], order: readonly number[]): Plan {
  const slots: { bytes: number; kind: "buffer" | "texture"; holds: Life[] }[] = [];
  const slotOf = new Array<number>(values.length);
  for (const i of order) {
    const value = values[i];
    const isBetter = (bytes: number, best: number) =>
      best < value.bytes ? bytes > best : bytes >= value.bytes && bytes < best;
    let best = -1;
    for (const [j, slot] of slots.entries()) {
      if (slot.kind !== value.kind || (best >= 0 && !isBetter(slot.bytes, slots[best].bytes))) {
        continue;
      }
      const isFree = slot.holds.every((held) => held.last < value.first || value.last < held.first);
      if (isFree) best = j;
    }
    if (best < 0) {
      best = slots.length;
      slots.push({ bytes: value.bytes, kind: value.kind, holds: [] });
    }
    slots[best].holds.push(value);
    slots[best].bytes = Math.max(slots[best].bytes, value.bytes);
    slotOf[i] = best;
  }
  return {
    slots: slots.map(({ bytes, kind }) => ({ bytes, kind })),
    slotOf,
    bytes: slots.reduce((sum, slot) => sum + slot.bytes, 0),
  };
}
