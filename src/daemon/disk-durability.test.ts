// What is said about a device's write cache follows from what the system says, and from nothing
// else.

import assert from "node:assert/strict";
import { test } from "node:test";
import { durabilityOf } from "./disk-durability.ts";

function detect(isFile: boolean, files: Record<string, string>): readonly [string, string] {
  const device = { major: 259, minor: 3, isFile };
  const prefix = "/sys/dev/block/259:3/";
  const { durability, reason } = durabilityOf(device, (path) => {
    assert.ok(path.startsWith(prefix), path);
    return files[path.slice(prefix.length)] ?? null;
  });
  return [durability, reason];
}

const NAMED = { uevent: "MAJOR=259\nDEVNAME=nvme0n1\nDEVTYPE=disk" };

test("a device without a volatile cache is write-through", () => {
  const found = detect(false, { ...NAMED, "queue/write_cache": "write through" });
  assert.deepEqual(found, ["write-through", "nvme0n1: it has no volatile write cache"]);
});

test("a cache that is on is volatile, with and without FUA, for a partition too", () => {
  const on = { ...NAMED, "../queue/write_cache": "write back", "../queue/fua": "1" };
  assert.deepEqual(detect(false, on), ["volatile", "nvme0n1: its write cache is on, with FUA"]);
  const under = { ...NAMED, "queue/write_cache": "write back", "queue/fua": "0" };
  assert.deepEqual(detect(true, under), [
    "volatile",
    "nvme0n1, under the file: its write cache is on, without FUA",
  ]);
});

test("where nothing is known, nothing is taken for durable", () => {
  assert.deepEqual(detect(true, {}), [
    "volatile",
    "the device under the file is not known: its write cache is taken for volatile",
  ]);
  assert.equal(detect(false, {})[0], "volatile");
  const strange = detect(false, { "queue/write_cache": "something new" });
  assert.match(strange[1], /^device 259:3: its write cache is on/);
});
