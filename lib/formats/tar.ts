/**
 * Tar archives (POSIX.1-2001 "ustar" and pax, GNU's long names): where each file lies, found by going from header to
 * header, so that files can then be read in any order. Links, folders and devices are passed over.
 */

import { counted } from "../base/counted.ts";
import { FormatError } from "../base/errors.ts";
import { fileError } from "./files.ts";

/** A file in an archive; `start` is the position of its first byte. */
export interface TarEntry {
  readonly name: string;
  readonly start: number;
  readonly size: number;
}

const BLOCK = 512;
/** Names and attributes of this size were not written for a file. */
const MOST_ATTRIBUTES = 2 ** 20;

/** What headers say of the file after them. */
interface Attributes {
  path?: string;
  size?: number;
}

export class TarFile implements Disposable {
  readonly path: string;
  /** In the order of the archive. */
  readonly entries: readonly TarEntry[];
  readonly #file: Deno.FsFile;

  private constructor(path: string, file: Deno.FsFile, entries: readonly TarEntry[]) {
    this.path = path;
    this.#file = file;
    this.entries = entries;
  }

  /** Opens an archive and reads its headers. Throws `FileError`, and `FormatError` for what is no archive or cut off. */
  static async open(path: string): Promise<TarFile> {
    let file: Deno.FsFile | undefined;
    try {
      file = await Deno.open(path);
      const entries = [...entriesOf(file, path)];
      const opened = new TarFile(path, file, entries);
      file = undefined;
      return opened;
    } catch (error) {
      throw fileError("read", path, error);
    } finally {
      file?.close();
    }
  }

  /** A file's bytes. Throws `FileError`, and `FormatError` where the archive was cut since it was opened. */
  read({ start, size }: TarEntry): Uint8Array<ArrayBuffer> {
    try {
      // no wait between them: reads share the file's position
      return readAt(this.#file, start, size, this.path);
    } catch (error) {
      throw fileError("read", this.path, error);
    }
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

function readAt(
  file: Deno.FsFile,
  start: number,
  size: number,
  path: string,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size);
  file.seekSync(start, Deno.SeekMode.Start);
  for (let at = 0; at < size;) {
    const count = file.readSync(bytes.subarray(at));
    if (count === null) throw bad(path, `it is truncated at ${counted(start + at, "byte")}`);
    at += count;
  }
  return bytes;
}

function bad(path: string, what: string): FormatError {
  return new FormatError(`Cannot read the archive "${path}": ${what}`);
}

function* entriesOf(file: Deno.FsFile, path: string): Generator<TarEntry> {
  const { size: length } = file.statSync();
  const defaults: Attributes = {};
  let own: Attributes = {};
  if (length < BLOCK) throw bad(path, `it is not a tar archive (${counted(length, "byte")})`);
  for (let at = 0; at !== length;) {
    if (at + BLOCK > length) throw bad(path, `it is truncated at ${counted(length, "byte")}`);
    const header = readAt(file, at, BLOCK, path);
    if (header.every((byte) => byte === 0)) return;
    if (!isHeader(header)) throw bad(path, notHeader(header, at));
    const { path: name, size } = { ...fieldsOf(header), ...defaults, ...own };
    const start = at + BLOCK;
    const type = String.fromCharCode(header[156]);
    const attributes = ATTRIBUTES[type];
    // what describes another file has a size of its own
    const bytes = attributes ? fieldsOf(header).size : size;
    if (!Number.isSafeInteger(bytes)) throw bad(path, `the header at byte ${at} is damaged`);
    if (start + bytes > length) throw bad(path, `it is truncated at ${counted(length, "byte")}`);
    if (attributes) {
      if (bytes > MOST_ATTRIBUTES) throw bad(path, `the header at byte ${at} is damaged`);
      const found = attributes(readAt(file, start, bytes, path));
      Object.assign(type === "g" ? defaults : own, found);
    } else {
      if (isFile(type)) yield { name: name.replace(/^(\.\/+)+/, ""), start, size };
      own = {};
    }
    at = start + Math.ceil(bytes / BLOCK) * BLOCK;
  }
}

/** Types of headers that say something of the next, or of all: their contents' attributes. */
const ATTRIBUTES: Readonly<
  Partial<Record<string, (content: Uint8Array) => Attributes>>
> = {
  L: (content) => ({ path: textOf(content) }),
  K: () => ({}), // where a link leads
  x: paxAttributes,
  g: paxAttributes,
};

function isFile(type: string): boolean {
  return type === "0" || type === "\0" || type === "7";
}

/** "<length> <key>=<value>\n" again and again; the length counts all of that in bytes. */
function paxAttributes(content: Uint8Array): Attributes {
  const found: Attributes = {};
  for (let at = 0; at < content.length;) {
    const space = content.indexOf(0x20, at);
    const length = Number(textOf(content.subarray(at, space)));
    if (space < 0 || !(length > space - at)) break;
    const record = textOf(content.subarray(space + 1, at + length - 1));
    const [, key, value] = /^([^=]*)=(.*)$/s.exec(record) ?? [];
    if (key === "path") found.path = value;
    if (key === "size") found.size = Number(value);
    at += length;
  }
  return found;
}

function fieldsOf(header: Uint8Array): { path: string; size: number } {
  const name = textOf(header.subarray(0, 100));
  const prefix = textOf(header.subarray(345, 500));
  const isPosix = textOf(header.subarray(257, 265)) === "ustar"; // GNU's "ustar  " has times there
  return {
    path: isPosix && prefix !== "" ? `${prefix}/${name}` : name,
    size: numberOf(header.subarray(124, 136)),
  };
}

/** Text up to the first zero. */
function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/** Octal digits, or where the first bit is set a big-endian number after it (GNU). */
function numberOf(bytes: Uint8Array): number {
  if (bytes[0] & 0x80) return bytes.subarray(1).reduce((n, byte) => n * 256 + byte, 0);
  return parseInt(textOf(bytes).trim() || "0", 8);
}

/** Whether a block's checksum is right: the sum of its bytes, those of the checksum taken as spaces. */
function isHeader(block: Uint8Array): boolean {
  let sum = 0;
  for (let i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? 0x20 : block[i];
  return sum === numberOf(block.subarray(148, 156));
}

function notHeader(block: Uint8Array, at: number): string {
  if (at > 0) return `the header at byte ${at} is damaged`;
  const packed = (block[0] === 0x1f && block[1] === 0x8b) ||
    (block[0] === 0x28 && block[1] === 0xb5);
  return packed ? "it is packed; unpack it to a .tar first" : "it is not a tar archive";
}
