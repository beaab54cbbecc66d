// Memory regions and the table of them, on real memory files: translation, copies in and out across
// windows and regions, direct and by system call, and what conflicts.

import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { GIB, PAGE_BYTES, Prng } from "../base/index.ts";
import * as sys from "../sys/index.ts";
import { DirtyLog } from "./dirty-log.ts";
import { MemoryBudget } from "./memory-budget.ts";
import { MemoryRegion, type RegionDescription } from "./memory-region.ts";
import { MEMORY_SLOTS_MAX, MemoryTable } from "./memory-table.ts";

const memory = new sys.SystemMemory();
const bounce = memory.allocate(65536);
const budget = new MemoryBudget();
const GUEST = 0x1_0000_0000;
const USER = 0x7000_0000_0000;

const open: { fds: number[]; regions: MemoryRegion[] } = { fds: [], regions: [] };
after(() => {
  for (const region of open.regions) region.unmap();
  for (const fd of open.fds) sys.close(fd);
  memory.free(bounce);
});

function file(bytes: number, sealable = true): number {
  const fd = sys.check(sys.memfd("test", bytes), "memfd");
  if (!sealable) sys.check(sys.addSeals(fd, sys.F_SEAL_SEAL), "seal");
  open.fds.push(fd);
  return fd;
}

function region(options: Partial<RegionDescription> & { sealable?: boolean }): MemoryRegion {
  const { guestAddress = GUEST, bytes = 16 * PAGE_BYTES, fileOffset = 0 } = options;
  const userAddress = options.userAddress ?? USER + (guestAddress - GUEST);
  const fd = file(fileOffset + bytes, options.sealable ?? true);
  const description = { guestAddress, bytes, userAddress, fileOffset };
  const mapped = MemoryRegion.map(description, fd, { trusted: false, budget });
  assert.ok(typeof mapped !== "string", String(mapped));
  open.regions.push(mapped);
  return mapped;
}

function tableOf(...regions: MemoryRegion[]): MemoryTable {
  const table = new MemoryTable(memory, bounce);
  for (const one of regions) table.add(one);
  return table;
}

const KINDS = [
  { name: "direct", sealable: true },
  { name: "by system call", sealable: false },
];

describe("a region", () => {
  test("is direct when it can be sealed, and only then", () => {
    assert.equal(region({}).direct, true);
    assert.equal(region({ sealable: false }).direct, false);
    const fd = file(PAGE_BYTES, false);
    const description = { guestAddress: 0, bytes: PAGE_BYTES, userAddress: 0, fileOffset: 0 };
    const trusted = MemoryRegion.map(description, fd, { trusted: true, budget });
    assert.ok(typeof trusted !== "string");
    assert.equal(trusted.direct, true);
    open.regions.push(trusted);
  });

  test("begins where its offset says, page or not", () => {
    for (const fileOffset of [0, 1, PAGE_BYTES - 1, PAGE_BYTES, 3 * PAGE_BYTES + 5]) {
      const one = region({ fileOffset, bytes: 100 });
      const table = tableOf(one);
      assert.ok(table.writeU8(GUEST, 0x77));
      assert.ok(table.writeU8(GUEST + 99, 0x78));
      const fd = open.fds.at(-1) as number;
      assert.equal(sys.pread(fd, bounce.address, 100, fileOffset), 100);
      assert.equal(bounce.u8[0], 0x77);
      assert.equal(bounce.u8[99], 0x78);
    }
  });

  test("opens a window only when it is asked for one", () => {
    const one = region({ bytes: 3 * GIB + PAGE_BYTES });
    assert.equal(one.windowCount, 0);
    const table = tableOf(one);
    assert.ok(table.writeU8(GUEST + 2 * GIB, 1));
    assert.equal(one.windowCount, 1);
    assert.equal(one.windows[2]?.length, GIB);
    assert.ok(table.writeU8(GUEST + 3 * GIB + 1, 1));
    assert.equal(one.windows[3]?.length, PAGE_BYTES);
  });

  test("takes part of a budget and gives it back", () => {
    const small = new MemoryBudget();
    const fd = file(PAGE_BYTES);
    const map = (guestAddress: number): MemoryRegion | string =>
      MemoryRegion.map(
        { guestAddress, bytes: PAGE_BYTES, userAddress: guestAddress, fileOffset: 0 },
        fd,
        { trusted: false, budget: small },
      );
    const mapped: MemoryRegion[] = [];
    for (;;) {
      const one = map(mapped.length * PAGE_BYTES);
      if (typeof one === "string") break;
      mapped.push(one);
    }
    assert.ok(mapped.length >= 2 * MEMORY_SLOTS_MAX, "two sessions must fit");
    for (const one of mapped) one.unmap();
    const again = map(0);
    assert.ok(typeof again !== "string");
    again.unmap();
  });
});

