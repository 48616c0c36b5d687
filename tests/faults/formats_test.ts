import assert from "node:assert/strict";
import { SafetensorsFile, writeSafetensors } from "../../lib/formats/safetensors.ts";
import { writeWhole } from "../../lib/formats/files.ts";
import { decodePicture, encodePng, readPngText } from "../../lib/formats/png.ts";
import { temporaryFolder } from "../folders.ts";
import { failure, rawFile, withoutRenaming, writeCounting } from "../formats/made.ts";

/** The sentence with which a file of these bytes is refused. */
async function refusal(file: Uint8Array | string): Promise<string> {
  await using folder = await temporaryFolder();
  const path = folder.at("x.safetensors");
  await Deno.writeFile(path, typeof file === "string" ? new TextEncoder().encode(file) : file);
  const message = await failure(SafetensorsFile.open(path), "FormatError");
  assert.ok(message.startsWith(`Cannot read "${path}": `), message);
  return message;
}

const entry = (start: number, end: number, shape = `[${(end - start) / 2}]`, dtype = "F16") =>
  `{"dtype":"${dtype}","shape":${shape},"data_offsets":[${start},${end}]}`;

Deno.test("SafetensorsFile.open names a file cut at any byte of its header or its tensors as truncated", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("x.safetensors");
  await writeCounting(path, { a: [2, 3], "b.c": [5] }, "F16", { format: "pt" });
  const whole = await Deno.readFile(path);
  for (let length = 0; length < whole.length; length++) {
    await Deno.writeFile(path, whole.subarray(0, length));
    const message = await failure(SafetensorsFile.open(path), "FormatError");
    assert.match(message, length === 0 ? /is empty \(0 bytes\)/ : /is truncated/, `${length}`);
    assert.match(message, /download or copy it again$/);
  }
});

Deno.test("SafetensorsFile.open refuses header lengths that cannot be", async () => {
  for (const length of [2n ** 63n, 2n ** 64n - 1n, 100_000_001n]) {
    assert.match(
      await refusal(rawFile("{}", 0, length)),
      /not safetensors: its header would have \d+ bytes/,
    );
  }
  assert.match(
    await refusal(rawFile("{}", 0, 100_000_000n)),
    /truncated: its header has 100000000/,
  );
  assert.match(
    await refusal(rawFile("{}", 0, 3n)),
    /truncated: its header has 3 bytes, the file has 2/,
  );
  assert.match(await refusal(rawFile("", 0)), /header is not JSON/);
});

Deno.test("SafetensorsFile.open refuses headers that are not UTF-8, JSON or an object", async () => {
  assert.match(await refusal(rawFile(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d))), /not UTF-8/);
  assert.match(await refusal(rawFile(`{"a":`)), /not JSON/);
  assert.match(await refusal(rawFile(`{}{}`)), /not JSON/);
  assert.match(await refusal(rawFile(`[]`)), /not a JSON object/);
  assert.match(await refusal(rawFile(`null`)), /not a JSON object/);
  assert.match(await refusal(rawFile("[".repeat(200_000))), /not JSON/);
});

Deno.test("SafetensorsFile.open refuses overlaps, holes, and bytes outside or unclaimed", async () => {
  assert.match(
    await refusal(rawFile(`{"a":${entry(0, 6)},"b":${entry(4, 8)}}`, 8)),
    /"b" overlaps "a" by 2 bytes/,
  );
  assert.match(
    await refusal(rawFile(`{"a":${entry(0, 4)},"b":${entry(0, 4)}}`, 4)),
    /"b" overlaps "a" by 4 bytes/,
  );
  assert.match(
    await refusal(rawFile(`{"a":${entry(0, 2)},"b":${entry(4, 6)}}`, 6)),
    /hole of 2 bytes between "a" and "b"/,
  );
  assert.match(
    await refusal(rawFile(`{"a":${entry(2, 4)}}`, 4)),
    /hole of 2 bytes between the header and "a"/,
  );
  assert.match(
    await refusal(rawFile(`{"a":${entry(0, 4)}}`, 9)),
    /it goes on after "a" for 5 bytes that/,
  );
  assert.match(await refusal(rawFile(`{}`, 1)), /it goes on after the header for 1 byte that/);
  assert.match(
    await refusal(rawFile(`{"a":${entry(0, 2)},"b":${entry(2, 2 ** 40)}}`, 2)),
    /truncated or its header lies: "b" ends at byte 1099/,
  );
});

