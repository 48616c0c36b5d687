/**
 * Liveness → slots: which values share memory. Greedy by size for shared objects
 * (Pisarchyk & Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020): the largest value first,
 * each into the tightest slot that is free during its whole life, else into a new one.
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

/** Assigns every value a slot. Slots are as large as their largest value. */
export function planSlots(values: readonly Life[]): Plan {
  const order = values.map((_, i) => i).sort((a, b) => values[b].bytes - values[a].bytes || a - b);
  const slots: { bytes: number; kind: "buffer" | "texture"; holds: Life[] }[] = [];
  const slotOf = new Array<number>(values.length);
  for (const i of order) {
    const value = values[i];
    const isFree = (slot: { kind: string; holds: Life[] }) =>
      slot.kind === value.kind &&
      slot.holds.every((held) => held.last < value.first || value.last < held.first);
    let best = -1;
    for (const [j, slot] of slots.entries()) {
      if (isFree(slot) && (best < 0 || slot.bytes < slots[best].bytes)) best = j;
    }
    if (best < 0) {
      best = slots.length;
      slots.push({ bytes: value.bytes, kind: value.kind, holds: [] });
    }
    slots[best].holds.push(value);
    slotOf[i] = best;
  }
  return {
    slots: slots.map(({ bytes, kind }) => ({ bytes, kind })),
    slotOf,
    bytes: slots.reduce((sum, slot) => sum + slot.bytes, 0),
  };
}
