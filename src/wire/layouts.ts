// What two daemons say to each other, version 1. Little-endian; a message is one header of 80
// bytes and a payload whose length is a multiple of 8, so that headers stay aligned in memory.
//
//    0 | magic | v | l |t|f| - | feat. | reqst | sess. | epoch | strm# |
//   32 | sequence      | committed     | first block   | count | result|
//   64 | bytes | data  |   -   | head  |
//              | CRC   |       | CRC   |
//
// The first eight bytes, the place of the type and the place of the header's CRC never change: that
// is how two versions tell each other that they do not fit. docs/wire.md draws and explains it all.

import { type Layout, layout } from "../base/index.ts";

/** "RNGW" */
export const WIRE_MAGIC = 0x57474e52;
export const WIRE_VERSION = 1;
/** Bits a peer must know to talk to us; none yet. Those of both ends together are in force. */
export const WIRE_FEATURES = 0;

const HEADER_FIELDS = {
  magic: [0, 4],
  version: [4, 2],
  headerBytes: [6, 2],
  type: [8, 1],
  flags: [9, 1],
  reserved: [10, 2],
  features: [12, 4],
  /** Chosen by who asks, brought back by the answer. */
  request: [16, 4],
  /** Number of the volume session on this connection. */
  session: [20, 4],
  epoch: [24, 4],
  /** Counts the session's hot messages: 1, 2, 3... A gap ends the connection. */
  streamSequence: [28, 4],
  /** Of the write within its epoch; of a slab's stamp; of a heartbeat. */
  sequence: [32, 8],
  /** Everything up to here is durable on every member. */
  committed: [40, 8],
  firstBlock: [48, 8],
  blockCount: [56, 4],
  /** Of an answer: 0 or a negated errno, signed. */
  result: [60, 4],
  payloadBytes: [64, 4],
  payloadCrc: [68, 4],
  reservedToo: [72, 4],
  headerCrc: [76, 4],
} as const;
export const HEADER: Layout<typeof HEADER_FIELDS> = layout("message header", 80, HEADER_FIELDS);

export const HEADER_BYTES = 80;
export const HEADER_WORDS = 20;

// --- types of messages ---------------------------------------------------------------------------

export const MESSAGE_HELLO = 1;
export const MESSAGE_CHALLENGE = 2;
export const MESSAGE_PROOF = 3;
export const MESSAGE_WELCOME = 4;
export const MESSAGE_REFUSE = 5;

export const MESSAGE_WRITE = 16;
export const MESSAGE_ZERO = 17;
export const MESSAGE_READ = 18;
/** The committed watermark when no write carries it. Not answered. */
export const MESSAGE_COMMITTED = 19;

export const MESSAGE_FENCE = 32;
export const MESSAGE_RESUME = 33;
export const MESSAGE_LIST_SLABS = 34;
export const MESSAGE_READ_SLAB = 35;
export const MESSAGE_WRITE_SLAB = 36;
/** The owner has no more to say in this session. Not answered. */
export const MESSAGE_CLOSE = 37;

export const MESSAGE_HEARTBEAT = 48;
export const MESSAGE_GRANT = 49;

export const MESSAGE_ANSWER = 64;
/** A session has been fenced by the epoch in the header. Sent before any later grant. */
export const MESSAGE_FENCED = 65;

/** Of an answer: the payload is a FAILURE. */
export const FLAG_FAILURE = 1;

// --- limits --------------------------------------------------------------------------------------

export const WIRE_BLOCK_BYTES = 4096;
/** Blocks of one message: longer requests travel in pieces. */
export const WIRE_BLOCKS_MAX = 64;
export const PAYLOAD_BYTES_MAX: number = WIRE_BLOCKS_MAX * WIRE_BLOCK_BYTES;
/** Before a peer is authenticated no message is longer, header included. */
export const HANDSHAKE_BYTES_MAX = 512;
export const SLAB_BYTES_ON_WIRE = 65536;
/** What a session's count of messages wraps at. */
export const STREAM_SEQUENCE_MASK = 0x7fffffff;
/** Volume sessions on one connection. */
export const SESSIONS_MAX = 4096;

// --- payloads ------------------------------------------------------------------------------------

const HELLO_FIELDS = {
  /** Which versions the dialling side can speak. */
  versionMin: [0, 2],
  versionMax: [2, 2],
  features: [4, 4],
  cluster: [8, 16],
  node: [24, 16],
  /** Whom it means to reach. */
  target: [40, 16],
  /** Of this run of its process. */
  incarnation: [56, 8],
  /** Counts its connections to this target: an older one is never let in after a newer. */
  connection: [64, 4],
  /** Which of its reactors: each has its own connection. */
  reactor: [68, 4],
  nonce: [72, 32],
} as const;
export const HELLO: Layout<typeof HELLO_FIELDS> = layout("hello", 104, HELLO_FIELDS);

