// The memory of a guest that does not exist: memory files mapped here and offered to a back-end
// with SET_MEM_TABLE or ADD_MEM_REG. The caller chooses where the regions lie in guest-physical
// space (adjacent, with gaps, overlapping even: hostile tests want that) and what kind of file
// backs them, because back-ends treat them differently:
//
//   memfd             what QEMU's memory-backend-memfd gives: may be sealed by the back-end
//   memfd-unsealable  a memfd without MFD_ALLOW_SEALING: it can be truncated under the back-end
//   tmpfs             a file in /dev/shm: cannot be sealed at all
//   hugetlb           a file on a hugetlbfs mount, where the machine has free huge pages
//
// Invariants:
//  - a region is at most 1 GiB, so that one set of typed windows covers it;
//  - windows and host addresses stay valid until the region is removed or the memory closed, and
//    must not be touched afterwards.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { alignUp, assert, GIB, PAGE_BYTES } from "../base/index.ts";
import type { Address, Arena } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import { LoadError } from "./errors.ts";

export type GuestMemoryKind = "memfd" | "memfd-unsealable" | "tmpfs" | "hugetlb";

export const REGION_BYTES_MAX: number = GIB;
export const HUGE_PAGE_BYTES: number = 2 * 1024 * 1024;

export interface RegionOptions {
  readonly guestAddress: number;
  /** Multiple of the page size (of the huge page size for hugetlb). */
  readonly bytes: number;
  /** Default "memfd". */
  readonly kind?: GuestMemoryKind;
  /** Address the front-end names in ring addresses; default: where we mapped it. */
  readonly userAddress?: number;
  /** The region starts this far into its file; the file is that much longer. Default 0. */
  readonly fileOffsetBytes?: number;
}

/** One region, mapped. `host` has the typed windows. */
export interface GuestRegion {
  readonly guestAddress: number;
  readonly bytes: number;
  readonly userAddress: number;
  readonly fileOffsetBytes: number;
  readonly kind: GuestMemoryKind;
  readonly fd: number;
  readonly host: Arena;
}

interface OwnedRegion extends GuestRegion {
  nextFree: number;
}

/** Where a hugetlbfs with 2 MiB pages is mounted and has at least `bytes` free, or "". */
export function hugetlbFolder(bytes: number): string {
  const free = /HugePages_Free:\s+(\d+)/.exec(readFileSync("/proc/meminfo", "utf8"));
  if (free === null || Number(free[1]) * HUGE_PAGE_BYTES < bytes) return "";
  for (const line of readFileSync("/proc/mounts", "utf8").split("\n")) {
    const [, folder, type] = line.split(" ");
    if (type === "hugetlbfs" && folder !== undefined) return folder;
  }
  return "";
}

/** A file in `folder` that has no name any more. */
function unlinkedFile(folder: string, bytes: number): number {
  const inside = mkdtempSync(join(folder, "ringstore-load-"));
  try {
    const path = join(inside, "memory");
    const fd = sys.check(
      sys.open(path, sys.O_RDWR | sys.O_CREAT | sys.O_EXCL, 0o600),
      "open",
      path,
    );
    sys.check(sys.ftruncate(fd, bytes), "ftruncate", path);
    return fd;
  } finally {
    rmSync(inside, { recursive: true });
  }
}

function openBacking(kind: GuestMemoryKind, bytes: number): number {
  switch (kind) {
    case "memfd":
      return sys.check(sys.memfd("guest", bytes), "memfd_create", `${bytes} bytes`);
    case "memfd-unsealable": {
      const fd = sys.check(sys.memfd("guest", bytes), "memfd_create", `${bytes} bytes`);
      // Exactly the state a memfd has that was created without MFD_ALLOW_SEALING.
      sys.check(sys.addSeals(fd, sys.F_SEAL_SEAL), "fcntl(F_ADD_SEALS)", "guest memory");
      return fd;
    }
    case "tmpfs":
      return unlinkedFile("/dev/shm", bytes);
    case "hugetlb": {
      const folder = hugetlbFolder(bytes);
      if (folder === "") {
        throw new LoadError("UNAVAILABLE", `No hugetlbfs mount with ${bytes} bytes free.`, {
          advice: "Raise vm.nr_hugepages and mount hugetlbfs, or use memfd memory.",
        });
      }
      return unlinkedFile(folder, bytes);
    }
  }
}

export class LoadGuestMemory {
  private readonly owned: OwnedRegion[] = [];

  constructor(regions: readonly RegionOptions[] = []) {
    for (const options of regions) this.addRegion(options);
  }

  get regions(): readonly GuestRegion[] {
    return this.owned;
  }

