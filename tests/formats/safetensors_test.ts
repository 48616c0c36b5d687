import assert from "node:assert/strict";
import npm from "safetensors";
import {
  duplicateKey,
  FILE_BYTES,
  type FileDType,
  SafetensorsFile,
  writeSafetensors,
} from "../../lib/formats/safetensors.ts";
import { temporaryFolder } from "../folders.ts";
import { counting, failure, rawFile, writeCounting } from "./made.ts";

/** What is used of npm:safetensors, which ships no types. */
interface TheirFile {
  metadata: Map<string, { dtype: string; shape: number[]; data_offsets: number[] }>;
  getTensor(name: string): Uint8Array;
}

const DTYPES = Object.keys(FILE_BYTES) as FileDType[];

/** One tensor of every type and of awkward shapes, with bytes that are all different. */
function everything() {
  const shapes = [[3, 5], [], [0], [2, 0, 4], [1], [7, 1, 1]];
  return DTYPES.flatMap((dtype) =>
    shapes.map((shape, i) => {
      const bytes = shape.reduce((product, n) => product * n, FILE_BYTES[dtype]);
      const data = Uint8Array.from({ length: bytes }, (_, at) => 31 * at + 7 * i + dtype.length);
      return { name: `${dtype} ${i} "ä"\n\u{1f98a}`, dtype, shape, data };
    })
  );
}

Deno.test("writeSafetensors then SafetensorsFile gives back every type, shape, name and metadata", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("all.safetensors");
  const metadata = { format: "pt", "a b": "ü\n" };
  await writeSafetensors(path, everything(), metadata);
  using file = await SafetensorsFile.open(path);
  assert.deepEqual(Object.fromEntries(file.metadata), metadata);
  assert.equal(file.tensors.size, everything().length);
  for (const { name, dtype, shape, data } of everything()) {
    const entry = file.entry(name);
    assert.deepEqual([entry.dtype, entry.shape], [dtype, shape]);
    assert.deepEqual(await file.read(name), data);
    assert.equal(entry.start % FILE_BYTES[dtype], 0, "aligned");
  }
  assert.equal((await Deno.readFile(path)).length, [...file.tensors.values()].at(-1)!.end);
});

Deno.test("writeSafetensors writes equal bytes for equal tensors in any order", async () => {
  await using folder = await temporaryFolder();
  await writeSafetensors(folder.at("a"), everything());
  await writeSafetensors(folder.at("b"), everything().reverse());
  assert.deepEqual(await Deno.readFile(folder.at("a")), await Deno.readFile(folder.at("b")));
});

Deno.test("SafetensorsFile reads a file without metadata as npm:safetensors does", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("plain.safetensors");
  await writeCounting(path, { "a.weight": [3, 4], "b": [5], "c.d": [2, 1, 3] });
  const theirs: TheirFile = new npm.SafeTensor(await Deno.readFile(path));
  using file = await SafetensorsFile.open(path);
  assert.deepEqual([...theirs.metadata.keys()].sort(), [...file.tensors.keys()].sort());
  for (const [name, { dtype, shape, data_offsets }] of theirs.metadata) {
    assert.deepEqual({ name, dtype, shape, start: data_offsets[0], end: data_offsets[1] }, {
      ...file.entry(name),
    });
    assert.deepEqual(theirs.getTensor(name), await file.read(name));
  }
});

Deno.test("SafetensorsFile.readTensor widens every float type exactly and refuses integers", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("floats.safetensors");
  const values = Float32Array.of(0, -0, 1, -2.5, 0.15625, 240);
  const words = new Uint32Array(values.buffer);
  const arrays = {
    F64: Float64Array.from(values),
    F32: values,
    F16: Float16Array.from(values),
    BF16: Uint16Array.from(words, (w) => w >>> 16), // these six need no more than 8 bits
    I32: new Int32Array(6),
  };
  await writeSafetensors(
    path,
    Object.entries(arrays).map(([name, array]) => ({
      name,
      dtype: name as FileDType,
      shape: [2, 3],
      data: new Uint8Array(array.buffer),
    })),
  );
  using file = await SafetensorsFile.open(path);
  for (const name of ["F64", "F32", "F16", "BF16"]) {
    assert.deepEqual(await file.readTensor(name), values, name);
  }
  assert.match(await failure(file.readTensor("I32"), "FormatError"), /"I32": its type is I32/);
});

