// deno-lint-ignore-file no-control-regex -- file signatures hold control characters
/**
 * The safetensors format (huggingface/safetensors): u64 length, JSON header, then the tensors'
 * bytes, row-major, little-endian, without holes or overlaps. A file is checked completely when it
 * is opened; tensors are then read one by one by offset.
 */
import { counted } from "../base/counted.ts";
import { fromBf16, fromF16, toF16 } from "../base/dtype.ts";
import { FormatError } from "../base/errors.ts";
import { type Shape, show, sizeOf } from "../base/shape.ts";
import { fileError, writeWhole } from "./files.ts";

/** The format's own names of types. */
export type FileDType =
  | `F${64 | 32 | 16}`
  | "BF16"
  | `${"I" | "U"}${64 | 32 | 16 | 8}`
  | "BOOL";

/** Bytes of one element. */
export const FILE_BYTES: Readonly<Record<FileDType, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
};

/** Types that the format knows and this reader does not. */
const REFUSED: Readonly<Record<string, string>> = {
  F8_E4M3: "8-bit floats",
  F8_E5M2: "8-bit floats",
  F8_E4M3FNUZ: "8-bit floats",
  F8_E5M2FNUZ: "8-bit floats",
  F8_E8M0: "8-bit exponents",
  F6_E2M3: "6-bit floats",
  F6_E3M2: "6-bit floats",
  F4: "4-bit floats",
  C64: "complex numbers",
};

/** What a tensor is and where it lies. */
export interface TensorEntry {
  /** Its key in the file. */
  readonly name: string;
  /** Type of its values. */
  readonly dtype: FileDType;
  /** Its extents. */
  readonly shape: Shape;
  /** Position of its first byte in the file. */
  readonly start: number;
  /** Position behind its last byte. */
  readonly end: number;
}

/**
 * The header's greatest length in bytes: the reference implementation's limit. Real ones are below
 * 1 MB.
 */
const HEADER_LIMIT = 100_000_000;
/** Bytes asked of the operating system at once: each piece waits for the event loop, which others may block. */
const PIECE = 128 << 20;
/** Reads of fewer bytes are over before another thread would have begun. */
const SMALL = 256 << 10;

/**
 * An open safetensors file. Holds the header only; every read allocates one tensor (or fills the
 * caller's buffer).
 */
export class SafetensorsFile implements Disposable {
  /** As it was opened. */
  readonly path: string;
  /** Its `__metadata__`. */
  readonly metadata: ReadonlyMap<string, string>;
  /** In the order of their bytes in the file. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly #file: Deno.FsFile;
  /** When the file was last written, and its size, when its header was read. */
  readonly #stamp: string;
  /** The last read that was asked for: reads take turns, since they share the file's position. */
  #turn: Promise<unknown> = Promise.resolve();
  #closed = false;

  private constructor(path: string, file: Deno.FsFile, header: Header, stamp: string) {
    this.path = path;
    this.#file = file;
    this.#stamp = stamp;
    this.metadata = header.metadata;
    this.tensors = header.tensors;
  }

  /**
   * Opens and checks a file. Throws `FileError` when it cannot be read and `FormatError` when it is
   * another format (named, with the remedy), truncated, or when its header breaks a rule of the
   * format.
   */
  static async open(path: string): Promise<SafetensorsFile> {
    let file: Deno.FsFile | undefined;
    try {
      const info = await Deno.stat(path);
      if (info.isDirectory) throw bad(path, "it is a folder, a .safetensors file was needed");
      if (!info.isFile) throw bad(path, "it is not a regular file, a .safetensors file was needed");
      file = await Deno.open(path);
      const header = readHeader(path, file, info.size);
      const opened = new SafetensorsFile(path, file, header, stampOf(file.statSync()));
      file = undefined;
      return opened;
    } catch (error) {
      throw fileError("read", path, error);
    } finally {
      file?.close();
    }
  }

  /** The entry of a tensor. Throws `FormatError` when the file has none of this name. */
  entry(name: string): TensorEntry {
    const entry = this.tensors.get(name);
    if (!entry) throw bad(this.path, `it has no tensor "${name}"`);
    return entry;
  }

