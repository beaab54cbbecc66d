// Stand-in libraries, judged by the dynamic linker and by fio.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { readElf } from "./elf.ts";
import { FIO } from "./initramfs.ts";
import { ensurePrograms } from "./packages.ts";
import { buildStubLibrary, elfHash, planStubs } from "./stub-library.ts";

test("the hash function gives the System V ABI's values", () => {
  assert.equal(elfHash(""), 0);
  assert.equal(elfHash("printf"), 0x077905a6);
  // Long enough for the top four bits to be folded in.
  assert.equal(elfHash("rbd_set_image_notification"), referenceHash("rbd_set_image_notification"));
});

function referenceHash(name: string): number {
  let hash = 0n;
  for (const character of name) {
    hash = ((hash << 4n) + BigInt(character.charCodeAt(0))) & 0xffffffffn;
    const high = hash & 0xf0000000n;
    if (high !== 0n) hash ^= high >> 24n;
    hash &= ~high & 0xffffffffn;
  }
  return Number(hash);
}

test("fio runs with stand-ins for what it does not use, and traps where it does", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "ringstore-stub-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const fio = (await ensurePrograms([FIO])).get("fio");
  assert.ok(fio.skippedLibraries.length > 0, "Debian's fio names libraries that are left out");
  const elf = readElf(readFileSync(fio.path), fio.path);
  const provided = new Set<string>();
  for (const path of fio.libraries.values()) {
    for (const name of readElf(readFileSync(path), path).exports) provided.add(name);
  }
  for (const stub of planStubs(elf, fio.skippedLibraries, provided)) {
    await writeFile(join(directory, stub.soname), buildStubLibrary(stub));
  }

  const env = { ...process.env, LD_LIBRARY_PATH: directory, LD_BIND_NOW: "1" };
  const run = (args: readonly string[]): ReturnType<typeof spawnSync> => {
    return spawnSync(fio.path, args, { env, cwd: directory, encoding: "utf8", timeout: 60_000 });
  };
  const job = ["--name=j", "--filename=data", "--size=64k", "--rw=write", "--verify=crc32c"];
  const works = run([...job, "--ioengine=libaio"]);
  assert.equal(works.status, 0, `${works.stderr}`);
  // A missing version would be complained about here.
  assert.equal(works.stderr, "");
  assert.match(`${works.stdout}`, /err= 0/);

  // The engine's thread traps; fio's main process reports the signal or dies of it.
  const traps = run(["--name=j", "--ioengine=rbd", "--rbdname=x", "--pool=x", "--size=64k"]);
  assert.notEqual(traps.status, 0);
  const said = `${traps.signal} ${traps.stdout} ${traps.stderr}`;
  assert.match(said, /SIGILL|signal=4|Illegal instruction/);
});
