// FileDevice on a real io_uring and real files, direct where the file system can: what is written
// at any alignment is read back, holes are punched, truncated guest memory answers EFAULT.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import {
  EFAULT,
  EOPNOTSUPP,
  FLAG_DURABLE,
  FLAG_FAULTABLE,
  FLAG_UNMAP,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  Prng,
  RequestTable,
  segmentArenaBytes,
} from "../base/index.ts";
import * as sys from "../sys/index.ts";
import { Ring, UringDisk } from "../uring/index.ts";
import { FileDevice } from "./file-device.ts";
import { Workspace } from "./workspace.ts";

const SLOTS = 64;
const FILE_BYTES = 8 * 1048576;
const GUEST_BYTES = 4 * 1048576;
const BLOCK_BYTES = 4096;

class Rig {
  readonly memory: sys.SystemMemory = new sys.SystemMemory();
  readonly requests: RequestTable;
  readonly device: FileDevice;
  readonly fd: number;
  readonly guest: Uint8Array;
  readonly guestFd: number;
  readonly guestAddress: number;
  readonly results: Map<number, number> = new Map();
  private readonly ring: Ring;
  private readonly disk: UringDisk;
  private readonly owner: number;
  private readonly folder: string = mkdtempSync(join(tmpdir(), "local-test-"));

  constructor(isDirect: boolean) {
    const path = join(this.folder, "disk");
    const flags = sys.O_RDWR | sys.O_CREAT;
    const direct = isDirect ? sys.open(path, flags | sys.O_DIRECT, 0o600) : -1;
    this.fd = direct >= 0 ? direct : sys.check(sys.open(path, flags, 0o600), "open");
    sys.check(sys.ftruncate(this.fd, FILE_BYTES), "ftruncate");
    const alignment = direct >= 0 ? BLOCK_BYTES : 1;
    this.ring = new Ring(this.memory, { entries: 64, cqEntries: 256, fixedFiles: 4 });
    this.disk = new UringDisk(this.ring, this.fd, {
      capacityBytes: FILE_BYTES,
      memoryAlignmentBytes: alignment,
      offsetAlignmentBytes: alignment,
    });
    this.requests = new RequestTable(SLOTS, this.memory.allocate(segmentArenaBytes(SLOTS)));
    const modules = { requests: this.requests, memory: this.memory };
    const workspace = new Workspace({ bounceBufferCount: 2, bounceBufferBytes: 16384 }, modules);
    this.device = new FileDevice(
      {
        kind: "file",
        capacityBytes: FILE_BYTES,
        blockBytes: BLOCK_BYTES,
        readOnly: false,
        serial: "ring",
        canDiscard: true,
      },
      { workspace, disk: this.disk },
    );
    this.disk.setHandler(this.device);
    // Guest memory as a front-end gives it: a memory file, which it can truncate.
    this.guestFd = sys.check(sys.memfd("guest", GUEST_BYTES), "memfd");
    const protection = sys.PROT_READ | sys.PROT_WRITE;
    const mapped = sys.mmap(GUEST_BYTES, protection, sys.MAP_SHARED, this.guestFd, 0);
    this.guestAddress = sys.check(mapped, "mmap");
    this.guest = sys.arenaOver(this.guestAddress, GUEST_BYTES).u8;
    this.owner = this.requests.addOwner({
      requestCompleted: (slot, result) => {
        this.results.set(slot, result);
        this.requests.release(slot);
      },
    });
  }

  submit(
    op: number,
    offsetBytes: number,
    segments: readonly (readonly [number, number])[],
    flags = 0,
  ): number {
    const { requests } = this;
    const slot = requests.acquire(this.owner);
    this.results.delete(slot);
    requests.op[slot] = op;
    requests.flags[slot] = flags;
    requests.offsetBytes[slot] = offsetBytes;
    if (op === OP_READ || op === OP_WRITE) {
      for (const [at, bytes] of segments) requests.addSegment(slot, this.guestAddress + at, bytes);
    } else {
      requests.lengthBytes[slot] = segments.reduce((sum, [, bytes]) => sum + bytes, 0);
    }
    this.device.submit(slot);
    return slot;
  }

  finish(): void {
    const deadline = performance.now() + 20_000;
    this.requests.drain(SLOTS);
    while (this.device.inflightCount > 0) {
      assert.ok(performance.now() < deadline, "the disk does not answer");
      this.ring.submit();
      this.ring.reap(64);
      this.requests.drain(SLOTS);
    }
    this.requests.drain(SLOTS);
  }

  run(
    op: number,
    offsetBytes: number,
    segments: readonly (readonly [number, number])[],
    flags = 0,
  ): number {
    const slot = this.submit(op, offsetBytes, segments, flags);
    this.finish();
    return this.results.get(slot) as number;
  }

  get allocatedBytes(): number {
    const status = sys.fstat(this.fd);
    assert.ok(typeof status !== "number");
    return status.allocatedBytes;
  }

