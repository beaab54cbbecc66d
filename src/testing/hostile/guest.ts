// Guest memory for hostile tests. Every region lies in the middle of its file, between guards that
// the target is never told of and must never touch:
//
//   file    [ guard ][ region: what the target is told of ][ guard ]
//
// Everything is filled with a pattern first, so that a stray write shows. Addresses may be given as
// bigint, because hostile ones exceed what a number holds.

import assert from "node:assert/strict";
import type { Arena } from "../../ports/index.ts";
import * as sys from "../../sys/index.ts";

export type MemoryKind =
  /** A memfd that the target seals: it touches the memory directly. */
  | "memfd"
  /** A memfd that cannot be sealed: every access of the target is a system call. */
  | "memfd-unsealable";

export const GUARD_BYTES = 65536;
const GUARD_BYTE = 0xd5;
const REGION_BYTE = 0xa5;

export interface RegionSpec {
  readonly guestAddress: number;
  readonly bytes: number;
  readonly kind?: MemoryKind;
  readonly userAddress?: number;
}

/** A region as the wire describes it, and as this process sees it. */
export interface HostileRegion {
  readonly guestAddress: number;
  readonly bytes: number;
  readonly userAddress: number;
  readonly fileOffsetBytes: number;
  readonly fd: number;
  /** The whole file with its guards. */
  readonly file: Arena;
  /** The region alone. */
  readonly u8: Uint8Array;
}

interface OwnedRegion extends HostileRegion {
  nextFree: number;
}

export type Range = readonly [gpa: number, bytes: number];

function openFile(kind: MemoryKind, bytes: number): number {
  const fd = sys.check(sys.memfd("hostile-guest", bytes), "memfd_create");
  if (kind === "memfd-unsealable") sys.check(sys.addSeals(fd, sys.F_SEAL_SEAL), "F_ADD_SEALS");
  return fd;
}

export class HostileMemory {
  private readonly owned: OwnedRegion[] = [];

  constructor(specs: readonly RegionSpec[]) {
    for (const spec of specs) this.add(spec);
  }

  get regions(): readonly HostileRegion[] {
    return this.owned;
  }

  add(spec: RegionSpec): HostileRegion {
    const fileBytes = spec.bytes + 2 * GUARD_BYTES;
    const fd = openFile(spec.kind ?? "memfd", fileBytes);
    const protection = sys.PROT_READ | sys.PROT_WRITE;
    const address = sys.check(sys.mmap(fileBytes, protection, sys.MAP_SHARED, fd, 0), "mmap");
    const file = sys.arenaOver(address, fileBytes);
    file.u8.fill(GUARD_BYTE);
    const u8 = new Uint8Array(file.u8.buffer, file.u8.byteOffset + GUARD_BYTES, spec.bytes);
    u8.fill(REGION_BYTE);
    const region: OwnedRegion = {
      guestAddress: spec.guestAddress,
      bytes: spec.bytes,
      userAddress: spec.userAddress ?? address + GUARD_BYTES,
      fileOffsetBytes: GUARD_BYTES,
      fd,
      file,
      u8,
      nextFree: 0,
    };
    this.owned.push(region);
    return region;
  }

  private find(gpa: number): OwnedRegion {
    const region = this.owned.find(
      ({ guestAddress, bytes }) => gpa >= guestAddress && gpa < guestAddress + bytes,
    );
    assert.ok(region !== undefined, `no region holds guest address ${gpa}`);
    return region;
  }

  userAddress(gpa: number): number {
    const region = this.find(gpa);
    return region.userAddress + (gpa - region.guestAddress);
  }

  /** Where this process sees guest address `gpa`. */
  hostAddress(gpa: number): number {
    const region = this.find(gpa);
    return region.file.address + GUARD_BYTES + (gpa - region.guestAddress);
  }