describe("the table", () => {
  test("translates what lies in a region, and nothing else", () => {
    const first = region({ bytes: 2 * PAGE_BYTES });
    const second = region({ guestAddress: GUEST + 4 * PAGE_BYTES, bytes: PAGE_BYTES });
    const third = region({ guestAddress: GUEST - 8 * PAGE_BYTES, bytes: PAGE_BYTES });
    const table = tableOf(first, second, third);
    const found: [number, number, number][] = [
      [GUEST, first.hostAddress, 2 * PAGE_BYTES],
      [GUEST + 2 * PAGE_BYTES - 1, first.hostAddress + 2 * PAGE_BYTES - 1, 1],
      [GUEST + 4 * PAGE_BYTES, second.hostAddress, PAGE_BYTES],
      [GUEST - 8 * PAGE_BYTES, third.hostAddress, PAGE_BYTES],
    ];
    for (const [gpa, address, contiguousBytes] of found) {
      assert.equal(table.translate(gpa), address);
      assert.equal(table.contiguousBytes, contiguousBytes);
      assert.equal(table.faultable, false);
    }
    for (const gpa of [0, GUEST - 1, GUEST + 2 * PAGE_BYTES, GUEST + 5 * PAGE_BYTES, 2 ** 53 - 1]) {
      assert.equal(table.translate(gpa), -1);
      assert.equal(table.writeU8(gpa, 0), false);
    }
    assert.equal(table.guestLimit, GUEST + 5 * PAGE_BYTES);
    assert.equal(tableOf().translate(GUEST), -1);
    assert.equal(tableOf().guestLimit, 0);
  });

  test("agrees with a plain list of regions at random addresses", () => {
    const prng = new Prng(7);
    const regions: MemoryRegion[] = [];
    for (let index = 0; index < 40; index++) {
      const bytes = prng.between(1, 4) * PAGE_BYTES;
      regions.push(
        region({ guestAddress: GUEST + (index * 6 + prng.below(2)) * PAGE_BYTES, bytes }),
      );
    }
    const table = new MemoryTable(memory, bounce);
    for (const one of [...regions].reverse()) table.add(one);
    for (let round = 0; round < 5000; round++) {
      const gpa = GUEST + prng.below(250 * PAGE_BYTES);
      const holder = regions.find(
        (one) => gpa >= one.guestAddress && gpa < one.guestAddress + one.bytes,
      );
      const expected = holder === undefined ? -1 : holder.hostAddress + (gpa - holder.guestAddress);
      assert.equal(table.translate(gpa), expected);
    }
  });

  test("finds rings by user address, whole or not at all", () => {
    const one = region({ bytes: PAGE_BYTES, userAddress: USER });
    const table = tableOf(one);
    assert.equal(table.findByUserAddress(USER, PAGE_BYTES), one);
    assert.equal(table.findByUserAddress(USER + PAGE_BYTES - 1, 1), one);
    assert.equal(table.findByUserAddress(USER + PAGE_BYTES - 1, 2), null);
    assert.equal(table.findByUserAddress(USER - 1, 2), null);
    assert.equal(table.findByUserAddress(USER, PAGE_BYTES + 1), null);
  });

  test("says what conflicts: guest addresses, user addresses, slots", () => {
    const table = tableOf(region({ bytes: PAGE_BYTES }));
    const far = { guestAddress: 0, userAddress: 0, bytes: PAGE_BYTES };
    assert.equal(table.conflict(far), null);
    assert.match(table.conflict({ ...far, guestAddress: GUEST + 1 }) ?? "", /guest addresses/);
    assert.match(table.conflict({ ...far, userAddress: USER - 1 }) ?? "", /user addresses/);
    assert.equal(table.conflict({ ...far, guestAddress: GUEST + PAGE_BYTES }), null);
    assert.equal(table.conflict({ ...far, guestAddress: GUEST - PAGE_BYTES }), null);
    assert.match(table.conflict({ ...far, bytes: 2 ** 40 }) ?? "", /overlaps/);
  });

  test("removes exactly the region that is named", () => {
    const one = region({ bytes: PAGE_BYTES });
    const other = region({ guestAddress: GUEST + PAGE_BYTES, bytes: PAGE_BYTES });
    const table = tableOf(one, other);
    assert.equal(table.remove(GUEST, USER, 2 * PAGE_BYTES), null);
    assert.equal(table.remove(GUEST, USER + 1, PAGE_BYTES), null);
    assert.ok(table.has(GUEST, USER, PAGE_BYTES));
    assert.equal(table.remove(GUEST, USER, PAGE_BYTES), one);
    assert.equal(table.translate(GUEST), -1);
    assert.equal(table.translate(GUEST + PAGE_BYTES), other.hostAddress);
    assert.deepEqual(table.clear(), [other]);
    assert.equal(table.count, 0);
  });
});