  /**
   * The bytes of one tensor: in `into` (its beginning) where that is given and large enough, else
   * in a new array.
   */
  read(name: string, into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
    const { start, end } = this.entry(name);
    return this.readRange(name, 0, end - start, into);
  }

  /**
   * Bytes `from` ≤ i < `to` of one tensor, counted from its first; as {@link read}. The reading goes on while the caller
   * computes. Throws `FormatError` when the file was changed since it was opened.
   */
  async readRange(
    name: string,
    from: number,
    to: number,
    into?: Uint8Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const { start, end } = this.entry(name);
    if (!(Number.isInteger(from) && 0 <= from && from <= to && to <= end - start)) {
      throw new RangeError(
        `Bytes ${from} to ${to} do not exist in "${name}" (${end - start} bytes)`,
      );
    }
    const length = to - from;
    const out = into && into.length >= length ? into.subarray(0, length) : new Uint8Array(length);
    const reading = this.#turn.then(() => this.#fill(out, start + from, name));
    this.#turn = reading.catch(() => {});
    await reading;
    return out;
  }

  /**
   * One tensor of floats widened (or, from F64, rounded) to f32. Throws `FormatError` when it holds
   * integers.
   */
  async readTensor(name: string): Promise<Float32Array<ArrayBuffer>> {
    return toFloat32(this.entry(name).dtype, await this.read(name), name);
  }