  close(): void {
    rmSync(this.folder, { recursive: true });
    this.finish();
    this.device.close();
    this.disk.detach();
    this.ring.close();
    sys.close(this.fd);
    sys.munmap(this.guestAddress, GUEST_BYTES);
    sys.close(this.guestFd);
  }
}

for (const isDirect of [true, false]) {
  describe(`on a real ${isDirect ? "direct" : "buffered"} file`, () => {
    it("reads back what was written, at any alignment, many at once", (test) => {
      const rig = new Rig(isDirect);
      test.after(() => rig.close());
      const prng = new Prng(isDirect ? 1 : 2);
      for (let round = 0; round < 8; round++) {
        const slots: number[] = [];
        const plan: [number, [number, number][]][] = [];
        for (let index = 0; index < 32; index++) {
          const base = index * 65536;
          const at = base + (prng.chance(0.5) ? 0 : prng.between(1, 600));
          const bytes = prng.between(1, 10) * BLOCK_BYTES;
          const cut = prng.chance(0.5) ? BLOCK_BYTES : prng.between(1, bytes - 1);
          const segments: [number, number][] = [
            [at, Math.min(cut, bytes)],
            [at + bytes + BLOCK_BYTES, bytes - Math.min(cut, bytes)],
          ];
          plan.push([index * 131072, segments.filter(([, length]) => length > 0)]);
        }
        for (let at = 0; at < GUEST_BYTES / 2; at += 97) rig.guest[at] = prng.u32();
        const written = Buffer.from(rig.guest);
        for (const [offset, segments] of plan) {
          slots.push(rig.submit(OP_WRITE, offset, segments, round % 2 === 0 ? FLAG_DURABLE : 0));
        }
        slots.push(rig.submit(OP_FLUSH, 0, []));
        rig.finish();
        assert.ok(slots.every((slot) => rig.results.get(slot) === 0));
        rig.guest.fill(0);
        const reads = plan.map(([offset, segments]) => rig.submit(OP_READ, offset, segments));
        rig.finish();
        assert.ok(reads.every((slot) => rig.results.get(slot) === 0));
        for (const [, segments] of plan) {
          for (const [at, bytes] of segments) {
            const read = Buffer.from(rig.guest.subarray(at, at + bytes));
            assert.equal(read.compare(written.subarray(at, at + bytes)), 0, `round ${round}`);
          }
        }
      }
    });

    it("punches holes, writes zeroes, and reads zeroes past the end", (test) => {
      const rig = new Rig(isDirect);
      test.after(() => rig.close());
      const whole = [[0, 1048576]] as const;
      rig.guest.fill(0xab, 0, 1048576);
      assert.equal(rig.run(OP_WRITE, 0, whole, FLAG_DURABLE), 0);
      const full = rig.allocatedBytes;
      const zeroes = (from: number, to: number): boolean => {
        rig.guest.fill(0xcd);
        assert.equal(rig.run(OP_READ, 0, whole), 0);
        return rig.guest.subarray(from, to).every((byte) => byte === 0);
      };
      assert.equal(rig.run(OP_WRITE_ZEROES, 4096, [[0, 65536]]), 0);
      assert.ok(zeroes(4096, 4096 + 65536));
      assert.equal(rig.guest[4095], 0xab);
      assert.equal(rig.guest[4096 + 65536], 0xab);
      assert.equal(rig.run(OP_WRITE_ZEROES, 131072, [[0, 65536]], FLAG_UNMAP | FLAG_DURABLE), 0);
      assert.ok(zeroes(131072, 131072 + 65536));
      assert.equal(rig.run(OP_DISCARD, 262144, [[0, 524288]]), 0);
      const canPunch = sys.punchHole(rig.fd, 0, 4096) !== -EOPNOTSUPP;
      if (canPunch) {
        assert.ok(zeroes(262144, 262144 + 524288));
        assert.ok(rig.allocatedBytes <= full - 524288, "the discard returned no space");
      }
      sys.check(sys.ftruncate(rig.fd, 1000), "ftruncate");
      assert.ok(zeroes(1000, 1048576));
    });

    it("answers EFAULT when guest memory is truncated, and lives", (test) => {
      const rig = new Rig(isDirect);
      test.after(() => rig.close());
      sys.check(sys.ftruncate(rig.guestFd, 65536), "ftruncate of guest memory");
      for (const base of [0, 8]) {
        const gone = [[131072 + base, 8192]] as const;
        const half = [[65536 - 4096 + base, 8192]] as const;
        for (const segments of [gone, half]) {
          assert.equal(rig.run(OP_WRITE, 0, segments, FLAG_FAULTABLE), -EFAULT);
          assert.equal(rig.run(OP_READ, 0, segments, FLAG_FAULTABLE), -EFAULT);
        }
        assert.equal(rig.run(OP_READ, 0, [[base, 8192]], FLAG_FAULTABLE), 0);
      }
      // Past the end of the file it is our own copy that meets the missing pages.
      sys.check(sys.ftruncate(rig.fd, 0), "ftruncate");
      assert.equal(rig.run(OP_READ, 0, [[131072, 8192]], FLAG_FAULTABLE), -EFAULT);
    });
  });
}
