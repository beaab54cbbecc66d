// What a disk is told to be, is found to be, and is refused for: by name, and without a byte changed.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { formatDisk, inspectDisk, StoreError } from "../../chunk/index.ts";
import { BLOCK_BYTES, FORMAT_VERSION, SUPERBLOCK } from "../../chunk/layouts.ts";
import { SimMedia, SimMemory } from "../sim/index.ts";
import { structureAt, superblockOffsets } from "./medium-bytes.ts";
import { mediaIo, SMALL_FORMAT } from "./sim-store.ts";
import { load, mustOpen, type Stage, stage, tryOpen } from "./single-faults.ts";

const DISK_BYTES: number = 6 * 1048576;

/** Changes a field in every copy of the superblock, with a checksum that is right. */
function claim(one: Stage, offset: number, value: number): void {
  for (const at of superblockOffsets(one.media.capacityBytes)) {
    const copy = structureAt(one.media, at);
    copy.setU32(offset, value);
    copy.seal(SUPERBLOCK.crc);
    one.media.write(at, copy.bytes);
  }
}

function refusal(one: Stage): StoreError {
  const before = one.media.snapshot().store;
  const refused = tryOpen(one);
  assert.ok(refused instanceof StoreError);
  assert.equal(before.firstDifference(one.media.view), -1, "a refused disk was changed");
  return refused;
}

function inspected(media: SimMedia): ReturnType<typeof inspectDisk> {
  const memory = new SimMemory(4 * 1048576);
  return inspectDisk(mediaIo(media, memory), memory);
}

describe("a disk of a newer release", () => {
  for (const [what, offset, value] of [
    ["a version", SUPERBLOCK.version, FORMAT_VERSION + 1],
    ["an incompatible feature", SUPERBLOCK.featuresIncompatible, 1 << 20],
    ["a feature that forbids writing", SUPERBLOCK.featuresReadOnlyCompatible, 4],
  ] as const) {
    test(`${what} that is not known is refused by name, and nothing is changed`, () => {
      const one = stage(1);
      const store = mustOpen(one);
      load(one, store, 10);
      store.close();
      claim(one, offset, value);
      const { code, message } = refusal(one);
      assert.equal(code, "DISK_NEWER");
      assert.match(message, new RegExp(`version ${FORMAT_VERSION}`));
      assert.throws(() => inspected(one.media), { code: "DISK_NEWER" });
    });
  }

  test("a compatible feature that is not known does not matter", () => {
    const one = stage(2);
    claim(one, SUPERBLOCK.featuresCompatible, 8);
    mustOpen(one).close();
  });
});

describe("a disk that is no store", () => {
  test("blank: inspected as such, refused as foreign", () => {
    const media = new SimMedia({ capacityBytes: DISK_BYTES });
    assert.deepEqual(inspected(media), { kind: "blank" });
    assert.equal(refusal({ ...stage(3), media }).code, "DISK_FOREIGN");
  });

  test("somebody's data: inspected as such, refused, and not changed", () => {
    const media = new SimMedia({ capacityBytes: DISK_BYTES, unwritten: "garbage" });
    assert.equal(inspected(media).kind, "foreign");
    assert.equal(refusal({ ...stage(4), media }).code, "DISK_FOREIGN");
  });

  test("data at its end alone is seen too", () => {
    const media = new SimMedia({ capacityBytes: DISK_BYTES });
    media.write(DISK_BYTES - 512, new Uint8Array(512).fill(1));
    assert.equal(inspected(media).kind, "foreign");
  });

  test("a superblock of which too few copies are left is damage, not a blank disk", () => {
    const one = stage(5);
    for (const at of superblockOffsets(DISK_BYTES).slice(0, 3)) {
      one.media.write(at, new Uint8Array(BLOCK_BYTES));
    }
    assert.equal(refusal(one).code, "DISK_DAMAGED");
    assert.throws(() => inspected(one.media), { code: "DISK_DAMAGED" });
  });
});

describe("formatting", () => {
  test("makes what inspection finds, and what opens", () => {
    const media = new SimMedia({ capacityBytes: DISK_BYTES, unwritten: "garbage" });
    const memory = new SimMemory(4 * 1048576);
    const facts = formatDisk(mediaIo(media, memory), memory, SMALL_FORMAT, () => undefined, false);
    assert.equal(memory.arenaCount, 0);
    const found = inspected(media);
    assert.equal(found.kind, "store");
    assert.deepEqual(found.kind === "store" && found.facts, facts);
    assert.equal(facts.clean, true);
    assert.equal(facts.label, SMALL_FORMAT.label);
    const one = { ...stage(6), media };
    const store = mustOpen(one);
    load(one, store, 30);
    assert.equal(store.store.facts().incarnation, 1);
    store.close();
  });

  test("cut short anywhere leaves no store, neither the new one nor an older", () => {
    for (let writes = 0; writes < 7; writes++) {
      const one = stage(7);
      const memory = new SimMemory(4 * 1048576);
      const io = mediaIo(one.media, memory);
      let left = writes;
      const cut = {
        ...io,
        write: (offset: number, address: number, bytes: number): number => {
          left -= 1;
          return left < 0 ? -5 : io.write(offset, address, bytes);
        },
      };
      const format = { ...SMALL_FORMAT, journalId: 77 };
      const begin = (): unknown => formatDisk(cut, memory, format, () => undefined, false);
      assert.throws(begin, { code: "DISK_FAILED" });
      const found = tryOpen(one);
      // The first copies to go leave the older store whole; two of the last make the new one.
      if (writes < 3) continue;
      assert.ok(found instanceof StoreError, `${writes} writes`);
    }
  });
});