const CHALLENGE_FIELDS = {
  version: [0, 2],
  reserved: [2, 2],
  features: [4, 4],
  node: [8, 16],
  incarnation: [24, 8],
  nonce: [32, 32],
  mac: [64, 32],
} as const;
export const CHALLENGE: Layout<typeof CHALLENGE_FIELDS> = layout("challenge", 96, CHALLENGE_FIELDS);

const PROOF_FIELDS = { mac: [0, 32] } as const;
export const PROOF: Layout<typeof PROOF_FIELDS> = layout("proof", 32, PROOF_FIELDS);

const WELCOME_FIELDS = {
  /** Unanswered messages with at most SMALL_PAYLOAD_BYTES either way, and larger ones. */
  smallCredits: [0, 4],
  largeCredits: [4, 4],
} as const;
export const WELCOME: Layout<typeof WELCOME_FIELDS> = layout("welcome", 8, WELCOME_FIELDS);

const REFUSE_FIELDS = {
  code: [0, 2],
  versionMin: [2, 2],
  versionMax: [4, 2],
  textBytes: [6, 2],
  text: [8, 128],
} as const;
export const REFUSE: Layout<typeof REFUSE_FIELDS> = layout("refusal", 136, REFUSE_FIELDS);

/** Payload of FENCE and RESUME: which replica. The epoch is in the header. */
const TARGET_FIELDS = {
  volume: [0, 16],
  disk: [16, 16],
  /** How new the owner's metadata is; where the flag is 0 it does not say, as in every RESUME. */
  clusterGeneration: [32, 8],
  membershipVersion: [40, 8],
  hasMetadata: [48, 4],
  reserved: [52, 4],
} as const;
export const TARGET: Layout<typeof TARGET_FIELDS> = layout("replica target", 56, TARGET_FIELDS);

/** Payload of a fence's answer; the stamps follow, `above` first. */
const FENCED_FIELDS = {
  epoch: [0, 4],
  committedEpoch: [4, 4],
  sequence: [8, 8],
  committedSequence: [16, 8],
  aboveCount: [24, 4],
  uncertainCount: [28, 4],
  /** Until then grants that other owners were given may be in use. */
  grantWaitUs: [32, 8],
  /** Where listing goes on for what had no room here; CURSOR_END = that was all. */
  cursor: [40, 4],
  reserved: [44, 4],
} as const;
export const FENCE_ANSWER: Layout<typeof FENCED_FIELDS> = layout("fence answer", 48, FENCED_FIELDS);

const STAMP_FIELDS = {
  extentIndex: [0, 4],
  slab: [4, 4],
  epoch: [8, 4],
  reserved: [12, 4],
  sequence: [16, 8],
} as const;
export const STAMP: Layout<typeof STAMP_FIELDS> = layout("slab stamp", 24, STAMP_FIELDS);

/** Payload of LIST_SLABS. */
const LIST_FIELDS = { sinceEpoch: [0, 4], cursor: [4, 4], sinceSequence: [8, 8] } as const;
export const LIST: Layout<typeof LIST_FIELDS> = layout("slab list request", 16, LIST_FIELDS);

/** Payload of its answer; the stamps follow. */
const PAGE_FIELDS = { count: [0, 4], cursor: [4, 4] } as const;
export const PAGE: Layout<typeof PAGE_FIELDS> = layout("slab list", 8, PAGE_FIELDS);
/** In PAGE.cursor: that was all. */
export const CURSOR_END = 0xffffffff;

/** Payload of READ_SLAB; before the 64 KiB of WRITE_SLAB, and of READ_SLAB's answer. */
const IMAGE_FIELDS = {
  extentIndex: [0, 4],
  slab: [4, 4],
  epoch: [8, 4],
  states: [12, 4],
  sequence: [16, 8],
} as const;
export const IMAGE: Layout<typeof IMAGE_FIELDS> = layout("slab image", 24, IMAGE_FIELDS);

const FAILURE_FIELDS = {
  code: [0, 2],
  textBytes: [2, 2],
  epoch: [4, 4],
  text: [8, 200],
} as const;
export const FAILURE: Layout<typeof FAILURE_FIELDS> = layout("failure", 208, FAILURE_FIELDS);

const GRANT_FIELDS = { grantUs: [0, 8] } as const;
export const GRANT: Layout<typeof GRANT_FIELDS> = layout("grant", 8, GRANT_FIELDS);
