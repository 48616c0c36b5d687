import assert from "node:assert/strict";
import { firstNonFinite, fromBf16, fromF16, toBf16, toF16 } from "../../lib/base/dtype.ts";

const PATTERNS = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** The value of a bit pattern by IEEE 754's definition. */
function valueOf(bits: number, exponentBits: number, mantissaBits: number): number {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> mantissaBits) & ((1 << exponentBits) - 1);
  const mantissa = (bits & ((1 << mantissaBits) - 1)) / 2 ** mantissaBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  if (exponent === 2 ** exponentBits - 1) return mantissa === 0 ? sign * Infinity : NaN;
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias);
  return sign * (1 + mantissa) * 2 ** (exponent - bias);
}

Deno.test("fromF16 gives every one of the 65,536 patterns its value, toF16 gives it back", () => {
  const values = fromF16(PATTERNS);
  const back = new Uint16Array(toF16(values).buffer);
  for (const bits of PATTERNS) {
    assert.ok(Object.is(values[bits], valueOf(bits, 5, 10)), `0x${bits.toString(16)}`);
    if (!Number.isNaN(values[bits])) assert.equal(back[bits], bits);
    else assert.ok((back[bits] & 0x7fff) > 0x7c00);
  }
});

Deno.test("fromBf16 gives every one of the 65,536 patterns its value, toBf16 gives it back", () => {
  const values = fromBf16(PATTERNS);
  const back = toBf16(values);
  for (const bits of PATTERNS) {
    assert.ok(Object.is(values[bits], valueOf(bits, 8, 7)), `0x${bits.toString(16)}`);
    if (!Number.isNaN(values[bits])) assert.equal(back[bits], bits);
    else assert.ok((back[bits] & 0x7fff) > 0x7f80);
  }
});

Deno.test("toBf16 and toF16 round to nearest, ties to even, between any two neighbours", () => {
  const formats = [
    { from: fromBf16, to: toBf16, last: 0x7f7f },
    { from: fromF16, to: (v: Float32Array) => new Uint16Array(toF16(v).buffer), last: 0x7bff },
  ];
  for (const { from, to, last } of formats) {
    const values = from(PATTERNS);
    const below = new Float32Array(last);
    const ties = new Float32Array(last);
    const above = new Float32Array(last);
    for (let bits = 0; bits < last; bits++) {
      ties[bits] = (values[bits] + values[bits + 1]) / 2;
      const word = new Uint32Array(ties.buffer)[bits];
      below[bits] = new Float32Array(Uint32Array.of(word - 1).buffer)[0];
      above[bits] = new Float32Array(Uint32Array.of(word + 1).buffer)[0];
    }
    const [down, even, up] = [to(below), to(ties), to(above)];
    for (let bits = 0; bits < last; bits++) {
      assert.equal(down[bits], bits);
      assert.equal(even[bits], bits + (bits & 1));
      assert.equal(up[bits], bits + 1);
    }
  }
});

Deno.test("firstNonFinite tells each of the 65,536 patterns, wherever it stands in a word", () => {
  for (const [dtype, limit] of [["f16", 0x7c00], ["bf16", 0x7f80]] as const) {
    for (const place of [0, 1]) {
      const pair = new Uint16Array(2);
      for (const bits of PATTERNS) {
        pair[place] = bits;
        const expected = (bits & 0x7fff) >= limit ? place : -1;
        assert.equal(firstNonFinite(dtype, pair), expected, `${dtype} 0x${bits.toString(16)}`);
      }
    }
  }
});

Deno.test("firstNonFinite finds the first one in blocks, in tails and off word boundaries", () => {
  for (const length of [1, 3, 1024, 2047, 2049, 5001]) {
    for (
      const at of [0, 1, length >> 1, length - 2, length - 1].filter((i) => 0 <= i && i < length)
    ) {
      const halves = new Uint16Array(length + 1).fill(0x3c00);
      for (const data of [halves.subarray(0, length), halves.subarray(1)]) {
        assert.equal(firstNonFinite("f16", data), -1);
        data[at] = 0xfc00;
        data[length - 1] = 0x7e00;
        assert.equal(firstNonFinite("f16", data), at);
        data.fill(0x3c00);
      }
      const floats = new Float32Array(length).fill(-3e38);
      assert.equal(firstNonFinite("f32", floats), -1);
      floats[at] = NaN;
      assert.equal(firstNonFinite("f32", floats), at);
    }
  }
  assert.equal(firstNonFinite("i32", new Int32Array([-1, 0x7fc00000])), -1);
  assert.equal(firstNonFinite("f32", new Float32Array(0)), -1);
});
