// Packages, programs and kernel modules, with the real apt of this machine: needs `apt-get update`
// to have run, and fetches a few small packages into a cache of its own.

import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fetchPackage, packageDepends, parseControl, parseDepends } from "./debian.ts";
import { runHostProgram } from "./host-program.ts";
import { ensureKernel } from "./kernel.ts";
import { modulesDep, resolveModules } from "./kernel-modules.ts";
import { ensurePrograms, packageNameOf } from "./packages.ts";

test("control fields and dependencies are read as dpkg writes them", () => {
  const text = "Package: fio\nVersion: 3.33-3\nDepends: a (>= 2) | b:any,\n c\n\nPackage: other\n";
  assert.deepEqual([...parseControl(text)].slice(0, 2), [
    ["Package", "fio"],
    ["Version", "3.33-3"],
  ]);
  assert.deepEqual(parseDepends("libc6 (>= 2.34), libaio1 | libaio1t64, python3:any"), [
    "libc6",
    "libaio1",
    "libaio1t64",
    "python3",
  ]);
  assert.deepEqual(parseDepends(""), []);
});

test("library names become Debian's package names", () => {
  assert.equal(packageNameOf("libaio.so.1"), "libaio1");
  assert.equal(packageNameOf("libcom_err.so.2"), "libcom-err2");
  assert.equal(packageNameOf("libpcre2-8.so.0"), "libpcre2-8-0");
  assert.equal(packageNameOf("libz.so.1"), "zlib1g");
});

test("an unknown package is an error that says what to do", async () => {
  await assert.rejects(fetchPackage("ringstore-there-is-no-such-package"), {
    code: "package",
    advice: /apt-get update/,
  });
  await assert.rejects(fetchPackage("../escape"), { code: "option" });
});

test("apt is asked once, and again when its lists have changed", async (t) => {
  const cacheDirectory = await mkdtemp(join(tmpdir(), "ringstore-cache-"));
  t.after(() => rm(cacheDirectory, { recursive: true, force: true }));
  const ask = (): Promise<readonly string[] | undefined> =>
    packageDepends("e2fsprogs", { cacheDirectory });
  const path = join(cacheDirectory, "candidates", "e2fsprogs.json");
  const answer = await ask();
  assert.ok(answer?.includes("libext2fs2"));
  const record = JSON.parse(await readFile(path, "utf8"));
  record.candidate.depends = ["as-it-was-kept"];
  await writeFile(path, JSON.stringify(record));
  assert.deepEqual(await ask(), ["as-it-was-kept"]);
  await writeFile(path, JSON.stringify({ ...record, lists: "as they were" }));
  assert.deepEqual(await ask(), answer);
  await writeFile(path, "{ damaged");
  assert.deepEqual(await ask(), answer);
});

test("two callers at once fetch a package into a fresh cache; a third finds it", async (t) => {
  const cacheDirectory = await mkdtemp(join(tmpdir(), "ringstore-cache-"));
  t.after(() => rm(cacheDirectory, { recursive: true, force: true }));
  const lines: string[] = [];
  const options = { cacheDirectory, log: (line: string) => lines.push(line) };
  const [first, second] = await Promise.all([
    fetchPackage("syslinux", options),
    fetchPackage("syslinux", options),
  ]);
  assert.deepEqual(first, second);
  assert.ok(existsSync(join(first!.directory, "usr/bin/syslinux")));
  assert.ok(first!.depends.includes("libc6"));
  // Nothing half-made is left beside it.
  assert.equal(readdirSync(join(cacheDirectory, "packages")).length, 1);
  lines.length = 0;
  await fetchPackage("syslinux", options);
  assert.deepEqual(lines, []);
});

test("programs come from packages with the libraries they miss", async (t) => {
  const cacheDirectory = await mkdtemp(join(tmpdir(), "ringstore-cache-"));
  t.after(() => rm(cacheDirectory, { recursive: true, force: true }));
  const wanted = [{ program: "mke2fs", debianPackage: "e2fsprogs" }];
  const programs = await ensurePrograms(wanted, { cacheDirectory, ignoreSystem: true });
  const mke2fs = programs.get("mke2fs");
  assert.ok(mke2fs.path.startsWith(cacheDirectory));
  assert.ok(mke2fs.libraries.get("libext2fs.so.2")?.startsWith(cacheDirectory));
  assert.equal(mke2fs.libraries.get("libc.so.6")?.startsWith(cacheDirectory), false);

  const image = join(cacheDirectory, "image");
  await writeFile(image, Buffer.alloc(1 << 20));
  const result = await runHostProgram(mke2fs.path, ["-q", image], { env: programs.env });
  assert.equal(result.exitCode, 0);
  assert.throws(() => programs.path("fio"), /fio was not asked for/);
});

test("kernel modules come in an order that can be loaded", async () => {
  const kernel = await ensureKernel();
  assert.match(kernel.release, /^\d+\.\d+.*-cloud-amd64$/);
  const modules = resolveModules(kernel, ["virtio_pci", "virtio-blk", "ext4"]);
  const names = modules.map((module) => module.name);
  assert.ok(names.includes("virtio_blk"));
  assert.equal(names.includes("ext4"), false, "built in");
  const seen = new Set<string>();
  for (const module of modules) {
    for (const dependency of module.depends) assert.ok(seen.has(dependency), module.name);
    seen.add(module.name);
  }
  // In modules.dep what is loaded first stands last.
  const virtioPci = modulesDep(modules)
    .split("\n")
    .find((line) => /virtio_pci\.ko:/.test(line))!;
  const ring = virtioPci.indexOf("virtio_ring.ko");
  assert.ok(ring > virtioPci.indexOf("virtio.ko"), virtioPci);
  assert.throws(() => resolveModules(kernel, ["no_such_driver"]), /has no module no_such_driver/);
});