for (const { name, sealable } of KINDS) {
  describe(`copies (${name})`, () => {
    const first = region({ bytes: 3 * PAGE_BYTES, sealable });
    const second = region({ guestAddress: GUEST + 3 * PAGE_BYTES, bytes: PAGE_BYTES, sealable });
    const table = tableOf(first, second);
    const end = GUEST + 4 * PAGE_BYTES;

    test("read what was written, at any byte, across regions", () => {
      const prng = new Prng(3);
      const shadow = new Uint8Array(4 * PAGE_BYTES);
      for (let round = 0; round < 300; round++) {
        const bytes = prng.between(1, 700);
        const offset = prng.below(shadow.length - bytes);
        const source = Uint8Array.from({ length: bytes + 3 }, () => prng.below(256));
        assert.ok(table.write(GUEST + offset, source, 3, bytes));
        shadow.set(source.subarray(3), offset);
        const from = prng.below(shadow.length - 512);
        const target = new Uint8Array(520).fill(9);
        assert.ok(table.read(GUEST + from, target, 5, 512));
        assert.deepEqual(target.subarray(5, 517), shadow.subarray(from, from + 512));
        assert.deepEqual([...target.subarray(0, 5), ...target.subarray(517)], new Array(8).fill(9));
      }
    });

    test("words come from any byte address, across regions and in any number", () => {
      const bytes = Uint8Array.from({ length: 4 * PAGE_BYTES }, (_, at) => (at * 7 + 3) & 0xff);
      assert.ok(table.write(GUEST, bytes, 0, bytes.length));
      const view = new DataView(bytes.buffer);
      for (const [offset, count] of [
        [0, 4],
        [1, 4],
        [99, 16],
        [3 * PAGE_BYTES - 6, 4],
        [3 * PAGE_BYTES - 4, 1],
        [4 * PAGE_BYTES - 16, 4],
        [5, 4090],
      ] as const) {
        const words = new Uint32Array(count + 2).fill(7);
        assert.ok(table.readWords(GUEST + offset, words, 1, count), `${offset}`);
        const expected = Array.from({ length: count }, (_, at) =>
          view.getUint32(offset + at * 4, true),
        );
        assert.deepEqual([...words], [7, ...expected, 7]);
      }
    });

    test("nothing is read or written beyond the end", () => {
      const words = new Uint32Array(4);
      assert.equal(table.readWords(end - 12, words, 0, 4), false);
      assert.equal(table.readWords(GUEST - 4, words, 0, 4), false);
      assert.equal(table.read(end - 1, new Uint8Array(2), 0, 2), false);
      assert.equal(table.write(end - 1, new Uint8Array(2), 0, 2), false);
      assert.equal(table.writeU8(end, 1), false);
      assert.ok(table.writeU8(end - 1, 0x5a));
      const last = new Uint8Array(1);
      assert.ok(table.read(end - 1, last, 0, 1));
      assert.equal(last[0], 0x5a);
    });
  });
}

test("more memory than windows: the rest is copied by address", () => {
  const bytes = 80 * GIB;
  const one = region({ bytes });
  const table = tableOf(one);
  for (let at = 0; at < 80; at++) assert.ok(table.writeU8(GUEST + at * GIB + 17, at));
  assert.ok(one.windowCount < 80, "every window was opened");
  const words = new Uint32Array(1);
  const byte = new Uint8Array(1);
  for (let at = 0; at < 80; at++) {
    assert.ok(table.read(GUEST + at * GIB + 17, byte, 0, 1));
    assert.equal(byte[0], at);
    assert.ok(table.readWords(GUEST + at * GIB + 17, words, 0, 1));
    assert.equal(words[0], at);
  }
  // Across the border of two windows, of which one may not be open.
  for (let at = 1; at < 80; at++) {
    const gpa = GUEST + at * GIB - 3;
    assert.ok(table.write(gpa, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8), 0, 8));
    const back = new Uint8Array(8);
    assert.ok(table.read(gpa, back, 0, 8));
    assert.deepEqual([...back], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert.ok(table.readWords(gpa, words, 0, 1));
    assert.equal(words[0], 0x04030201);
  }
});

