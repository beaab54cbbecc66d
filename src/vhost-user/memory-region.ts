// One region of guest memory that a front-end shared with us: checked before it is mapped, mapped
// once, unmapped once.
//
// Invariants:
//  - every number of the region is outside input: sizes, addresses and offsets are checked against
//    overflow and against the file before mmap;
//  - a region is `direct` when nobody can truncate the file under us (F_SEAL_SHRINK is set, by us
//    where the front-end left it open): only then are its bytes touched by plain loads and stores.
//    Any other region is faultable: system calls copy there and answer EFAULT where a load would
//    raise SIGBUS. Huge page files are faultable, too: a hole punched into one can make a later
//    touch fail, and no seal forbids that.
//  - the descriptor is not kept: the mapping holds the file.
// Specification: vhost-user, "Memory region description"; mmap(2), fcntl(2) on seals.

import {
  alignDown,
  alignUp,
  assert,
  GIB,
  PAGE_BYTES,
  SAFE_HIGH_MAX,
  TWO_32,
} from "../base/index.ts";
import {
  fileSystemBlockBytes,
  fstatNoWait,
  MAP_SHARED,
  mmap,
  munmap,
  O_RDWR,
  PROT_READ,
  PROT_WRITE,
  statusFlags,
  windowOver,
} from "../sys/index.ts";
import type { MemoryBudget } from "./memory-budget.ts";
import { isHugePageFile, memoryFileProblem, sealAgainstShrinking } from "./memory-file.ts";
import { MEMORY_REGION } from "./messages.ts";

const ACCESS_MODE_MASK = 3;
/** Guest and user addresses above this are no addresses: architectures end at 2^52. */
const ADDRESS_LIMIT = 2 ** 52;

/** What a front-end says of a region. */
export interface RegionDescription {
  readonly guestAddress: number;
  readonly bytes: number;
  readonly userAddress: number;
  readonly fileOffset: number;
}

/** Reads a region description at `offset` of a payload; a string says what is wrong with it. */
export function parseRegion(payload: DataView, offset: number): RegionDescription | string {
  const field = (at: number): number => {
    const high = payload.getUint32(offset + at + 4, true);
    // Beyond 2^53 the joined number would not be exact; any value there is refused below.
    return high > SAFE_HIGH_MAX ? Infinity : high * TWO_32 + payload.getUint32(offset + at, true);
  };
  const guestAddress = field(MEMORY_REGION.guestAddress);
  const bytes = field(MEMORY_REGION.memorySize);
  const userAddress = field(MEMORY_REGION.userAddress);
  const fileOffset = field(MEMORY_REGION.mmapOffset);
  if (bytes === 0) return "a region of size 0";
  if (guestAddress + bytes > ADDRESS_LIMIT) return "a region that ends beyond 2^52";
  if (userAddress + bytes > ADDRESS_LIMIT * 2) return "a region whose user address overflows";
  if (fileOffset + bytes > ADDRESS_LIMIT) return "a region whose file offset overflows";
  return { guestAddress, bytes, userAddress, fileOffset };
}

export class MemoryRegion {
  readonly guestAddress: number;
  readonly userAddress: number;
  readonly bytes: number;
  /** Where guestAddress is mapped here. */
  readonly hostAddress: number;
  /** False: only system calls may touch it. */
  readonly direct: boolean;
  /** For direct regions: windows of 1 GiB, the last one shorter; null until openWindow(). */
  readonly windows: (Uint8Array | null)[];
  /** The same windows, for words at any byte address. */
  readonly views: (DataView | null)[];
  windowCount = 0;
  private readonly budget: MemoryBudget;
  private readonly mapAddress: number;
  private readonly mapBytes: number;

  private constructor(
    region: RegionDescription,
    mapping: { readonly address: number; readonly bytes: number; readonly skipBytes: number },
    direct: boolean,
    budget: MemoryBudget,
  ) {
    this.guestAddress = region.guestAddress;
    this.userAddress = region.userAddress;
    this.bytes = region.bytes;
    this.mapAddress = mapping.address;
    this.mapBytes = mapping.bytes;
    this.hostAddress = mapping.address + mapping.skipBytes;
    this.direct = direct;
    this.budget = budget;
    const count = direct ? Math.ceil(region.bytes / GIB) : 0;
    this.windows = new Array<Uint8Array | null>(count).fill(null);
    this.views = new Array<DataView | null>(count).fill(null);
  }

  /** Makes the window of `index`, some milliseconds of work: when it is first needed. */
  openWindow(index: number): void {
    assert(this.windows[index] === null, "a window opened twice");
    const offset = index * GIB;
    const buffer = windowOver(this.hostAddress + offset, Math.min(GIB, this.bytes - offset));
    this.windows[index] = new Uint8Array(buffer);
    this.views[index] = new DataView(buffer);
    this.windowCount += 1;
  }

  /** Checks and maps; a string says why not. Does not take ownership of `fd`. */
  static map(
    region: RegionDescription,
    fd: number,
    { trusted, budget }: { readonly trusted: boolean; readonly budget: MemoryBudget },
  ): MemoryRegion | string {
    const problem = memoryFileProblem(fd);
    if (problem !== null) return `a region descriptor ${problem}`;
    const status = fstatNoWait(fd);
    if (typeof status === "number") return "a region descriptor that cannot be examined";
    if ((statusFlags(fd) & ACCESS_MODE_MASK) !== O_RDWR) {
      return "a region descriptor that is not open for reading and writing";
    }
    if (region.fileOffset + region.bytes > status.sizeBytes) {
      const needed = region.fileOffset + region.bytes;
      return `a region that needs ${needed} bytes of a file of ${status.sizeBytes}`;
    }
    const huge = isHugePageFile(fd);
    const pageBytes = huge ? fileSystemBlockBytes(fd) : PAGE_BYTES;
    const start = alignDown(region.fileOffset, pageBytes);
    const skipBytes = region.fileOffset - start;
    // Whole pages: munmap takes nothing less of huge ones.
    const bytes = alignUp(skipBytes + region.bytes, pageBytes);
    const direct = trusted || (!huge && sealAgainstShrinking(fd));
    const excess = budget.take(bytes);
    if (excess !== null) return excess;
    const address = mmap(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, start);
    if (address < 0) {
      budget.give(bytes);
      return "a region that cannot be mapped";
    }
    return new MemoryRegion(region, { address, bytes, skipBytes }, direct, budget);
  }

  /** Nothing may touch the region afterwards. */
  unmap(): void {
    const result = munmap(this.mapAddress, this.mapBytes);
    assert(result === 0, "munmap of a region failed");
    this.budget.give(this.mapBytes);
  }
}