  /** Creates and maps a region. Telling the back-end is the caller's business. */
  addRegion(options: RegionOptions): GuestRegion {
    const kind = options.kind ?? "memfd";
    const fileOffsetBytes = options.fileOffsetBytes ?? 0;
    assert(options.bytes > 0, "an empty region");
    assert(options.bytes <= REGION_BYTES_MAX, "a region larger than 1 GiB");
    assert(options.bytes % PAGE_BYTES === 0, "a region must be whole pages");
    assert(fileOffsetBytes % PAGE_BYTES === 0, "a region must start on a page of its file");
    const fileBytes = fileOffsetBytes + options.bytes;
    const fd = openBacking(kind, fileBytes);
    const protection = sys.PROT_READ | sys.PROT_WRITE;
    const address = sys.mmap(options.bytes, protection, sys.MAP_SHARED, fd, fileOffsetBytes);
    if (address < 0) sys.close(fd);
    sys.check(address, "mmap", `${options.bytes} bytes of guest memory (${kind})`);
    const region: OwnedRegion = {
      guestAddress: options.guestAddress,
      bytes: options.bytes,
      userAddress: options.userAddress ?? address,
      fileOffsetBytes,
      kind,
      fd,
      host: sys.arenaOver(address, options.bytes),
      nextFree: 0,
    };
    this.owned.push(region);
    return region;
  }

  /** Unmaps and forgets a region: nothing may use its windows any more. */
  removeRegion(region: GuestRegion): void {
    const index = this.owned.indexOf(region as OwnedRegion);
    assert(index >= 0, "removeRegion of a region that is not there");
    this.owned.splice(index, 1);
    sys.check(sys.munmap(region.host.address, region.bytes), "munmap", "guest memory");
    sys.close(region.fd);
  }

  /** The region that holds guest address `gpa`, or undefined. */
  regionAt(gpa: number): GuestRegion | undefined {
    return this.owned.find(
      (region) => gpa >= region.guestAddress && gpa < region.guestAddress + region.bytes,
    );
  }

  private mustFind(gpa: number): GuestRegion {
    const region = this.regionAt(gpa);
    assert(region !== undefined, "guest address outside every region");
    return region;
  }

  /** Our address of guest address `gpa`. */
  hostAddress(gpa: number): Address {
    const region = this.mustFind(gpa);
    return region.host.address + (gpa - region.guestAddress);
  }

  /** The front-end's user address of guest address `gpa`: what SET_VRING_ADDR carries. */
  userAddress(gpa: number): number {
    const region = this.mustFind(gpa);
    return region.userAddress + (gpa - region.guestAddress);
  }

  /** A window over [gpa, gpa + bytes), which lies in one region. */
  bytesAt(gpa: number, bytes: number): Uint8Array {
    const region = this.mustFind(gpa);
    const offset = gpa - region.guestAddress;
    assert(offset + bytes <= region.bytes, "window runs over the end of its region");
    return new Uint8Array(region.host.u8.buffer, region.host.u8.byteOffset + offset, bytes);
  }

  /** Copies `bytes` into guest memory, across adjacent regions where needed. */
  write(gpa: number, bytes: Uint8Array): void {
    let done = 0;
    while (done < bytes.length) {
      const region = this.mustFind(gpa + done);
      const offset = gpa + done - region.guestAddress;
      const step = Math.min(bytes.length - done, region.bytes - offset);
      region.host.u8.set(bytes.subarray(done, done + step), offset);
      done += step;
    }
  }

  /** A copy of [gpa, gpa + bytes), across adjacent regions where needed. */
  read(gpa: number, bytes: number): Uint8Array {
    const copy = new Uint8Array(bytes);
    let done = 0;
    while (done < bytes) {
      const region = this.mustFind(gpa + done);
      const offset = gpa + done - region.guestAddress;
      const step = Math.min(bytes - done, region.bytes - offset);
      copy.set(region.host.u8.subarray(offset, offset + step), done);
      done += step;
    }
    return copy;
  }

  /**
   * Takes `bytes` that nobody else has taken, in the first region with room, or in `within`.
   * Returns the guest address. There is no way to give back: memories are short-lived.
   */
  allocate(bytes: number, alignment = 64, within?: GuestRegion): number {
    assert(bytes > 0, "allocate of nothing");
    for (const region of this.owned) {
      if (within !== undefined && region !== within) continue;
      const start = alignUp(region.guestAddress + region.nextFree, alignment);
      const end = start - region.guestAddress + bytes;
      if (end > region.bytes) continue;
      region.nextFree = end;
      return start;
    }
    throw new LoadError("UNAVAILABLE", `Guest memory has no ${bytes} bytes left.`, {
      advice: "Give the guest a larger region.",
    });
  }

  /** Unmaps everything. */
  close(): void {
    while (this.owned.length > 0) this.removeRegion(this.owned[0] as GuestRegion);
  }
}
