import { deepEqual, match } from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { readIdx } from "../../lib/formats/idx.ts";
import { failure } from "./made.ts";

const file = Uint8Array.of(0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6);

Deno.test("readIdx reads shape and bytes, packed or not", async () => {
  for (const bytes of [file, new Uint8Array(gzipSync(file))]) {
    const { shape, data } = await readIdx(bytes, "x");
    deepEqual(shape, [2, 3]);
    deepEqual([...data], [1, 2, 3, 4, 5, 6]);
  }
});

Deno.test("readIdx says what is wrong with a file that is cut off, damaged or something else", async () => {
  const packed = new Uint8Array(gzipSync(file));
  const cases: [Uint8Array<ArrayBuffer>, RegExp][] = [
    [file.slice(0, 17), /^Cannot read x: \[2, 3\] needs 18 bytes, and it has 17$/],
    [file.slice(0, 10), /it is truncated at 10 bytes$/],
    [file.slice(0, 3), /it is not an IDX file$/],
    [new Uint8Array(0), /it is not an IDX file$/],
    [Uint8Array.of(1, ...file.slice(1)), /it is not an IDX file$/],
    [Uint8Array.of(0, 0, 0x0d, ...file.slice(3)), /its numbers are not bytes/],
    [packed.slice(0, -9), /its gzip data are damaged or truncated$/],
  ];
  for (const [bytes, message] of cases) {
    match(await failure(readIdx(bytes, "x"), "FormatError"), message);
  }
});
