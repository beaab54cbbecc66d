// The archive writer against the format's document and against another implementation of it.

import assert from "node:assert/strict";
import { mkdtemp, readFile, readlink, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { CpioArchive } from "./cpio.ts";
import { runHostProgram } from "./host-program.ts";
import { ensurePrograms } from "./packages.ts";

test("an archive of one file has the bytes the kernel's document gives", () => {
  const archive = new CpioArchive();
  archive.file("a", "xyz", 0o600);
  const bytes = archive.toBuffer();
  const zero = "00000000";
  const header =
    `070701${"00000001"}${"00008180"}${zero}${zero}${"00000001"}${zero}${"00000003"}` +
    `${zero}${zero}${zero}${zero}${"00000002"}${zero}`;
  // Header and name end at 112, a multiple of 4; three bytes of content are padded to four.
  assert.equal(bytes.toString("latin1", 0, 110), header);
  assert.equal(bytes.toString("latin1", 110, 116), "a\0xyz\0");
  assert.equal(bytes.toString("latin1", 116, 122), "070701");
  assert.equal(bytes.toString("latin1", 116 + 110, 116 + 110 + 10), "TRAILER!!!");
  assert.equal(bytes.length % 4, 0);
});

test("parents are written before children, also when named later", () => {
  const archive = new CpioArchive();
  archive.file("/lib/deep/er/file", "1");
  archive.set("/lib/deep", { kind: "directory", mode: 0o700 });
  const text = archive.toBuffer().toString("latin1");
  const positions = ["lib\0", "lib/deep\0", "lib/deep/er\0", "lib/deep/er/file\0"].map((name) =>
    text.indexOf(`${name}`),
  );
  assert.ok(positions.every((position) => position > 0));
  assert.deepEqual(
    [...positions].sort((a, b) => a - b),
    positions,
  );
  assert.equal(text.split("lib/deep\0").length, 2, "the folder is there once");
});

test("equal content gives equal bytes", () => {
  const make = (): Buffer => {
    const archive = new CpioArchive();
    archive.file("/bin/x", "content", 0o755);
    archive.symlink("/bin/y", "x");
    return archive.toBuffer();
  };
  assert.deepEqual(make(), make());
});

test("names that would leave the archive's root are refused", () => {
  const archive = new CpioArchive();
  for (const path of ["", "/", "a/../b", "a//b", "a\0b", "TRAILER!!!"]) {
    assert.throws(() => archive.file(path, ""), { name: "AssertionFailure" }, path);
  }
  archive.file("file", "");
  assert.throws(() => archive.file("file/below", ""), { name: "AssertionFailure" });
});

test("another implementation unpacks it", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "ringstore-cpio-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const content = Buffer.alloc(100_001, "ring");
  const archive = new CpioArchive();
  archive.file("/etc/data", content, 0o640);
  archive.symlink("/bin/sh", "busybox");
  archive.set("/tmp", { kind: "directory", mode: 0o1777 });
  await writeFile(join(directory, "archive"), archive.toBuffer());

  const busybox = { program: "busybox", debianPackage: "busybox-static" };
  const path = (await ensurePrograms([busybox])).path("busybox");
  await runHostProgram(path, ["cpio", "-i", "-d", "-m", "-F", "archive"], { cwd: directory });
  assert.deepEqual(await readFile(join(directory, "etc/data")), content);
  assert.equal((await stat(join(directory, "etc/data"))).mode & 0o7777, 0o640);
  assert.equal(await readlink(join(directory, "bin/sh")), "busybox");
  assert.equal((await stat(join(directory, "tmp"))).isDirectory(), true);
});
