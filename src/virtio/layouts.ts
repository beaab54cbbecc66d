// The structures that a virtio driver and this device share in guest memory, as tables, and the
// numbers that the virtio 1.x specification (sections 2.7, 2.8, 5.2 and 6) gives to their fields.
//
// Invariants:
// - Everything is little-endian. Ring areas are read through typed arrays at their natural
//   alignment; a request header may lie at any byte address and is copied out before it is read.
// - Numbers here are the specification's; our own limits are named in the files that keep them.

import { type Layout, layout } from "../base/index.ts";

// Split virtqueue (2.7) ---------------------------------------------------------------------------

const SPLIT_DESCRIPTOR_FIELDS = {
  addr: [0, 8],
  len: [8, 4],
  flags: [12, 2],
  next: [14, 2],
} as const;
export const SPLIT_DESCRIPTOR: Layout<typeof SPLIT_DESCRIPTOR_FIELDS> = layout(
  "virtq_desc",
  16,
  SPLIT_DESCRIPTOR_FIELDS,
);

const SPLIT_AVAIL_FIELDS = { flags: [0, 2], idx: [2, 2] } as const;
/** Head of the avail ring; `ring[size]` of u16 follows at 4, then used_event. */
export const SPLIT_AVAIL: Layout<typeof SPLIT_AVAIL_FIELDS> = layout(
  "virtq_avail",
  4,
  SPLIT_AVAIL_FIELDS,
);

const SPLIT_USED_FIELDS = { flags: [0, 2], idx: [2, 2] } as const;
/** Head of the used ring; `ring[size]` of {id u32, len u32} follows at 4, then avail_event. */
export const SPLIT_USED: Layout<typeof SPLIT_USED_FIELDS> = layout(
  "virtq_used",
  4,
  SPLIT_USED_FIELDS,
);

const SPLIT_USED_ELEMENT_FIELDS = { id: [0, 4], len: [4, 4] } as const;
export const SPLIT_USED_ELEMENT: Layout<typeof SPLIT_USED_ELEMENT_FIELDS> = layout(
  "virtq_used_elem",
  8,
  SPLIT_USED_ELEMENT_FIELDS,
);

export function splitDescriptorBytes(size: number): number {
  return 16 * size;
}

/** With used_event, whether or not EVENT_IDX was negotiated. */
export function splitAvailBytes(size: number): number {
  return 6 + 2 * size;
}

/** With avail_event, whether or not EVENT_IDX was negotiated. */
export function splitUsedBytes(size: number): number {
  return 6 + 8 * size;
}

export function splitUsedEventOffset(size: number): number {
  return 4 + 2 * size;
}

export function splitAvailEventOffset(size: number): number {
  return 4 + 8 * size;
}

export const DESCRIPTOR_F_NEXT = 1;
export const DESCRIPTOR_F_WRITE = 2;
export const DESCRIPTOR_F_INDIRECT = 4;
/** In avail.flags: the driver wants no interrupt. */
export const AVAIL_F_NO_INTERRUPT = 1;
/** In used.flags: the device wants no kick. */
export const USED_F_NO_NOTIFY = 1;

// Packed virtqueue (2.8) --------------------------------------------------------------------------

const PACKED_DESCRIPTOR_FIELDS = {
  addr: [0, 8],
  len: [8, 4],
  id: [12, 2],
  flags: [14, 2],
} as const;
export const PACKED_DESCRIPTOR: Layout<typeof PACKED_DESCRIPTOR_FIELDS> = layout(
  "pvirtq_desc",
  16,
  PACKED_DESCRIPTOR_FIELDS,
);

const PACKED_EVENT_FIELDS = { off_wrap: [0, 2], flags: [2, 2] } as const;
/** Driver area and device area alike. `off_wrap`: bits 0-14 offset, bit 15 wrap counter. */
export const PACKED_EVENT: Layout<typeof PACKED_EVENT_FIELDS> = layout(
  "pvirtq_event_suppress",
  4,
  PACKED_EVENT_FIELDS,
);

export function packedDescriptorBytes(size: number): number {
  return 16 * size;
}

export const PACKED_F_AVAIL: number = 1 << 7;
export const PACKED_F_USED: number = 1 << 15;
export const PACKED_EVENT_ENABLE = 0;
export const PACKED_EVENT_DISABLE = 1;
/** Notify when the descriptor at off_wrap is reached; only with EVENT_IDX. */
export const PACKED_EVENT_DESCRIPTOR = 2;

