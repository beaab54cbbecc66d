// The on-disk format of a store, version 1. Everything is little-endian; every structure starts on
// a 4 KiB boundary, names the disk it belongs to and carries a CRC32C of its own.
//
//   0          superblocks 0 and 1, in the first two slabs of 64 KiB
//   128 KiB    ring journal:  groups [header | records | data blocks], round and round
//   .          metadata log:  4 KiB blocks of settled records, round and round
//   .          page area:     two slots (A, B) of 4 KiB for every page of the page tree
//   .          slabs:         64 KiB each, the data
//   end        superblocks 2 and 3, in the last two slabs
//
//   superblock (quorum of copies) --> L2 pages --> L1 pages --> leaf pages
//                                                               volume | extent | bitmap | slabs
//
// A pointer of the tree is 32 bits, generation * 2 + slot, 0 = never written. Whoever follows it
// demands exactly that generation in exactly that slot: an older page with a valid checksum is
// corruption, not a fallback. A checkpoint writes each changed page into the slot that the last
// checkpoint does not use, bottom up, and the superblock last.
//
// Versions: `version` changes when the layout does. Feature bits say what a reader must know:
// incompatible ones must be known to open the disk, read-only-compatible ones to write to it.

import { type Layout, layout } from "../base/index.ts";

export const FORMAT_VERSION = 1;
/** Volumes kept for an owner elsewhere: see VOLUME_REPLICA, the records from 7 on, page doubts. */
export const FEATURE_REPLICAS = 1;
/** Notes on replicas: see VOLUME_NOTE and the NOTE flags. */
export const FEATURE_NOTES = 2;
/** What this program knows. A disk gets a bit when it first needs it. */
export const FEATURES_INCOMPATIBLE: number = FEATURE_REPLICAS | FEATURE_NOTES;

export const BLOCK_BYTES = 4096;
export const BLOCK_SHIFT = 12;
export const BLOCK_WORDS = 1024;
export const SLAB_BLOCKS = 16;
export const SLAB_BYTES = 65536;
export const SLAB_MASK_FULL = 0xffff;
/** Slabs described by one leaf page: 2 MiB of an extent. */
export const PAGE_SLABS = 32;
export const EXTENT_SLABS = 4096;
export const EXTENT_PAGES = 128;
export const EXTENT_BLOCKS = 65536;
export const EXTENT_BYTES = 268435456;

export const SUPERBLOCK_COPIES = 4;
/** "RINGSTOR" as two u32. */
export const SUPERBLOCK_MAGIC_LOW = 0x474e4952;
export const SUPERBLOCK_MAGIC_HIGH = 0x524f5453;
export const GROUP_MAGIC = 0x50524752;
export const LOG_MAGIC = 0x474f4c52;
export const PAGE_MAGIC = 0x45474152;

export const STATE_OPEN = 1;
export const STATE_CLEAN = 2;

export const DURABILITY_VOLATILE = 0;
export const DURABILITY_WRITE_THROUGH = 1;
export const DURABILITY_POWER_LOSS_PROTECTED = 2;

/** Pointers to L2 pages that a superblock has room for. */
export const L2_POINTERS_MAX = 704;

const SUPERBLOCK_FIELDS = {
  magicLow: [0, 4],
  magicHigh: [4, 4],
  version: [8, 4],
  featuresIncompatible: [12, 4],
  featuresReadOnlyCompatible: [16, 4],
  featuresCompatible: [20, 4],
  uuid: [24, 16],
  /** Counts superblock writes. */
  sequence: [40, 8],
  /** Counts openings: groups of an earlier opening cannot continue a later one. */
  incarnation: [48, 4],
  copy: [52, 4],
  state: [56, 4],
  durability: [60, 4],
  diskBytes: [64, 8],
  ringOffsetBytes: [72, 8],
  ringBytes: [80, 8],
  logOffsetBytes: [88, 8],
  logBytes: [96, 8],
  pageOffsetBytes: [104, 8],
  slabOffsetBytes: [112, 8],
  slabCount: [120, 4],
  extentCount: [124, 4],
  volumePageCount: [128, 4],
  groupBytesMax: [132, 4],
  journalId: [136, 4],
  /** Of the last checkpoint; pages it wrote carry it. */
  generation: [140, 4],
  /** Every record up to this group is in the pages. */
  checkpointLsn: [144, 8],
  /** Where the log goes on after the checkpoint: block of the log, sequence, CRC before it. */
  logTailBlock: [152, 4],
  logTailPreviousCrc: [156, 4],
  logTailSequence: [160, 8],
  /** Where group checkpointLsn + 1 starts: block of the ring, CRC of the group before it. */
  ringTailBlock: [168, 4],
  ringTailPreviousCrc: [172, 4],
  createdAtMs: [176, 8],
  /** Scrub goes on with this leaf page. */
  scrubPage: [184, 4],
  l2Count: [188, 4],
  scrubRounds: [192, 4],
  label: [256, 64],
  l2Pointers: [1024, 2816],
  crc: [4092, 4],
} as const;
export const SUPERBLOCK: Layout<typeof SUPERBLOCK_FIELDS> = layout(
  "superblock",
  BLOCK_BYTES,
  SUPERBLOCK_FIELDS,
);

