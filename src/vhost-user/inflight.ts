// The inflight region: memory shared with the front-end in which each queue records what it has
// taken from its ring and not yet given back. When this process is killed, the front-end hands the
// region to its successor, which takes up exactly those requests again.
//
//   region   [ queue 0 ][ queue 1 ] ... [ record ]   each aligned to 64 bytes
//   queue    [ header ][ entry 0 ][ entry 1 ] ... one entry per descriptor
//
// The record behind the last queue is ours: what a guest set and a front-end does not tell again
// (of virtio-blk, writeback). Another back-end never looks there; a region without it has none to
// restore.
//
// Invariants:
//  - the layout is the published one, so that a changed build (or another back-end) reads it;
//  - version 0 means never used; the first use stores used_idx from the ring itself, not 0, or the
//    next recovery would drop requests that are really in flight;
//  - the socket's peer can write the region at any time: recovery checks every number and bounds
//    every walk, and a region that could be truncated is refused.
// Specification: vhost-user, "Inflight I/O tracking".

import { alignUp, assert, type Layout, layout } from "../base/index.ts";
import {
  addSeals,
  close,
  F_SEAL_GROW,
  F_SEAL_SEAL,
  F_SEAL_SHRINK,
  fstatNoWait,
  MAP_SHARED,
  memfd,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
  windowOver,
} from "../sys/index.ts";
import { plainAccessProblem } from "./memory-file.ts";

const SPLIT_HEADER_FIELDS = {
  features: [0, 8],
  version: [8, 2],
  desc_num: [10, 2],
  last_batch_head: [12, 2],
  used_idx: [14, 2],
} as const;
export const SPLIT_HEADER: Layout<typeof SPLIT_HEADER_FIELDS> = layout(
  "inflight split header",
  16,
  SPLIT_HEADER_FIELDS,
);

const SPLIT_ENTRY_FIELDS = { inflight: [0, 1], next: [6, 2], counter: [8, 8] } as const;
export const SPLIT_ENTRY: Layout<typeof SPLIT_ENTRY_FIELDS> = layout(
  "inflight split entry",
  16,
  SPLIT_ENTRY_FIELDS,
);

const PACKED_HEADER_FIELDS = {
  features: [0, 8],
  version: [8, 2],
  desc_num: [10, 2],
  free_head: [12, 2],
  old_free_head: [14, 2],
  used_idx: [16, 2],
  old_used_idx: [18, 2],
  used_wrap: [20, 1],
  old_used_wrap: [21, 1],
} as const;
export const PACKED_HEADER: Layout<typeof PACKED_HEADER_FIELDS> = layout(
  "inflight packed header",
  32,
  PACKED_HEADER_FIELDS,
);

const PACKED_ENTRY_FIELDS = {
  inflight: [0, 1],
  next: [2, 2],
  last: [4, 2],
  num: [6, 2],
  counter: [8, 8],
  id: [16, 2],
  flags: [18, 2],
  len: [20, 4],
  addr: [24, 8],
} as const;
export const PACKED_ENTRY: Layout<typeof PACKED_ENTRY_FIELDS> = layout(
  "inflight packed entry",
  32,
  PACKED_ENTRY_FIELDS,
);

const RECORD_FIELDS = { magic: [0, 4], guest_state: [4, 4] } as const;
const RECORD: Layout<typeof RECORD_FIELDS> = layout("inflight record", 64, RECORD_FIELDS);
/** "RSIR", little-endian. */
const RECORD_MAGIC = 0x52495352;

/** The one version of the layout there is. */
export const INFLIGHT_VERSION = 1;
const QUEUE_ALIGNMENT = 64;
const REGION_OFFSET_ALIGNMENT = 4096;

/** Bytes of one queue's part of the region. */
export function queueRegionBytes(packed: boolean, queueSize: number): number {
  const header = packed ? PACKED_HEADER.BYTES : SPLIT_HEADER.BYTES;
  const entry = packed ? PACKED_ENTRY.BYTES : SPLIT_ENTRY.BYTES;
  return alignUp(header + queueSize * entry, QUEUE_ALIGNMENT);
}

/** Typed windows over one queue's part of the region. */
export interface InflightWindow {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
}

export interface InflightGeometry {
  readonly mmapBytes: number;
  readonly mmapOffset: number;
  readonly queueCount: number;
  readonly queueSize: number;
}

export class InflightRegion {
  readonly geometry: InflightGeometry;
  readonly packed: boolean;
  /** The memory file, kept to be handed to the front-end; -1 once given away. */
  fd: number;
  private readonly mapAddress: number;

  private constructor(geometry: InflightGeometry, packed: boolean, address: number, fd: number) {
    this.geometry = geometry;
    this.packed = packed;
    this.mapAddress = address;
    this.fd = fd;
  }