test("memory truncated under us answers false, and does not end the process", () => {
  const one = region({ bytes: 4 * PAGE_BYTES, sealable: false });
  const table = tableOf(one);
  const fd = open.fds.at(-1) as number;
  assert.ok(table.writeU8(GUEST + 3 * PAGE_BYTES, 1));
  sys.check(sys.ftruncate(fd, PAGE_BYTES), "ftruncate");
  assert.equal(table.writeU8(GUEST + 3 * PAGE_BYTES, 1), false);
  assert.equal(table.read(GUEST + PAGE_BYTES, new Uint8Array(4), 0, 4), false);
  assert.equal(table.readWords(GUEST + PAGE_BYTES, new Uint32Array(4), 0, 4), false);
  assert.equal(table.write(GUEST + PAGE_BYTES - 1, new Uint8Array(2), 0, 2), false);
  assert.ok(table.writeU8(GUEST, 1));
});

describe("the migration log", () => {
  const fd = file(PAGE_BYTES);
  const log = DirtyLog.map(fd, 64, 0, false);
  assert.ok(typeof log !== "string");
  const address = sys.mmap(PAGE_BYTES, sys.PROT_READ | sys.PROT_WRITE, sys.MAP_SHARED, fd, 0);
  const bits = new Uint8Array(sys.windowOver(address, PAGE_BYTES));
  after(() => {
    log.unmap();
    sys.munmap(address, PAGE_BYTES);
  });

  function marked(): number[] {
    const pages: number[] = [];
    for (let page = 0; page < bits.length * 8; page++) {
      if (((bits[page >>> 3] as number) >>> (page & 7)) & 1) pages.push(page);
    }
    bits.fill(0);
    return pages;
  }

  test("marks every page of a write, and no other", () => {
    log.mark(0, 1);
    assert.deepEqual(marked(), [0]);
    log.mark(PAGE_BYTES - 1, 2);
    assert.deepEqual(marked(), [0, 1]);
    log.mark(9 * PAGE_BYTES, 3 * PAGE_BYTES);
    assert.deepEqual(marked(), [9, 10, 11]);
    log.mark(5 * PAGE_BYTES, 0);
    assert.deepEqual(marked(), []);
  });

  test("marks nothing beyond its end, and counts that", () => {
    const before = log.beyondCount;
    log.mark(511 * PAGE_BYTES, 3 * PAGE_BYTES);
    log.mark(2 ** 52, 1);
    assert.deepEqual(marked(), [511]);
    assert.equal(log.beyondCount, before + 3);
    assert.ok(log.covers(512 * PAGE_BYTES));
    assert.ok(!log.covers(512 * PAGE_BYTES + 1));
  });

  test("keeps bits that somebody else sets beside ours", () => {
    bits[0] = 0b1000_0000;
    log.mark(0, 1);
    assert.deepEqual(marked(), [0, 7]);
  });

  test("follows what the table writes, by guest address and by our own", () => {
    const first = region({ guestAddress: 16 * PAGE_BYTES, userAddress: USER, bytes: PAGE_BYTES });
    const second = region({
      guestAddress: 32 * PAGE_BYTES,
      userAddress: USER + PAGE_BYTES,
      bytes: PAGE_BYTES,
      sealable: false,
    });
    const table = tableOf(first, second);
    table.setLog(log);
    assert.ok(table.logging);
    table.writeU8(16 * PAGE_BYTES, 1);
    table.write(32 * PAGE_BYTES + 9, new Uint8Array(3), 0, 3);
    assert.deepEqual(marked(), [16, 32]);
    table.markDirty(16 * PAGE_BYTES, 1);
    assert.deepEqual(marked(), [16]);
    table.markHostDirty(second.hostAddress, PAGE_BYTES);
    assert.deepEqual(marked(), [32]);
    table.markHostDirty(first.hostAddress - PAGE_BYTES, PAGE_BYTES);
    table.setLog(null);
    table.writeU8(16 * PAGE_BYTES, 1);
    table.markDirty(16 * PAGE_BYTES, 1);
    table.markHostDirty(first.hostAddress, 1);
    const stray = marked().filter((page) => page !== 32);
    assert.deepEqual(stray, []);
  });

  test("is refused where it could be truncated, or does not fit", () => {
    const map = (file: number, bytes: number, offset = 0): string => {
      const refused = DirtyLog.map(file, bytes, offset, false);
      assert.ok(typeof refused === "string", "taken all the same");
      return refused;
    };
    assert.match(map(fd, 0), /of 0 bytes/);
    assert.match(map(fd, PAGE_BYTES + 1), /log file of 4096/);
    assert.match(map(fd, 64, 1), /not page-aligned/);
    assert.match(map(fd, Infinity), /Infinity bytes/);
    assert.match(map(fd, 64, Infinity), /not page-aligned/);
    assert.match(map(file(PAGE_BYTES, false), 64), /truncated/);
  });
});