Deno.test("SafetensorsFile.open refuses shapes and offsets that do not fit together or are no numbers", async () => {
  const one = (shape: string, offsets: string, dtype = "F32") =>
    rawFile(`{"t":{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}}`, 8);
  assert.match(await refusal(one("[3]", "[0,8]")), /"t" takes 12 bytes as F32 \[3\], .* give 8/);
  assert.match(await refusal(one("[2]", "[8,0]")), /ends at 0, before its start at 8/);
  for (const shape of ["[-2]", "[1.5]", "[null]", `["2"]`, "{}", "[[2]]", "[9007199254740993]"]) {
    assert.match(
      await refusal(one(shape, "[0,8]")),
      /has no shape of non-negative integers/,
      shape,
    );
  }
  for (
    const shape of ["[4294967296,4294967296]", "[4503599627370496,4]", "[4294967298,4294967296]"]
  ) {
    assert.match(await refusal(one(shape, "[0,8]")), /takes \S+ bytes/, shape);
  }
  for (const offsets of ["[0]", "[0,4,8]", "[-8,0]", "[0,8.5]", "[0,18446744073709551616]", "8"]) {
    assert.match(await refusal(one("[2]", offsets)), /has no data_offsets of two/, offsets);
  }
  assert.match(await refusal(rawFile(`{"t":5}`)), /"t" is not an object/);
  assert.match(
    await refusal(rawFile(`{"t":{"shape":[],"data_offsets":[0,4]}}`, 4)),
    /has no dtype/,
  );
});

Deno.test("SafetensorsFile.open refuses unknown types by name, and eight-bit floats with a remedy", async () => {
  assert.match(
    await refusal(rawFile(`{"t":${entry(0, 2, "[1]", "Q4_K")}}`, 2)),
    /unknown dtype "Q4_K"/,
  );
  assert.match(
    await refusal(rawFile(`{"t":${entry(0, 2, "[1]", "toString")}}`, 2)),
    /unknown dtype/,
  );
  assert.match(
    await refusal(rawFile(`{"t":${entry(0, 1, "[1]", "F8_E4M3")}}`, 1)),
    /"t" holds 8-bit floats \(F8_E4M3\), which are not supported; use an F16, BF16 or F32 file/,
  );
});

Deno.test("SafetensorsFile.open refuses a name that occurs twice, however it is spelt", async () => {
  const twice = `"a":${entry(0, 2)}`;
  assert.match(await refusal(rawFile(`{${twice},${twice}}`, 2)), /names "a" twice/);
  assert.match(await refusal(rawFile(`{${twice},"\\u0061":${entry(2, 4)}}`, 4)), /names "a" twice/);
  assert.match(
    await refusal(rawFile(`{"a":{"dtype":"F16","shape":[1],"shape":[2],"data_offsets":[0,2]}}`, 2)),
    /names "shape" twice/,
  );
});

Deno.test("SafetensorsFile.open refuses metadata that is not a map of texts", async () => {
  assert.match(await refusal(rawFile(`{"__metadata__":[]}`)), /__metadata__ is not a map of texts/);
  assert.match(await refusal(rawFile(`{"__metadata__":{"a":1}}`)), /entry "a" is not a text/);
});

