// Files become disks of the store whole or not at all, and only those that may be lost; what is
// declared of a disk is demanded of it before it is opened.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import type { FormatJob, StoreDiskSpec } from "../ports/store-disk.ts";
import { close } from "../sys/index.ts";
import { expectDisk } from "./disk-expectation.ts";
import { makeDisk } from "./disk-file.ts";
import { lockDisk } from "./disk-io.ts";

const MIB = 1024 * 1024;
const DISK_BYTES = 96 * MIB;

let folder = "";
const pathOf = (name: string): string => join(folder, name);

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "rs-disk-"));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

function job(name: string, more: Partial<FormatJob> = {}): FormatJob {
  return {
    id: randomUUID(),
    label: "d1",
    path: pathOf(name),
    sizeBytes: DISK_BYTES,
    allocation: "sparse",
    durability: "volatile",
    force: false,
    ...more,
  };
}

function make(one: FormatJob, progress: () => void = () => undefined): void {
  const facts = makeDisk(one, { journalId: 7, nowMs: 1 }, progress);
  assert.equal(facts.uuid, one.id);
  assert.equal(facts.label, one.label);
}

/** What is said against the file being the disk of that description; "" when nothing. */
function against(one: FormatJob, more: Partial<StoreDiskSpec> = {}): string {
  const { id, path } = one;
  const spec = { id, name: "d1", path, incarnationSeen: 0, cleanSeen: true, ...more };
  const disk = lockDisk(path, false);
  try {
    expectDisk(spec, { fd: disk.fd, sizeBytes: disk.sizeBytes } as never);
    return "";
  } catch (error) {
    assert.equal((error as { code: string }).code, "DISK_STALE");
    return (error as Error).message;
  } finally {
    close(disk.fd);
  }
}

describe("a file that becomes a disk", () => {
  test("sparse or written through", () => {
    make(job("sparse"));
    make(job("full", { allocation: "full" }));
    const bytesOf = (name: string): number => statSync(pathOf(name)).blocks * 512;
    assert.equal(statSync(pathOf("sparse")).size, DISK_BYTES);
    assert.ok(bytesOf("sparse") < DISK_BYTES / 2, "a sparse file takes what was written");
    assert.ok(bytesOf("full") >= DISK_BYTES, "a full one takes all of it");
  });

  test("has its name only when it is one, and leaves nothing when it cannot be", () => {
    const one = job("new");
    const seen = new Set<string>();
    make(one, () => {
      for (const name of readdirSync(folder)) seen.add(name);
    });
    assert.deepEqual([...seen], [`new.${one.id}.new`]);
    assert.deepEqual(readdirSync(folder), ["new"]);
    assert.throws(() => make(job("small", { sizeBytes: MIB })), { code: "DISK_TOO_SMALL" });
    assert.deepEqual(readdirSync(folder), ["new"]);
  });

  test("an empty or blank file is taken and extended, one that holds something is not", () => {
    writeFileSync(pathOf("empty"), "");
    make(job("empty"));
    writeFileSync(pathOf("blank"), Buffer.alloc(8192));
    make(job("blank"));
    writeFileSync(pathOf("theirs"), Buffer.alloc(8192, 1));
    assert.throws(() => make(job("theirs")), { code: "DISK_FOREIGN" });
    assert.equal(statSync(pathOf("theirs")).size, 8192);
    assert.throws(() => make(job("blank")), /blank holds disk d1 of a store/);
    make(job("theirs", { force: true }));
  });

  test("one that is in use is left alone, force or not", () => {
    writeFileSync(pathOf("used"), Buffer.alloc(8192, 1));
    const user = lockDisk(pathOf("used"), false);
    assert.throws(() => make(job("used", { force: true })), { code: "BACKING_IN_USE" });
    assert.equal(statSync(pathOf("used")).size, 8192);
    close(user.fd);
    assert.ok(existsSync(pathOf("used")));
  });
});

describe("the disk that was declared", () => {
  test("is accepted when nothing speaks against it", () => {
    const one = job("d");
    make(one);
    assert.equal(against(one), "");
    assert.equal(against(one, { cleanSeen: false }), "");
  });

  test("another, a blank or an older one is stale", () => {
    const one = job("d");
    make(one);
    assert.match(against(one, { id: randomUUID() }), /is another disk: d1/);
    assert.match(against(one, { incarnationSeen: 3 }), /an old state of disk d1: .* 0 times/);
    writeFileSync(one.path, Buffer.alloc(MIB));
    assert.match(against(one), /is blank, but was disk d1/);
    writeFileSync(one.path, Buffer.alloc(MIB, 1));
    assert.match(against(one), /holds data of an unknown kind, but was disk d1/);
  });
});
