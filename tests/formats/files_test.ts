import assert from "node:assert/strict";
import { fileError, writeNew, writeWhole } from "../../lib/formats/files.ts";
import { temporaryFolder } from "../folders.ts";
import { failure, withoutRenaming } from "./made.ts";

const names = async (path: string) =>
  (await Array.fromAsync(Deno.readDir(path), (e) => e.name)).sort();

Deno.test("writeWhole writes bytes and pieces, replaces a file, and leaves nothing else behind", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("a file.bin");
  await writeWhole(path, Uint8Array.of(1, 2, 3));
  assert.deepEqual(await Deno.readFile(path), Uint8Array.of(1, 2, 3));
  await Deno.chmod(path, 0o640);
  await writeWhole(path, [Uint8Array.of(4), new Uint8Array(0), Uint8Array.of(5, 6)]);
  assert.deepEqual(await Deno.readFile(path), Uint8Array.of(4, 5, 6));
  assert.equal((await Deno.stat(path)).mode! & 0o777, 0o640);
  await writeWhole(path, new Uint8Array(0));
  assert.equal((await Deno.stat(path)).size, 0);
  assert.deepEqual(await names(folder.path), ["a file.bin"]);
});

Deno.test("writeWhole shows nothing of a file until it is complete, and keeps the old one when writing fails", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("x");
  await Deno.writeTextFile(path, "old");
  async function* pieces() {
    yield Uint8Array.of(1);
    assert.equal(await Deno.readTextFile(path), "old");
    assert.equal((await names(folder.path)).length, 2, "a temporary file in the same folder");
    throw new Error("the maker failed");
  }
  await assert.rejects(writeWhole(path, pieces()), /^Error: the maker failed$/);
  assert.equal(await Deno.readTextFile(path), "old");
  assert.deepEqual(await names(folder.path), ["x"]);
});

Deno.test("writeWhole flushes the file to the disk before it takes the name", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("x");
  const sync = Deno.FsFile.prototype.sync;
  let flushed = 0;
  Deno.FsFile.prototype.sync = async function () {
    await assert.rejects(Deno.stat(path), Deno.errors.NotFound);
    flushed++;
    await sync.call(this);
  };
  try {
    await writeWhole(path, Uint8Array.of(1));
  } finally {
    Deno.FsFile.prototype.sync = sync;
  }
  assert.equal(flushed, 1);
});

Deno.test("writeWhole follows a symbolic link and leaves it in place", async () => {
  await using folder = await temporaryFolder();
  await Deno.writeTextFile(folder.at("target"), "old");
  await Deno.symlink(folder.at("target"), folder.at("link"));
  await writeWhole(folder.at("link"), new TextEncoder().encode("new"));
  assert.equal(await Deno.readTextFile(folder.at("target")), "new");
  assert.ok((await Deno.lstat(folder.at("link"))).isSymlink);
});

Deno.test("writeWhole writes to a device directly instead of replacing it", async () => {
  await withoutRenaming(() => writeWhole("/dev/null", Uint8Array.of(1)));
  assert.ok((await Deno.lstat("/dev/null")).isCharDevice);
});

Deno.test("fileError turns the system's errors into sentences and leaves other errors alone", async () => {
  const other = new RangeError("no");
  assert.equal(fileError("write", "x", other), other);
  const missing = await Deno.stat("/nonexistent/a").catch((e) => e);
  const error = fileError("read", "/nonexistent/a", missing);
  assert.ok(error instanceof Error);
  assert.equal(error.message, `Cannot read "/nonexistent/a": there is no such file or folder`);
  assert.equal(error.cause, missing);
  await using folder = await temporaryFolder();
  const message = await failure(
    writeWhole(folder.at("n".repeat(300)), new Uint8Array(1)),
    "FileError",
  );
  assert.match(message, /the name is too long$/);
});

Deno.test("writeNew takes a name that nothing has, and leaves what has it alone", async () => {
  const link = Deno.link;
  for (const hasLinks of [true, false]) {
    await using folder = await temporaryFolder();
    const path = folder.at("x");
    if (!hasLinks) Deno.link = () => Promise.reject(new Deno.errors.PermissionDenied());
    try {
      assert.equal(await writeNew(path, Uint8Array.of(1)), true);
      assert.equal(await writeNew(path, Uint8Array.of(2)), false);
      await Deno.symlink(folder.at("nowhere"), folder.at("broken"));
      assert.equal(await writeNew(folder.at("broken"), Uint8Array.of(3)), false);
    } finally {
      Deno.link = link;
    }
    assert.deepEqual([...await Deno.readFile(path)], [1]);
    assert.deepEqual(await names(folder.path), ["broken", "x"]);
  }
});

Deno.test("writeNew and writeWhole use the temporary name that they are given, and what lies there", async () => {
  await using folder = await temporaryFolder();
  await Deno.writeFile(folder.at("left.tmp"), new Uint8Array(9));
  const options = { temporary: "left.tmp" };
  assert.equal(await writeNew(folder.at("x"), Uint8Array.of(1), options), true);
  await Deno.writeFile(folder.at("left.tmp"), new Uint8Array(9));
  await writeWhole(folder.at("y"), Uint8Array.of(2), options);
  assert.deepEqual(await names(folder.path), ["x", "y"]);
  assert.deepEqual([...await Deno.readFile(folder.at("y"))], [2]);
});
