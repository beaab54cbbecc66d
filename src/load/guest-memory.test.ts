// Guest memory: each kind of backing behaves as back-ends meet it, and nothing is left behind.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { EINVAL, EPERM } from "../base/index.ts";
import * as sys from "../sys/index.ts";
import { LoadError } from "./errors.ts";
import { hugetlbFolder, LoadGuestMemory } from "./guest-memory.ts";

const MIB = 1024 * 1024;

function fdCount(): number {
  return readdirSync("/proc/self/fd").length;
}

test("a memfd can be sealed, an unsealable one and a tmpfs file cannot", () => {
  const memory = new LoadGuestMemory();
  const sealable = memory.addRegion({ guestAddress: 0, bytes: MIB });
  assert.equal(sys.addSeals(sealable.fd, sys.F_SEAL_SHRINK), 0);
  assert.equal(sys.ftruncate(sealable.fd, 4096), -EPERM);
  const unsealable = memory.addRegion({
    guestAddress: MIB,
    bytes: MIB,
    kind: "memfd-unsealable",
  });
  assert.equal(sys.addSeals(unsealable.fd, sys.F_SEAL_SHRINK), -EPERM);
  const tmpfs = memory.addRegion({ guestAddress: 2 * MIB, bytes: MIB, kind: "tmpfs" });
  assert.ok([-EPERM, -EINVAL].includes(sys.addSeals(tmpfs.fd, sys.F_SEAL_SHRINK)));
  assert.equal(sys.fileSystemType(tmpfs.fd), sys.TMPFS_MAGIC);
  memory.close();
});

test("hugetlb memory is used where the machine has it, and refused by name where not", () => {
  const memory = new LoadGuestMemory();
  const bytes = 2 * MIB;
  if (hugetlbFolder(bytes) === "") {
    assert.throws(
      () => memory.addRegion({ guestAddress: 0, bytes, kind: "hugetlb" }),
      (error) => error instanceof LoadError && error.code === "UNAVAILABLE",
    );
  } else {
    const region = memory.addRegion({ guestAddress: 0, bytes, kind: "hugetlb" });
    assert.equal(sys.fileSystemType(region.fd), sys.HUGETLBFS_MAGIC);
  }
  memory.close();
});

test("reads and writes cross adjacent regions; addresses translate both ways", () => {
  const memory = new LoadGuestMemory([
    { guestAddress: 0x100000000, bytes: 8192 },
    { guestAddress: 0x100002000, bytes: 8192, userAddress: 0x7000, fileOffsetBytes: 4096 },
  ]);
  const data = Uint8Array.from({ length: 4096 }, (_, index) => index & 0xff);
  memory.write(0x100001800, data);
  assert.deepEqual(memory.read(0x100001800, 4096), data);
  const second = memory.regions[1] as (typeof memory.regions)[0];
  assert.equal(second.host.u8[0], data[0x800]);
  assert.equal(memory.userAddress(0x100002010), 0x7010);
  assert.equal(memory.hostAddress(0x100002010), second.host.address + 0x10);
  assert.equal(memory.regionAt(0x100004000), undefined);
  // The second region begins a page into its file, and that is what another mapping sees.
  const status = sys.fstat(second.fd);
  assert.ok(typeof status === "object" && status.sizeBytes === 12288);
  const own = new sys.SystemMemory();
  const arena = own.allocate(4096);
  assert.equal(sys.pread(second.fd, arena.address, 16, 4096), 16);
  assert.equal(arena.u8[5], data[0x805]);
  own.free(arena);
  memory.close();
});

test("allocate() hands out every byte once, aligned, and says when nothing is left", () => {
  const memory = new LoadGuestMemory([
    { guestAddress: 0x1000, bytes: 8192 },
    { guestAddress: 0x100000, bytes: 8192 },
  ]);
  assert.equal(memory.allocate(10, 64), 0x1000);
  assert.equal(memory.allocate(10, 64), 0x1040);
  assert.equal(memory.allocate(8192, 4096), 0x100000);
  assert.equal(memory.allocate(4096, 4096), 0x2000);
  assert.throws(() => memory.allocate(4096, 4096), /no 4096 bytes left/);
  memory.close();
});

test("close() leaves no descriptor", () => {
  const before = fdCount();
  const memory = new LoadGuestMemory([
    { guestAddress: 0, bytes: MIB },
    { guestAddress: MIB, bytes: MIB, kind: "tmpfs" },
  ]);
  assert.equal(fdCount(), before + 2);
  memory.close();
  assert.equal(fdCount(), before);
  assert.deepEqual(
    readdirSync("/dev/shm").filter((name) => name.startsWith("ringstore-load-")),
    [],
  );
});