Deno.test("SafetensorsFile.open refuses other formats by name, with the remedy", async () => {
  const bytes = (text: string) => Uint8Array.from(text.padEnd(64, "\0"), (c) => c.charCodeAt(0));
  const cases: [string, RegExp][] = [
    [
      "PK\x03\x04\x00\x00\x08\x08archive/data.pkl",
      /zip archive, as PyTorch's .*pickle, .*convert it/,
    ],
    ["\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", /Python pickle \(a \.ckpt.*convert it/],
    ["\x80\x04\x95\x10", /Python pickle/],
    ["GGUF\x03\x00\x00\x00", /GGUF file .*get the model's \.safetensors/],
    ["\x08\x07\x12\x07pytorch\x1a\x05", /ONNX model/],
    ["<!DOCTYPE html><html>", /web page.*download it again/],
    ["\n <html lang=en>", /web page/],
    [`{"error":"Access denied"}`, /error message of a server/],
    ["version https://git-lfs.github.com/spec/v1\noid sha256:", /Git LFS pointer.*git lfs pull/],
    ["\x89HDF\r\n\x1a\n", /HDF5/],
    ["\x89PNG\r\n\x1a\n", /is a picture/],
    ["\x93NUMPY\x01\x00", /NumPy/],
  ];
  for (const [head, expected] of cases) assert.match(await refusal(bytes(head)), expected, head);
  assert.match(await refusal("hello, this is some text"), /not safetensors: its header would have/);
});

Deno.test("SafetensorsFile.open refuses a folder, a device, a missing and a forbidden file", async () => {
  await using folder = await temporaryFolder();
  const open = SafetensorsFile.open;
  assert.match(await failure(open(folder.path), "FormatError"), /is a folder/);
  assert.match(await failure(open("/dev/zero"), "FormatError"), /not a regular file/);
  assert.match(await failure(open(folder.at("none")), "FileError"), /no such file or folder$/);
  await writeCounting(folder.at("x"), { a: [1] });
  assert.match(await failure(open(folder.at("x", "y")), "FileError"), /not a folder$/);
});

Deno.test("SafetensorsFile.read says so when the file shrank after it was opened", async () => {
  await using folder = await temporaryFolder();
  await writeCounting(folder.at("x"), { a: [100], b: [100] });
  using file = await SafetensorsFile.open(folder.at("x"));
  await Deno.truncate(folder.at("x"), file.entry("b").start + 30);
  assert.match(await failure(file.read("b"), "FormatError"), /inside "b", 370 bytes short/);
});

Deno.test("SafetensorsFile.read refuses what was written over since the file was opened", async () => {
  await using folder = await temporaryFolder();
  await writeCounting(folder.at("x"), { a: [100], b: [100_000] });
  using file = await SafetensorsFile.open(folder.at("x"));
  assert.equal((await file.read("b")).length, 400_000);
  await Deno.utime(folder.at("x"), new Date(), new Date(2001, 1, 1));
  for (const name of ["a", "b"]) {
    assert.match(
      await failure(file.read(name), "FormatError"),
      new RegExp(`it was changed while it was open, before "${name}" was read; start again`),
    );
  }
});

Deno.test("SafetensorsFile.read gives each of several readers what it asked for", async () => {
  await using folder = await temporaryFolder();
  await writeCounting(folder.at("x"), { a: [100], b: [100_000], c: [50_000] });
  using file = await SafetensorsFile.open(folder.at("x"));
  const names = ["c", "b", "a", "b"];
  const alone: Uint8Array[] = [];
  for (const name of names) alone.push(await file.read(name));
  assert.deepEqual(await Promise.all(names.map((name) => file.read(name))), alone);
});

Deno.test("writeSafetensors refuses names used twice and data of another size, and leaves no file", async () => {
  await using folder = await temporaryFolder();
  const write = (...tensors: [string, number][]) =>
    writeSafetensors(
      folder.at("x"),
      tensors.map(([name, bytes]) => ({
        name,
        dtype: "F16",
        shape: [2],
        data: () => new Uint8Array(bytes),
      })),
    );
  assert.match(await failure(write(["a", 4], ["a", 4]), "FormatError"), /name "a" is taken/);
  assert.match(await failure(write(["__metadata__", 4]), "FormatError"), /is taken/);
  assert.match(
    await failure(write(["a", 4], ["b", 3]), "FormatError"),
    /"b" is F16 \[2\], 4 bytes, but 3 came/,
  );
  assert.deepEqual(await Array.fromAsync(Deno.readDir(folder.path)), []);
});

Deno.test("writeWhole says in one sentence that the disk is full or the folder cannot be written", async () => {
  const write = (path: string) =>
    withoutRenaming(() => failure(writeWhole(path, new Uint8Array(4096)), "FileError"));
  assert.match(await write("/dev/full"), /^Cannot write "\/dev\/full": the disk is full/);
  await using folder = await temporaryFolder();
  assert.match(await write(folder.path), /it is a folder/);
  assert.match(await write(folder.at("none", "x")), /no such file or folder$/);
  // /proc takes no files from anyone, not even from root, to whom permission bits mean nothing
  assert.match(await write("/proc/ldm.png"), /^Cannot write "\/proc\/ldm.png": /);
});

Deno.test("writeWhole killed while writing leaves the old file", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("x");
  await Deno.writeTextFile(path, "old");
  const script = `
    import { writeWhole } from ${
    JSON.stringify(new URL("../../lib/formats/files.ts", import.meta.url).href)
  };
    async function* pieces() {
      yield new Uint8Array(1 << 20);
      console.log("half");
      await new Promise((done) => setTimeout(done, 60_000));
    }
    await writeWhole(${JSON.stringify(path)}, pieces());`;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--ext=ts", "-"],
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(script));
  await writer.close();
  const reader = child.stdout.getReader();
  assert.match(new TextDecoder().decode((await reader.read()).value), /half/);
  child.kill("SIGKILL");
  await child.status;
  await reader.cancel();
  assert.equal(await Deno.readTextFile(path), "old");
});

Deno.test("decodePicture and readPngText refuse empty, damaged, cut and absurd pictures", async () => {
  const empty = new Uint8Array(0);
  assert.match(
    await failure(decodePicture(empty, `"a.png"`), "FormatError"),
    /^Cannot read "a.png": it is empty/,
  );
  assert.match(await failure(readPngText(empty), "FormatError"), /not a PNG/);
  const text = new TextEncoder().encode("not a picture at all");
  assert.match(
    await failure(decodePicture(text), "FormatError"),
    /not a sound PNG, JPEG, WebP, GIF or BMP/,
  );
  const png = await encodePng({
    width: 5,
    height: 4,
    channels: 3,
    data: Uint8Array.from({ length: 60 }, (_, i) => i),
  }, { text: [["parameters", "x"]] });
  for (let length = 1; length < png.length; length++) {
    await failure(decodePicture(png.slice(0, length)), "FormatError");
    await failure(readPngText(png.slice(0, length)), "FormatError");
  }
  for (let at = 8; at < png.length; at++) {
    const damaged = png.slice();
    damaged[at] ^= 1;
    await failure(decodePicture(damaged), "FormatError");
  }
});