  /** A new, zeroed region. A string says why it cannot be had. */
  static create(queueCount: number, queueSize: number, packed: boolean): InflightRegion | string {
    const queueBytes = queueCount * queueRegionBytes(packed, queueSize);
    const bytes = alignUp(queueBytes + RECORD.BYTES, 4096);
    const fd = memfd("ringstore-inflight", bytes);
    if (fd < 0) return "no memory for an inflight region";
    const sealed = addSeals(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    assert(sealed >= 0, "sealing our own memory file failed");
    const address = mmap(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (address < 0) {
      close(fd);
      return "an inflight region that cannot be mapped";
    }
    const geometry = { mmapBytes: bytes, mmapOffset: 0, queueCount, queueSize };
    return new InflightRegion(geometry, packed, address, fd);
  }

  /** Maps a region that a front-end hands back. Does not take ownership of `fd`. */
  static adopt(
    geometry: InflightGeometry,
    packed: boolean,
    fd: number,
    trusted: boolean,
  ): InflightRegion | string {
    const { mmapBytes, mmapOffset, queueCount, queueSize } = geometry;
    const needed = queueCount * queueRegionBytes(packed, queueSize);
    if (mmapBytes < needed) {
      const queues = `${queueCount} queues of ${queueSize}`;
      return `an inflight region of ${mmapBytes} bytes; ${queues} need ${needed}`;
    }
    if (mmapOffset % REGION_OFFSET_ALIGNMENT !== 0) {
      return `an inflight region at offset ${mmapOffset}, not page-aligned`;
    }
    const unfit = plainAccessProblem(fd, trusted);
    if (unfit !== null) return `an inflight region in a file ${unfit}`;
    const status = fstatNoWait(fd);
    if (typeof status === "number") return "an inflight descriptor that cannot be examined";
    if (mmapOffset + needed > status.sizeBytes) {
      return `an inflight file of ${status.sizeBytes} bytes for ${mmapOffset} + ${needed}`;
    }
    const withRecord = needed + RECORD.BYTES;
    const recordFits = mmapBytes >= withRecord && mmapOffset + withRecord <= status.sizeBytes;
    const mapBytes = recordFits ? withRecord : needed;
    const address = mmap(mapBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, mmapOffset);
    if (address < 0) return "an inflight region that cannot be mapped";
    const region = new InflightRegion({ ...geometry, mmapBytes: mapBytes }, packed, address, -1);
    const problem = region.inspect();
    if (problem !== null) {
      region.unmap();
      return problem;
    }
    return region;
  }

  /** What is wrong with the headers, or null. */
  private inspect(): string | null {
    for (let queue = 0; queue < this.geometry.queueCount; queue++) {
      const { u16 } = this.window(queue);
      // version and desc_num lie at the same offsets in both layouts.
      const version = u16[SPLIT_HEADER.version >>> 1] as number;
      const count = u16[SPLIT_HEADER.desc_num >>> 1] as number;
      if (version !== 0 && version !== INFLIGHT_VERSION) {
        return `an inflight region of version ${version} (this is version ${INFLIGHT_VERSION})`;
      }
      // No bit has a meaning yet: whoever set one keeps something here that we would not.
      const features = u16.subarray(SPLIT_HEADER.features >>> 1, (SPLIT_HEADER.features >>> 1) + 4);
      const found = features.findIndex((word) => word !== 0);
      if (found >= 0) {
        const bit = found * 16 + 31 - Math.clz32(features[found] as number);
        return `an inflight region with feature ${bit}, which this version does not know`;
      }
      if (version !== 0 && count !== this.geometry.queueSize) {
        const { queueSize } = this.geometry;
        return `an inflight queue of ${count} descriptors in a region for ${queueSize}`;
      }
    }
    return null;
  }

  /** The part of queue `index`. The windows die with unmap(). */
  window(index: number): InflightWindow {
    assert(index < this.geometry.queueCount, "queue beyond the inflight region");
    const bytes = queueRegionBytes(this.packed, this.geometry.queueSize);
    const buffer = windowOver(this.mapAddress + index * bytes, bytes);
    return {
      u8: new Uint8Array(buffer),
      u16: new Uint16Array(buffer),
      u32: new Uint32Array(buffer),
    };
  }

  private record(): Uint32Array | null {
    const { queueCount, queueSize, mmapBytes } = this.geometry;
    const at = queueCount * queueRegionBytes(this.packed, queueSize);
    if (mmapBytes < at + RECORD.BYTES) return null;
    return new Uint32Array(windowOver(this.mapAddress + at, RECORD.BYTES));
  }

  /** Notes what the guest set, for a successor. */
  saveGuestState(state: number): void {
    const record = this.record();
    if (record === null) return;
    record[RECORD.guest_state >>> 2] = state;
    record[RECORD.magic >>> 2] = RECORD_MAGIC;
  }

  /** What a predecessor noted, or null. */
  savedGuestState(): number | null {
    const record = this.record();
    if (record === null || record[RECORD.magic >>> 2] !== RECORD_MAGIC) return null;
    return record[RECORD.guest_state >>> 2] as number;
  }

  /** Nothing may touch the windows afterwards. */
  unmap(): void {
    if (this.fd >= 0) close(this.fd);
    this.fd = -1;
    const result = munmap(this.mapAddress, this.geometry.mmapBytes);
    assert(result === 0, "munmap of an inflight region failed");
  }
}