  /** Takes zeroed bytes of one region, of the first one if none is named. */
  allocate(bytes: number, alignment = 16, within?: HostileRegion): number {
    const region = (within ?? this.owned[0]) as OwnedRegion;
    const start = Math.ceil(region.nextFree / alignment) * alignment;
    assert.ok(start + bytes <= region.bytes, "guest memory is full");
    region.nextFree = start + bytes;
    region.u8.fill(0, start, start + bytes);
    return region.guestAddress + start;
  }

  /** Everything allocated after this may be allocated again after reset(). */
  mark(): number[] {
    return this.owned.map((region) => region.nextFree);
  }

  reset(mark: readonly number[]): void {
    for (const [index, free] of mark.entries()) (this.owned[index] as OwnedRegion).nextFree = free;
  }

  /** A window over [gpa, gpa + bytes), which lies in one region. */
  window(gpa: number, bytes: number): DataView {
    const { u8, guestAddress } = this.find(gpa);
    return new DataView(u8.buffer, u8.byteOffset + (gpa - guestAddress), bytes);
  }

  /** Typed windows; `gpa` must be aligned to their width. */
  u16(gpa: number, count: number): Uint16Array {
    const view = this.window(gpa, count * 2);
    return new Uint16Array(view.buffer, view.byteOffset, count);
  }

  u32(gpa: number, count: number): Uint32Array {
    const view = this.window(gpa, count * 4);
    return new Uint32Array(view.buffer, view.byteOffset, count);
  }

  write(gpa: number, bytes: Uint8Array): void {
    let done = 0;
    while (done < bytes.length) {
      const region = this.find(gpa + done);
      const offset = gpa + done - region.guestAddress;
      const step = Math.min(bytes.length - done, region.bytes - offset);
      region.u8.set(bytes.subarray(done, done + step), offset);
      done += step;
    }
  }

  read(gpa: number, bytes: number): Uint8Array {
    const copy = new Uint8Array(bytes);
    for (let done = 0; done < bytes; ) {
      const region = this.find(gpa + done);
      const offset = gpa + done - region.guestAddress;
      const step = Math.min(bytes - done, region.bytes - offset);
      copy.set(region.u8.subarray(offset, offset + step), done);
      done += step;
    }
    return copy;
  }

  /** Fails when a byte beside a region was written. */
  checkGuards(): void {
    for (const region of this.owned) {
      const { u8 } = region.file;
      const after = GUARD_BYTES + region.bytes;
      for (const from of [0, after]) {
        const guard = Buffer.from(u8.buffer, u8.byteOffset + from, GUARD_BYTES);
        const clean = Buffer.alloc(GUARD_BYTES, GUARD_BYTE);
        assert.ok(guard.equals(clean), `the guard at file offset ${from} was written`);
      }
    }
  }

  /** A copy of all regions, for changes(). */
  snapshot(): Uint8Array[] {
    return this.owned.map(({ u8 }) => u8.slice());
  }

  /** Guest addresses that differ from `before` outside `allowed`, the first few of them. */
  changes(before: readonly Uint8Array[], allowed: readonly Range[]): number[] {
    const found: number[] = [];
    for (const [index, region] of this.owned.entries()) {
      const now = Buffer.from(region.u8);
      const old = Buffer.from(before[index] as Uint8Array);
      for (const [gpa, bytes] of allowed) {
        const from = Math.max(0, gpa - region.guestAddress);
        const to = Math.min(region.bytes, gpa + bytes - region.guestAddress);
        if (from >= to) continue;
        now.fill(0, from, to);
        old.fill(0, from, to);
      }
      if (now.equals(old)) continue;
      for (let at = 0; at < now.length && found.length < 8; at++) {
        if (now[at] !== old[at]) found.push(region.guestAddress + at);
      }
    }
    return found;
  }

  close(): void {
    for (const { file, fd } of this.owned.splice(0)) {
      sys.check(sys.munmap(file.address, file.bytes), "munmap");
      sys.close(fd);
    }
  }
}