/** Room for records in a group's header. */
export const GROUP_RECORDS_OFFSET = 128;
export const GROUP_RECORDS_BYTES: number = BLOCK_BYTES - GROUP_RECORDS_OFFSET;

const GROUP_FIELDS = {
  magic: [0, 4],
  version: [4, 4],
  journalId: [8, 4],
  incarnation: [12, 4],
  lsn: [16, 8],
  /** All groups up to this one were durable when this header was made. */
  durableLsn: [24, 8],
  /** ... and so was all data that their records point to. */
  completeLsn: [32, 8],
  previousCrc: [40, 4],
  ringBlock: [44, 4],
  dataBlocks: [48, 4],
  recordCount: [52, 4],
  recordBytes: [56, 4],
  crc: [60, 4],
  records: [128, 3968],
} as const;
export const GROUP: Layout<typeof GROUP_FIELDS> = layout("group header", BLOCK_BYTES, GROUP_FIELDS);

export const LOG_RECORDS_OFFSET = 128;
export const LOG_RECORDS_BYTES: number = BLOCK_BYTES - LOG_RECORDS_OFFSET;

const LOG_BLOCK_FIELDS = {
  magic: [0, 4],
  version: [4, 4],
  journalId: [8, 4],
  incarnation: [12, 4],
  sequence: [16, 8],
  /** All log blocks up to this one were durable when this one was made. */
  durableSequence: [24, 8],
  /** The log has every record up to this group once this block is durable. */
  settledLsn: [32, 8],
  previousCrc: [40, 4],
  /** Where group settledLsn + 1 starts, and the CRC of the group before it. */
  ringBlock: [44, 4],
  ringPreviousCrc: [48, 4],
  recordCount: [52, 4],
  recordBytes: [56, 4],
  crc: [60, 4],
  records: [128, 3968],
} as const;
export const LOG_BLOCK: Layout<typeof LOG_BLOCK_FIELDS> = layout(
  "log block",
  BLOCK_BYTES,
  LOG_BLOCK_FIELDS,
);

export const PAGE_KIND_LEAF = 1;
export const PAGE_KIND_L1 = 2;
export const PAGE_KIND_L2 = 3;

export const PAGE_PAYLOAD_OFFSET = 64;
const PAGE_PAYLOAD_BYTES: number = BLOCK_BYTES - PAGE_PAYLOAD_OFFSET;
export const PAGE_PAYLOAD_WORDS: number = PAGE_PAYLOAD_BYTES / 4;

const PAGE_FIELDS = {
  magic: [0, 4],
  version: [4, 2],
  kind: [6, 1],
  slot: [7, 1],
  /** Within its kind. */
  number: [8, 4],
  generation: [12, 4],
  uuid: [16, 16],
  crc: [32, 4],
  /** Of a leaf: a bit for each slab with a write that a crash has lost. FEATURE_REPLICAS. */
  doubts: [36, 4],
  payload: [64, 4032],
} as const;
export const PAGE: Layout<typeof PAGE_FIELDS> = layout("page", BLOCK_BYTES, PAGE_FIELDS);

/** Entry of a slab in a leaf page. */
const SLAB_ENTRY_FIELDS = {
  /** Number of the slab + 1; 0 = none. */
  location: [0, 4],
  /** Two bits per block: BLOCK_ABSENT, BLOCK_DATA, BLOCK_ZERO. */
  states: [4, 4],
  stampLow: [8, 4],
  stampHigh: [12, 4],
  crcs: [16, 64],
} as const;
export const SLAB_ENTRY: Layout<typeof SLAB_ENTRY_FIELDS> = layout(
  "slab entry",
  80,
  SLAB_ENTRY_FIELDS,
);

export const BLOCK_ABSENT = 0;
export const BLOCK_DATA = 1;
export const BLOCK_ZERO = 2;

export const VOLUME_NONE = 0;
export const VOLUME_LIVE = 1;
export const VOLUME_DELETING = 2;
/** Not a volume: the name of one, see NOTE_ENTRY. FEATURE_NOTES. */
export const VOLUME_NOTE = 3;

