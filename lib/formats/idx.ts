/**
 * IDX files, the form of MNIST and Fashion-MNIST (LeCun, http://yann.lecun.com/exdb/mnist/): two zeros, a type, the number
 * of dimensions, each dimension as a big-endian u32, then the numbers, the last dimension running fastest. Packed by gzip
 * or not. Only bytes are read; the other types are not in use for pictures.
 */

import { counted } from "../base/counted.ts";
import { FormatError } from "../base/errors.ts";
import { type Shape, show, sizeOf } from "../base/shape.ts";

export interface IdxData {
  readonly shape: Shape;
  readonly data: Uint8Array;
}

const BYTES = 0x08;

/** What a file's bytes hold. Throws `FormatError`, naming `name`. */
export async function readIdx(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<IdxData> {
  const bad = (what: string) => new FormatError(`Cannot read ${name}: ${what}`);
  const isPacked = bytes[0] === 0x1f && bytes[1] === 0x8b;
  const plain = isPacked
    ? await unpack(bytes).catch(() => {
      throw bad("its gzip data are damaged or truncated");
    })
    : bytes;
  const view = new DataView(plain.buffer, plain.byteOffset, plain.length);
  const dimensions = plain[3];
  const start = 4 + 4 * dimensions;
  if (plain.length < 4 || plain[0] !== 0 || plain[1] !== 0 || dimensions === 0) {
    throw bad("it is not an IDX file");
  }
  if (plain[2] !== BYTES) throw bad("its numbers are not bytes (type 0x08)");
  if (plain.length < start) throw bad(`it is truncated at ${counted(plain.length, "byte")}`);
  const shape = Array.from({ length: dimensions }, (_, i) => view.getUint32(4 + 4 * i));
  if (plain.length !== start + sizeOf(shape)) {
    throw bad(
      `${show(shape)} needs ${start + sizeOf(shape)} bytes, and it has ${plain.length}`,
    );
  }
  return { shape, data: plain.subarray(start) };
}

async function unpack(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
