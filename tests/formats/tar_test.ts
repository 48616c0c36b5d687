import { deepEqual, equal, match, throws } from "node:assert/strict";
import { TarFile } from "../../lib/formats/tar.ts";
import { temporaryFolder } from "../folders.ts";
import { goldenBytes, goldenText } from "./data_golden.ts";
import { failure } from "./made.ts";

Deno.test("TarFile finds the files of GNU's and pax archives, with their long names, and nothing else", async () => {
  await using folder = await temporaryFolder();
  const long = await goldenText("long_name");
  for (const kind of ["gnu", "pax"]) {
    const path = folder.at(`${kind}.tar`);
    await Deno.writeFile(path, await goldenBytes(`tar.${kind}`));
    using tar = await TarFile.open(path);
    deepEqual(tar.entries.map(({ name, size }) => [name, size]), [
      ["folder/one.txt", 1],
      ["empty.cls", 0],
      [long, 600],
      ["last", 3],
    ]);
    const contents = tar.entries.toReversed().map((entry) =>
      new TextDecoder().decode(tar.read(entry))
    );
    deepEqual(contents, ["end", "x".repeat(600), "", "1"]);
  }
});

Deno.test("TarFile reads numbers of eight bits and pax sizes, which great files have", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("big.tar");
  await Deno.writeFile(
    path,
    new Uint8Array([...header("a", "\x80" + "\0".repeat(9) + "\x02\x01")]),
  );
  match(await failure(TarFile.open(path), "FormatError"), /is truncated at 512 bytes$/);
  const attributes = "13 size=1024\n8 a=b=c\n";
  const extended = block(attributes);
  await Deno.writeFile(
    path,
    new Uint8Array([
      ...header("x", octal(attributes.length), "x"),
      ...extended,
      ...header("a", octal(0)),
      ...new Uint8Array(1024).fill(7),
      ...header("b", octal(1)),
      ...block("b"),
    ]),
  );
  using tar = await TarFile.open(path);
  deepEqual(tar.entries.map(({ name, size }) => [name, size]), [["a", 1024], ["b", 1]]);
});

Deno.test("TarFile says what is wrong with a file that is no archive, packed, damaged or cut off", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("x.tar");
  const whole = await goldenBytes("tar.gnu");
  const second = whole.slice();
  second[512] ^= 1;
  const cases: [Uint8Array<ArrayBuffer>, RegExp][] = [
    [new TextEncoder().encode("no archive".repeat(100)), /it is not a tar archive$/],
    [Uint8Array.of(0x1f, 0x8b, ...new Uint8Array(600)), /it is packed; unpack it to a .tar first$/],
    [second, /the header at byte 512 is damaged$/],
    [whole.slice(0, 1024), /is truncated at 1024 bytes$/],
    [whole.slice(0, 1500), /is truncated at 1500 bytes$/],
    [whole.slice(0, 1700), /is truncated at 1700 bytes$/],
    [new Uint8Array(0), /it is not a tar archive \(0 bytes\)$/],
  ];
  for (const [bytes, message] of cases) {
    await Deno.writeFile(path, bytes);
    match(await failure(TarFile.open(path), "FormatError"), message);
  }
  match(await failure(TarFile.open(folder.at("none")), "FileError"), /no such file/);
  await Deno.writeFile(path, whole);
  using tar = await TarFile.open(path);
  await Deno.truncate(path, 600);
  throws(() => tar.read(tar.entries[2]), /is truncated/);
  equal(tar.path, path);
});

/** A header made here, independently of the reader. */
function header(name: string, size: string, type = "0"): Uint8Array {
  const out = new Uint8Array(512);
  const put = (at: number, text: string) => {
    for (let i = 0; i < text.length; i++) out[at + i] = text.charCodeAt(i);
  };
  put(0, name);
  put(124, size);
  put(148, " ".repeat(8));
  put(156, type);
  put(257, "ustar\x0000");
  put(148, out.reduce((a, b) => a + b, 0).toString(8).padStart(6, "0") + "\0 ");
  return out;
}

const octal = (n: number) => n.toString(8).padStart(11, "0") + "\0";

function block(text: string): Uint8Array {
  const out = new Uint8Array(512);
  out.set(new TextEncoder().encode(text));
  return out;
}