  /** Closes the file; what was read stays. */
  close(): void {
    if (!this.#closed) this.#file.close();
    this.#closed = true;
  }

  /** As `close`. */
  [Symbol.dispose](): void {
    this.close();
  }

  async #fill(out: Uint8Array, position: number, name: string): Promise<void> {
    if (this.#closed) throw new FormatError(`Cannot read "${name}": "${this.path}" is closed`);
    try {
      const got = out.length < SMALL
        ? readAt(this.#file, out, position)
        : await readWhileOthersWork(this.#file, out, position);
      if (got < out.length) {
        throw bad(
          this.path,
          `it ends at byte ${position + got} inside "${name}", ${
            counted(out.length - got, "byte")
          } short: ` +
            `the file was changed while it was open`,
        );
      }
      if (stampOf(this.#file.statSync()) !== this.#stamp) {
        throw bad(
          this.path,
          `it was changed while it was open, before "${name}" was read; ${TWICE}`,
        );
      }
    } catch (error) {
      throw fileError("read", this.path, error);
    }
  }
}

const TWICE = "start again with the file as it is now";

/** What tells that a file was written to. */
function stampOf({ mtime, size }: Deno.FileInfo): string {
  return `${mtime?.getTime()} ${size}`;
}

/**
 * Floats of any width as f32. Throws `FormatError`, naming the tensor, for integers. `data` starts
 * on an element boundary.
 */
export function toFloat32(
  dtype: FileDType,
  data: Uint8Array<ArrayBuffer>,
  name: string,
): Float32Array<ArrayBuffer> {
  const convert = WIDEN[dtype];
  if (!convert) {
    throw new FormatError(`Cannot use "${name}": its type is ${dtype}, floats were needed`);
  }
  const aligned = data.byteOffset % FILE_BYTES[dtype] === 0 ? data : data.slice();
  return convert(aligned.buffer, aligned.byteOffset, aligned.byteLength / FILE_BYTES[dtype]);
}

type Widen = (b: ArrayBuffer, offset: number, length: number) => Float32Array<ArrayBuffer>;
const WIDEN: Readonly<Partial<Record<FileDType, Widen>>> = {
  F64: (b, offset, length) => new Float32Array(new Float64Array(b, offset, length)),
  F32: (b, offset, length) => new Float32Array(b, offset, length),
  F16: (b, offset, length) => fromF16(new Uint16Array(b, offset, length)),
  BF16: (b, offset, length) => fromBf16(new Uint16Array(b, offset, length)),
};

/** Names come from the file and may hold anything: the sentence stays on one line. */
function bad(path: string, what: string): FormatError {
  const line = what.replace(/[\x00-\x1f\x7f]/g, (c) => JSON.stringify(c).slice(1, -1));
  return new FormatError(`Cannot read "${path}": ${line}`);
}

/** As `readAt`, on another thread. */
async function readWhileOthersWork(
  file: Deno.FsFile,
  out: Uint8Array,
  position: number,
): Promise<number> {
  file.seekSync(position, Deno.SeekMode.Start);
  let got = 0;
  while (got < out.length) {
    const n = await file.read(out.subarray(got, got + PIECE));
    if (n === null) break;
    got += n;
  }
  return got;
}

/** Reads until `out` is full or the file ends; returns how many bytes came. */
function readAt(file: Deno.FsFile, out: Uint8Array, position: number): number {
  file.seekSync(position, Deno.SeekMode.Start);
  let got = 0;
  while (got < out.length) {
    const n = file.readSync(out.subarray(got, got + PIECE));
    if (n === null) break;
    got += n;
  }
  return got;
}

// ---- header

interface Header {
  readonly metadata: ReadonlyMap<string, string>;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
}

const AGAIN = "download or copy it again";

function readHeader(path: string, file: Deno.FsFile, size: number): Header {
  if (size === 0) throw bad(path, `it is empty (0 bytes); ${AGAIN}`);
  const head = new Uint8Array(Math.min(size, 512));
  const first = head.subarray(0, readAt(file, head, 0));
  const length = first.length < 8 ? undefined : new DataView(first.buffer).getBigUint64(0, true);
  const plausible = length !== undefined && 2n <= length && length <= HEADER_LIMIT &&
    (first.length === 8 || first[8] === 0x7b);
  if (!plausible) {
    const other = recognise(first);
    if (other) throw bad(path, other);
  }
  if (length === undefined) {
    throw bad(
      path,
      `it is truncated: ${counted(size, "byte")}, the header's length alone takes 8; ${AGAIN}`,
    );
  }
  if (length > HEADER_LIMIT) {
    throw bad(
      path,
      `it is not safetensors: its header would have ${length} bytes, at most ${HEADER_LIMIT} are allowed`,
    );
  }
  if (BigInt(size) - 8n < length) {
    throw bad(
      path,
      `it is truncated: its header has ${length} bytes, the file has ${
        size - 8
      } after the length; ${AGAIN}`,
    );
  }
  const bytes = new Uint8Array(Number(length));
  if (readAt(file, bytes, 8) < bytes.length) throw bad(path, `it became shorter while it was read`);
  return parseHeader(path, bytes, size);
}

/** Checks every rule of the format. `size` is the whole file's. */
function parseHeader(path: string, bytes: Uint8Array, size: number): Header {
  const root = parseJson(path, bytes);
  const data = 8 + bytes.length; // where the tensors' bytes begin
  const metadata = new Map<string, string>();
  const entries: TensorEntry[] = [];
  for (const [name, value] of Object.entries(root)) {
    if (name !== "__metadata__") {
      entries.push(parseEntry(path, name, value, data));
      continue;
    }
    if (!isObject(value)) throw bad(path, `its __metadata__ is not a map of texts`);
    for (const [key, text] of Object.entries(value)) {
      if (typeof text !== "string") {
        throw bad(path, `its __metadata__ entry "${key}" is not a text`);
      }
      metadata.set(key, text);
    }
  }
  entries.sort((a, b) => a.start - b.start || a.end - b.end);
  const needed = entries.reduce((most, { end }) => Math.max(most, end), data);
  if (needed > size) {
    const last = entries.find(({ end }) => end > size)!;
    throw bad(
      path,
      `it is truncated or its header lies: "${last.name}" ends at byte ${last.end}, the file at ${size}; ${AGAIN}`,
    );
  }
  let at = data;
  let before = "the header";
  for (const { name, start, end } of entries) {
    if (start < at) {
      throw bad(path, `"${name}" overlaps ${before} by ${counted(at - start, "byte")}`);
    }
    if (start > at) {
      throw bad(
        path,
        `there is a hole of ${counted(start - at, "byte")} between ${before} and "${name}"`,
      );
    }
    at = end;
    before = `"${name}"`;
  }
  if (at < size) {
    throw bad(
      path,
      `it goes on after ${before} for ${counted(size - at, "byte")} that no tensor claims`,
    );
  }
  return { metadata, tensors: new Map(entries.map((entry) => [entry.name, entry])) };
}

function parseEntry(path: string, name: string, value: unknown, data: number): TensorEntry {
  const wrong = (what: string) => bad(path, `its entry "${name}" ${what}`);
  if (!isObject(value)) throw wrong("is not an object with dtype, shape and data_offsets");
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string") throw wrong("has no dtype");
  if (!isFileDType(dtype)) {
    const kind = Object.hasOwn(REFUSED, dtype) ? REFUSED[dtype] : undefined;
    if (!kind) throw wrong(`has the unknown dtype "${dtype}"`);
    throw wrong(`holds ${kind} (${dtype}), which are not supported; use an F16, BF16 or F32 file`);
  }
  if (!isNaturals(shape)) throw wrong("has no shape of non-negative integers");
  if (!isNaturals(offsets) || offsets.length !== 2) {
    throw wrong("has no data_offsets of two non-negative integers");
  }
  const [start, end] = offsets;
  if (end < start) throw wrong(`ends at ${end}, before its start at ${start}`);
  // past 2^53 the product is inexact, but then it equals no offset
  const bytes = sizeOf(shape) * FILE_BYTES[dtype];
  if (bytes !== end - start) {
    throw wrong(
      `takes ${bytes} bytes as ${dtype} ${show(shape)}, its data_offsets give ${end - start}`,
    );
  }
  if (!Number.isSafeInteger(data + end)) throw wrong(`has the impossible end ${end}`);
  return { name, dtype, shape, start: data + start, end: data + end };
}

function parseJson(path: string, bytes: Uint8Array): Record<string, unknown> {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw bad(path, `its header is not UTF-8 text; ${AGAIN}`);
  }
  try {
    value = JSON.parse(text);
  } catch {
    throw bad(path, `its header is not JSON; ${AGAIN}`);
  }
  if (!isObject(value)) throw bad(path, "its header is not a JSON object");
  const twice = duplicateKey(text);
  if (twice !== undefined) throw bad(path, `its header names "${twice}" twice`);
  return value;
}

/**
 * The first name that occurs twice in one object of a valid JSON text: `JSON.parse` keeps the last
 * and says nothing.
 */
export function duplicateKey(json: string): string | undefined {
  // for each nesting level the names seen, or undefined in an array
  const open: (Set<string> | undefined)[] = [];
  let atName = false; // the next string is a name
  for (let i = 0; i < json.length; i++) {
    const c = json[i];
    if (c === "{") open.push(new Set());
    else if (c === "[") open.push(undefined);
    else if (c === "}" || c === "]") open.pop();
    else if (c === '"') {
      const from = i++;
      for (; json[i] !== '"'; i++) if (json[i] === "\\") i++;
      const names = open.at(-1);
      if (!atName || !names) continue;
      const name: string = JSON.parse(json.slice(from, i + 1));
      if (names.has(name)) return name;
      names.add(name);
      atName = false;
    }
    if (c === "{" || c === ",") atName = true;
  }
  return undefined;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function isFileDType(name: string): name is FileDType {
  return Object.hasOwn(FILE_BYTES, name);
}

// ---- other formats, by their first bytes

const PICKLE = "which can run any code when it is opened; " +
  "only safetensors is read: get the model's .safetensors file, or convert it with a tool you trust";
const ONLY = "only safetensors is read: get the model's .safetensors file";

/** First matching row wins. `text` is the beginning as Latin-1. */
const OTHERS: readonly (readonly [RegExp, string])[] = [
  [
    /^PK(\x03\x04|\x05\x06|\x07\x08)/,
    `it is a zip archive, as PyTorch's .ckpt, .pt and .bin are: a pickle, ${PICKLE}`,
  ],
  [/^\x80[\x02-\x05][^\0]/, `it is a Python pickle (a .ckpt, .pt, .pth or .bin file), ${PICKLE}`],
  [/^GGUF/, `it is a GGUF file (quantised for llama.cpp or stable-diffusion.cpp); ${ONLY}`],
  [/^(GGML|lmgg|ggjt|tjgg|fmgg)/, `it is a GGML file; ${ONLY}`],
  [/^\x08[\x01-\x0f](\x12|\x1a|\x22|\x2a|\x3a|\x42)/, `it is an ONNX model; ${ONLY}`],
  [
    /^version https:\/\/git-lfs/,
    "it is a Git LFS pointer, not the file itself; run `git lfs pull` where it came from",
  ],
  [
    /^(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml|head|!--)/i,
    "it is a web page, not a model: the download went wrong (does it need a login?); download it again",
  ],
  [
    /^(\xef\xbb\xbf)?\s*\{"(error|message|detail)"/i,
    "it is an error message of a server, not a model; download it again",
  ],
  [/^\x89HDF/, `it is an HDF5 (Keras) file; ${ONLY}`],
  [/^\x93NUMPY/, `it is a NumPy array; ${ONLY}`],
  [/^(\x89PNG|\xff\xd8\xff|RIFF....WEBP|GIF8)/s, "it is a picture, a model was needed"],
  [/^\x1f\x8b/, "it is gzip-compressed; decompress it first"],
  [/^Rar!|^7z\xbc\xaf/, "it is a compressed archive; unpack it first"],
];

function recognise(head: Uint8Array): string | undefined {
  const text = String.fromCharCode(...head);
  return OTHERS.find(([pattern]) => pattern.test(text))?.[1];
}

// ---- writing

/** A tensor to be written. */
export interface TensorData {
  /** Its key in the file. */
  readonly name: string;
  /** Type of its values. */
  readonly dtype: FileDType;
  /** Its extents. */
  readonly shape: Shape;
  /** Its values, row-major; made when its turn comes where it is a function, so that only one is in memory. */
  readonly data: Uint8Array | (() => Uint8Array | Promise<Uint8Array>);
}

/** Types that floats can be written as. */
export const FLOAT_TYPES = ["f32", "f16"] as const;
export type FloatType = (typeof FLOAT_TYPES)[number];

/** A tensor of floats, rounded to what it is to be written as. */
export function floatTensor(
  name: string,
  shape: Shape,
  values: Float32Array<ArrayBuffer>,
  dtype: FloatType = "f32",
): TensorData {
  const { buffer, byteOffset, byteLength } = dtype === "f16" ? toF16(values) : values;
  const data = new Uint8Array(buffer, byteOffset, byteLength);
  return { name, dtype: dtype === "f16" ? "F16" : "F32", shape, data };
}

/**
 * Writes a file whole or not at all. Tensors are laid out as the reference implementation does,
 * widest type first and then by name, so every tensor is aligned and equal content gives equal
 * bytes. Throws `FileError` when the system refuses, `FormatError` for a name used twice or data of
 * the wrong length.
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorData>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const sorted = [...tensors].sort((a, b) =>
    FILE_BYTES[b.dtype] - FILE_BYTES[a.dtype] || (a.name < b.name ? -1 : 1)
  );
  const header = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) header.set("__metadata__", metadata);
  let at = 0;
  for (const { name, dtype, shape } of sorted) {
    if (header.has(name) || name === "__metadata__") {
      throw new FormatError(`Cannot write "${path}": the tensor name "${name}" is taken`);
    }
    const end = at + sizeOf(shape) * FILE_BYTES[dtype];
    header.set(name, { dtype, shape, data_offsets: [at, end] });
    at = end;
  }
  const fields = [...header].map(([k, v]) => `${JSON.stringify(k)}:${JSON.stringify(v)}`);
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const start = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  new DataView(start.buffer).setBigUint64(0, BigInt(start.length - 8), true);
  start.set(json, 8);

  async function* chunks() {
    yield start;
    for (const { name, dtype, shape, data } of sorted) {
      const bytes = data instanceof Uint8Array ? data : await data();
      const needed = sizeOf(shape) * FILE_BYTES[dtype];
      if (bytes.length !== needed) {
        throw new FormatError(
          `Cannot write "${path}": "${name}" is ${dtype} ${
            show(shape)
          }, ${needed} bytes, but ${bytes.length} came`,
        );
      }
      yield bytes;
    }
  }
  await writeWhole(path, chunks());
}