/** Ring base of a packed queue after reset: both indices 0, both wrap counters 1. */
export const PACKED_BASE_INITIAL = 0x80008000;

/** The specification's limit for both ring kinds. */
export const QUEUE_SIZE_MAX = 32768;

// Feature bits (6, 5.2.3) -------------------------------------------------------------------------

export const BLK_F_SIZE_MAX = 1;
export const BLK_F_SEG_MAX = 2;
export const BLK_F_GEOMETRY = 4;
export const BLK_F_RO = 5;
export const BLK_F_BLK_SIZE = 6;
export const BLK_F_FLUSH = 9;
export const BLK_F_TOPOLOGY = 10;
export const BLK_F_CONFIG_WCE = 11;
export const BLK_F_MQ = 12;
export const BLK_F_DISCARD = 13;
export const BLK_F_WRITE_ZEROES = 14;
export const F_NOTIFY_ON_EMPTY = 24;
export const F_ANY_LAYOUT = 27;
export const F_INDIRECT_DESC = 28;
export const F_EVENT_IDX = 29;
export const F_VERSION_1 = 32;
export const F_ACCESS_PLATFORM = 33;
export const F_RING_PACKED = 34;
export const F_IN_ORDER = 35;

/** True when `bit` (0-63) is set in the feature word pair. */
export function hasFeature(low: number, high: number, bit: number): boolean {
  return ((bit < 32 ? low >>> bit : high >>> (bit - 32)) & 1) === 1;
}

// virtio-blk (5.2) --------------------------------------------------------------------------------

const BLK_CONFIG_FIELDS = {
  capacity: [0, 8],
  size_max: [8, 4],
  seg_max: [12, 4],
  cylinders: [16, 2],
  heads: [18, 1],
  sectors: [19, 1],
  blk_size: [20, 4],
  physical_block_exp: [24, 1],
  alignment_offset: [25, 1],
  min_io_size: [26, 2],
  opt_io_size: [28, 4],
  writeback: [32, 1],
  num_queues: [34, 2],
  max_discard_sectors: [36, 4],
  max_discard_seg: [40, 4],
  discard_sector_alignment: [44, 4],
  max_write_zeroes_sectors: [48, 4],
  max_write_zeroes_seg: [52, 4],
  write_zeroes_may_unmap: [56, 1],
  max_secure_erase_sectors: [60, 4],
  max_secure_erase_seg: [64, 4],
  secure_erase_sector_alignment: [68, 4],
} as const;
export const BLK_CONFIG: Layout<typeof BLK_CONFIG_FIELDS> = layout(
  "virtio_blk_config",
  96,
  BLK_CONFIG_FIELDS,
);

const BLK_REQUEST_HEADER_FIELDS = { type: [0, 4], ioprio: [4, 4], sector: [8, 8] } as const;
export const BLK_REQUEST_HEADER: Layout<typeof BLK_REQUEST_HEADER_FIELDS> = layout(
  "virtio_blk_req",
  16,
  BLK_REQUEST_HEADER_FIELDS,
);

const BLK_RANGE_SEGMENT_FIELDS = {
  sector: [0, 8],
  num_sectors: [8, 4],
  flags: [12, 4],
} as const;
export const BLK_RANGE_SEGMENT: Layout<typeof BLK_RANGE_SEGMENT_FIELDS> = layout(
  "virtio_blk_discard_write_zeroes",
  16,
  BLK_RANGE_SEGMENT_FIELDS,
);

/** In a range segment's flags: a WRITE_ZEROES may deallocate. Not allowed for DISCARD. */
export const BLK_RANGE_F_UNMAP = 1;

export const BLK_T_IN = 0;
export const BLK_T_OUT = 1;
export const BLK_T_FLUSH = 4;
/** FLUSH with the direction bit, as drivers of virtio 0.9 send it. */
export const BLK_T_FLUSH_OUT = 5;
export const BLK_T_GET_ID = 8;
export const BLK_T_GET_LIFETIME = 10;
export const BLK_T_DISCARD = 11;
export const BLK_T_WRITE_ZEROES = 13;
export const BLK_T_SECURE_ERASE = 14;
/** Old drivers set this bit for a barrier; no device honours it, all mask it. */
export const BLK_T_BARRIER = 0x80000000;

export const BLK_S_OK = 0;
export const BLK_S_IOERR = 1;
export const BLK_S_UNSUPP = 2;

/** What GET_ID returns: the serial, padded with NUL. */
export const BLK_ID_BYTES = 20;