Deno.test("SafetensorsFile.readRange gives any bytes of a tensor, in the caller's buffer when it fits", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("t");
  await writeCounting(path, { a: [10], b: [6, 4], c: [3] });
  const bytes = new Uint8Array(counting([6, 4], 1).buffer);
  using file = await SafetensorsFile.open(path);
  const buffer = new Uint8Array(64);
  for (const [from, to] of [[0, 96], [16, 32], [95, 96], [7, 7], [3, 66]]) {
    const part = await file.readRange("b", from, to, buffer);
    assert.deepEqual(part, bytes.slice(from, to));
    assert.equal(part.buffer === buffer.buffer, to - from <= 64);
  }
  for (const [from, to] of [[-1, 3], [0, 97], [5, 4], [0.5, 2], [NaN, 2]]) {
    await assert.rejects(file.readRange("b", from, to), RangeError);
  }
});

Deno.test("SafetensorsFile gives out no more than one tensor at a time, and reuses the caller's buffer", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("large.safetensors");
  const bytes = 4 << 20;
  let made = 0; // tensors that exist at once while writing
  await writeSafetensors(
    path,
    Array.from({ length: 16 }, (_, i) => ({
      name: `t${i}`,
      dtype: "F32" as const,
      shape: [bytes / 4],
      data: () => {
        made++;
        return new Uint8Array(new Float32Array(bytes / 4).fill(i).buffer);
      },
    })),
  );
  assert.equal(made, 16);

  // every buffer of a mebibyte or more that is made while the file is open and read
  const sizes: number[] = [];
  const Original = globalThis.Uint8Array;
  globalThis.Uint8Array = new Proxy(Original, {
    construct(target, args, newTarget) {
      if (typeof args[0] === "number" && args[0] >= 1 << 20) sizes.push(args[0]);
      return Reflect.construct(target, args, newTarget);
    },
  });
  try {
    using file = await SafetensorsFile.open(path);
    assert.deepEqual(sizes, [], "opening reads no tensor");
    for (let i = 0; i < 16; i++) {
      const data = await file.read(`t${i}`);
      assert.equal(new Float32Array(data.buffer)[bytes / 4 - 1], i);
    }
    assert.deepEqual(sizes, new Array(16).fill(bytes), "one array of its own size for each tensor");
    sizes.length = 0;
    const scratch = new Uint8Array(bytes);
    for (let i = 0; i < 16; i++) {
      assert.equal((await file.read(`t${i}`, scratch)).buffer, scratch.buffer);
      assert.equal(new Float32Array(scratch.buffer)[5], i);
    }
    assert.deepEqual(sizes, [bytes], "only the scratch buffer");
  } finally {
    globalThis.Uint8Array = Original;
  }
});

Deno.test("SafetensorsFile accepts what the format allows: padding, no tensors, empty ones, holes in names", async () => {
  await using folder = await temporaryFolder();
  const open = async (file: Uint8Array) => {
    await Deno.writeFile(folder.at("x"), file);
    using opened = await SafetensorsFile.open(folder.at("x"));
    return [...opened.tensors.keys()];
  };
  assert.deepEqual(await open(rawFile("{}")), []);
  assert.deepEqual(await open(rawFile("{}      ")), []);
  assert.deepEqual(await open(rawFile(`{"__metadata__":{}}`)), []);
  const empty = `"dtype":"F16","shape":[0,3],"data_offsets":[2,2]`;
  const one = `"dtype":"F16","shape":[],"data_offsets":[0,2]`;
  assert.deepEqual(await open(rawFile(`{"e":{${empty}},"":{${one}}}`, 2)), ["", "e"]);
  assert.deepEqual(await open(rawFile(`{"__proto__":{${one}}}`, 2)), ["__proto__"]);
  // headers of such lengths begin like a pickle
  for (const length of [0x280, 0x10280, 0x100480]) {
    assert.deepEqual(await open(rawFile(`{"a":{${one}}}`.padEnd(length), 2)), ["a"]);
  }
});

Deno.test("SafetensorsFile.read after close is refused", async () => {
  await using folder = await temporaryFolder();
  await writeCounting(folder.at("x"), { a: [1] });
  const file = await SafetensorsFile.open(folder.at("x"));
  file.close();
  file.close();
  assert.match(await failure(file.read("a"), "FormatError"), /is closed/);
});

Deno.test("duplicateKey finds a name twice in one object, not in two, nor in texts or lists", () => {
  assert.equal(
    duplicateKey(`{"a":1,"b":{"a":1},"c":["a","a",{"a":2}],"d":"a\\",\\"a"}`),
    undefined,
  );
  assert.equal(duplicateKey(`{"a":1,"b":2,"a":3}`), "a");
  assert.equal(duplicateKey(`{"a":1,"b":2,"\\u0061":3}`), "a");
  assert.equal(duplicateKey(`{"x":{"shape":[1],"dtype":"F32","shape":[2]}}`), "shape");
  assert.equal(duplicateKey(`[{"q":[[]],"q":{}}]`), "q");
  assert.equal(duplicateKey(`{"":"","":""}`), "");
});