const VOLUME_ENTRY_FIELDS = {
  state: [0, 4],
  /** Of the owner; bumped at each opening of the volume. */
  epoch: [4, 4],
  uuid: [8, 16],
  sizeBytes: [24, 8],
  createdAtMs: [32, 8],
  /** What follows belongs to FEATURE_REPLICAS. */
  flags: [40, 4],
  /** Pages up to this generation hold no slab stamped above `committed`. */
  baseGeneration: [44, 4],
  /** Stamps: everything up to it is durable on every member; the newest that was applied. */
  committedLow: [48, 4],
  committedHigh: [52, 4],
  newestLow: [56, 4],
  newestHigh: [60, 4],
  membershipVersion: [64, 8],
  clusterGeneration: [72, 8],
  /** Membership version that the flags' note comes from. FEATURE_NOTES. */
  noteVersion: [80, 8],
} as const;
export const VOLUME_ENTRY: Layout<typeof VOLUME_ENTRY_FIELDS> = layout(
  "volume entry",
  96,
  VOLUME_ENTRY_FIELDS,
);
export const VOLUMES_PER_PAGE = 42;
/** Flag of a volume: one replica of it, written by an owner who gives epochs and sequences. */
export const VOLUME_REPLICA = 1;
/** There is a note; by it the replica does not count; the volume has blocks of 512 bytes. */
export const NOTE_THERE = 0x100;
export const NOTE_OUT = 0x200;
export const NOTE_SECTORS = 0x400;
/** How many replicas the volume has: 4 bits. */
export const NOTE_COUNT_SHIFT = 12;

/** In the place of a volume entry: the name that belongs to the note of a replica. */
const NOTE_ENTRY_FIELDS = {
  state: [0, 4],
  /** Index of the volume + 1. */
  volume: [4, 4],
  nameHead: [8, 32],
  nameTail: [64, 32],
} as const;
export const NOTE_ENTRY: Layout<typeof NOTE_ENTRY_FIELDS> = layout(
  "note entry",
  96,
  NOTE_ENTRY_FIELDS,
);

const EXTENT_ENTRY_FIELDS = {
  /** Index of the volume + 1; 0 = free. */
  volume: [0, 4],
  /** Which 256 MiB of the volume. */
  index: [4, 4],
  /** Layer of the volume's snapshots; 0 as long as there are none. */
  layer: [8, 4],
  /** 1: some of its leaf pages have doubts. */
  doubtful: [12, 4],
} as const;
export const EXTENT_ENTRY: Layout<typeof EXTENT_ENTRY_FIELDS> = layout(
  "extent entry",
  16,
  EXTENT_ENTRY_FIELDS,
);
export const EXTENTS_PER_PAGE = 252;

export const SLABS_PER_BITMAP_PAGE: number = PAGE_PAYLOAD_BYTES * 8;

/** Records. The CRCs of `blockCount` blocks follow RECORD_FRESH, _REDIRECT and _JOURNAL. */
export const RECORD_FRESH = 1;
export const RECORD_REDIRECT = 2;
export const RECORD_JOURNAL = 3;
/** The blocks take the state in `flags`; a slab left without data is given back. */
export const RECORD_CLEAR = 4;
/** A volume entry follows. `extent` = index of the volume. */
export const RECORD_VOLUME = 5;
/** `location` = volume + 1, `freed` = index: the extent belongs to that part of the volume. */
export const RECORD_EXTENT = 6;
/** `extent` = index of a volume: everything up to the stamp is durable on every member. */
export const RECORD_COMMIT = 7;
/**
 * A whole slab as another replica has it: 16 CRCs follow, then the states. The stamp is set as it
 * is, even if it is lower. With IMAGE_IN_GROUP in `flags` the data of all 16 blocks lies in the
 * group.
 */
export const RECORD_IMAGE = 8;
/** In the log only: what a recovery makes of a record whose data had not arrived. */
export const RECORD_DOUBT = 9;

export const IMAGE_IN_GROUP = 1;

export const RECORD_HEAD_BYTES = 32;
export const RECORD_BYTES_MAX = 160;

const RECORD_FIELDS = {
  type: [0, 1],
  flags: [1, 1],
  /** First block within its slab, and how many. */
  firstBlock: [2, 1],
  blockCount: [3, 1],
  extent: [4, 4],
  /** Slab within its extent. */
  slab: [8, 2],
  recordBytes: [10, 2],
  /** Where the slab lies, + 1; 0 = nowhere any more. */
  location: [12, 4],
  /** A slab that this record gives back, + 1. */
  freed: [16, 4],
  stampLow: [20, 4],
  stampHigh: [24, 4],
  layer: [28, 4],
} as const;
export const RECORD: Layout<typeof RECORD_FIELDS> = layout(
  "record",
  RECORD_HEAD_BYTES,
  RECORD_FIELDS,
);
