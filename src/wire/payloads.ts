// Payloads of the cold messages: fences, lists of slabs, slab images, failures. Encoders write at
// an offset of a byte array and return the length, a multiple of 8, or -1 when it does not fit.
// Decoders take any bytes: they return null where something is out of range, and never read outside
// the payload.

import { alignUp } from "../base/index.ts";
import type {
  FenceAnswer,
  MetadataVersion,
  ReplicaFailure,
  SlabImage,
  SlabPage,
  SlabStamp,
} from "../ports/index.ts";
import {
  CURSOR_END,
  FAILURE,
  FENCE_ANSWER,
  GRANT,
  IMAGE,
  LIST,
  PAGE,
  PAYLOAD_BYTES_MAX,
  STAMP,
  TARGET,
} from "./layouts.ts";
import { getUuid, putUuid } from "./uuids.ts";
import { putWideAt, wideAt } from "./wide.ts";

/** Slabs on one page of a list: what fits a payload. */
export const PAGE_STAMPS_MAX: number = Math.floor((PAYLOAD_BYTES_MAX - PAGE.BYTES) / STAMP.BYTES);

const FAILURE_CODES: readonly ReplicaFailure["code"][] = [
  "lost",
  "stale-epoch",
  "disk",
  "damaged",
  "unknown-volume",
  "rolled-back",
  "limit",
];
const FAILURE_TEXT_BYTES: number = FAILURE.FIELDS["text"]?.bytes ?? 0;

/** A window over one payload; throws RangeError outside it, so decoders check lengths first. */
function view(u8: Uint8Array, at: number, bytes: number): DataView {
  return new DataView(u8.buffer, u8.byteOffset + at, bytes);
}

// --- which replica -------------------------------------------------------------------------------

export interface ReplicaTarget {
  readonly volumeUuid: string;
  readonly diskUuid: string;
  /** How new the metadata is that the owner goes by; null = it does not say. */
  readonly metadata: MetadataVersion | null;
}

export function encodeTarget(u8: Uint8Array, at: number, target: ReplicaTarget): number {
  putUuid(u8, at + TARGET.volume, target.volumeUuid);
  putUuid(u8, at + TARGET.disk, target.diskUuid);
  const { metadata } = target;
  const data = view(u8, at, TARGET.BYTES);
  putWideAt(data, TARGET.clusterGeneration, metadata?.clusterGeneration ?? 0);
  putWideAt(data, TARGET.membershipVersion, metadata?.membershipVersion ?? 0);
  data.setUint32(TARGET.hasMetadata, metadata === null ? 0 : 1, true);
  data.setUint32(TARGET.reserved, 0, true);
  return TARGET.BYTES;
}

export function decodeTarget(u8: Uint8Array, at: number, bytes: number): ReplicaTarget | null {
  if (bytes !== TARGET.BYTES) return null;
  const data = view(u8, at, bytes);
  const clusterGeneration = wideAt(data, TARGET.clusterGeneration);
  const membershipVersion = wideAt(data, TARGET.membershipVersion);
  const flag = data.getUint32(TARGET.hasMetadata, true);
  if (flag > 1 || Number.isNaN(clusterGeneration + membershipVersion)) return null;
  return {
    volumeUuid: getUuid(u8, at + TARGET.volume),
    diskUuid: getUuid(u8, at + TARGET.disk),
    metadata: flag === 0 ? null : { clusterGeneration, membershipVersion },
  };
}

// --- stamps --------------------------------------------------------------------------------------

function encodeStamps(data: DataView, from: number, stamps: readonly SlabStamp[]): void {
  let at = from;
  for (const stamp of stamps) {
    data.setUint32(at + STAMP.extentIndex, stamp.extentIndex, true);
    data.setUint32(at + STAMP.slab, stamp.slab, true);
    data.setUint32(at + STAMP.epoch, stamp.epoch, true);
    data.setUint32(at + STAMP.reserved, 0, true);
    putWideAt(data, at + STAMP.sequence, stamp.sequence);
    at += STAMP.BYTES;
  }
}

function decodeStamps(data: DataView, from: number, count: number): SlabStamp[] | null {
  const stamps: SlabStamp[] = [];
  for (let index = 0; index < count; index++) {
    const at = from + index * STAMP.BYTES;
    const sequence = wideAt(data, at + STAMP.sequence);
    if (Number.isNaN(sequence)) return null;
    stamps.push({
      extentIndex: data.getUint32(at + STAMP.extentIndex, true),
      slab: data.getUint32(at + STAMP.slab, true),
      epoch: data.getUint32(at + STAMP.epoch, true),
      sequence,
    });
  }
  return stamps;
}

export function encodeFenceAnswer(u8: Uint8Array, at: number, answer: FenceAnswer): number {
  const stampCount = answer.above.length + answer.uncertain.length;
  const bytes = FENCE_ANSWER.BYTES + stampCount * STAMP.BYTES;
  if (bytes > PAYLOAD_BYTES_MAX) return -1;
  const data = view(u8, at, bytes);
  data.setUint32(FENCE_ANSWER.epoch, answer.epoch, true);
  data.setUint32(FENCE_ANSWER.committedEpoch, answer.committedEpoch, true);
  putWideAt(data, FENCE_ANSWER.sequence, answer.sequence);
  putWideAt(data, FENCE_ANSWER.committedSequence, answer.committedSequence);
  data.setUint32(FENCE_ANSWER.aboveCount, answer.above.length, true);
  data.setUint32(FENCE_ANSWER.uncertainCount, answer.uncertain.length, true);
  putWideAt(data, FENCE_ANSWER.grantWaitUs, Math.ceil(answer.grantWaitUs ?? 0));
  data.setUint32(FENCE_ANSWER.cursor, answer.cursor ?? CURSOR_END, true);
  data.setUint32(FENCE_ANSWER.reserved, 0, true);
  encodeStamps(data, FENCE_ANSWER.BYTES, answer.above);
  encodeStamps(data, FENCE_ANSWER.BYTES + answer.above.length * STAMP.BYTES, answer.uncertain);
  return bytes;
}

export function decodeFenceAnswer(u8: Uint8Array, at: number, bytes: number): FenceAnswer | null {
  if (bytes < FENCE_ANSWER.BYTES) return null;
  const data = view(u8, at, bytes);
  const aboveCount = data.getUint32(FENCE_ANSWER.aboveCount, true);
  const uncertainCount = data.getUint32(FENCE_ANSWER.uncertainCount, true);
  const sequence = wideAt(data, FENCE_ANSWER.sequence);
  const committedSequence = wideAt(data, FENCE_ANSWER.committedSequence);
  const grantWaitUs = wideAt(data, FENCE_ANSWER.grantWaitUs);
  if (bytes !== FENCE_ANSWER.BYTES + (aboveCount + uncertainCount) * STAMP.BYTES) return null;
  if (Number.isNaN(sequence + committedSequence + grantWaitUs)) return null;
  const above = decodeStamps(data, FENCE_ANSWER.BYTES, aboveCount);
  const second = FENCE_ANSWER.BYTES + aboveCount * STAMP.BYTES;
  const uncertain = decodeStamps(data, second, uncertainCount);
  if (above === null || uncertain === null) return null;
  const cursor = data.getUint32(FENCE_ANSWER.cursor, true);
  return {
    ...(cursor === CURSOR_END ? {} : { cursor }),
    epoch: data.getUint32(FENCE_ANSWER.epoch, true),
    sequence,
    committedEpoch: data.getUint32(FENCE_ANSWER.committedEpoch, true),
    committedSequence,
    above,
    uncertain,
    grantWaitUs,
  };
}

// --- lists of slabs ------------------------------------------------------------------------------

export interface ListRequest {
  readonly since: { readonly epoch: number; readonly sequence: number };
  readonly cursor: number;
}

export function encodeList(u8: Uint8Array, at: number, request: ListRequest): number {
  const data = view(u8, at, LIST.BYTES);
  data.setUint32(LIST.sinceEpoch, request.since.epoch, true);
  data.setUint32(LIST.cursor, request.cursor, true);
  putWideAt(data, LIST.sinceSequence, request.since.sequence);
  return LIST.BYTES;
}

export function decodeList(u8: Uint8Array, at: number, bytes: number): ListRequest | null {
  if (bytes !== LIST.BYTES) return null;
  const data = view(u8, at, bytes);
  const sequence = wideAt(data, LIST.sinceSequence);
  if (Number.isNaN(sequence)) return null;
  return {
    since: { epoch: data.getUint32(LIST.sinceEpoch, true), sequence },
    cursor: data.getUint32(LIST.cursor, true),
  };
}

export function encodePage(u8: Uint8Array, at: number, page: SlabPage): number {
  const bytes = PAGE.BYTES + page.slabs.length * STAMP.BYTES;
  if (bytes > PAYLOAD_BYTES_MAX) return -1;
  const data = view(u8, at, bytes);
  data.setUint32(PAGE.count, page.slabs.length, true);
  data.setUint32(PAGE.cursor, page.cursor ?? CURSOR_END, true);
  encodeStamps(data, PAGE.BYTES, page.slabs);
  return bytes;
}

export function decodePage(u8: Uint8Array, at: number, bytes: number): SlabPage | null {
  if (bytes < PAGE.BYTES) return null;
  const data = view(u8, at, bytes);
  const count = data.getUint32(PAGE.count, true);
  if (bytes !== PAGE.BYTES + count * STAMP.BYTES) return null;
  const slabs = decodeStamps(data, PAGE.BYTES, count);
  const cursor = data.getUint32(PAGE.cursor, true);
  return slabs === null ? null : { slabs, cursor: cursor === CURSOR_END ? null : cursor };
}

// --- slab images ---------------------------------------------------------------------------------

export interface SlabPlace {
  readonly extentIndex: number;
  readonly slab: number;
}

/** The head of an image; READ_SLAB sends it with zeroes for the stamp. Data follows it. */
export function encodeImage(
  u8: Uint8Array,
  at: number,
  place: SlabPlace,
  image: SlabImage,
): number {
  const data = view(u8, at, IMAGE.BYTES);
  data.setUint32(IMAGE.extentIndex, place.extentIndex, true);
  data.setUint32(IMAGE.slab, place.slab, true);
  data.setUint32(IMAGE.epoch, image.epoch, true);
  data.setUint32(IMAGE.states, image.states, true);
  putWideAt(data, IMAGE.sequence, image.sequence);
  return IMAGE.BYTES;
}

/** The head alone; `bytes` is what must be there, data included. */
export function decodeImage(
  u8: Uint8Array,
  at: number,
  bytes: number,
  dataBytes: number,
): (SlabPlace & SlabImage) | null {
  if (bytes !== IMAGE.BYTES + dataBytes) return null;
  const data = view(u8, at, IMAGE.BYTES);
  const sequence = wideAt(data, IMAGE.sequence);
  if (Number.isNaN(sequence)) return null;
  return {
    extentIndex: data.getUint32(IMAGE.extentIndex, true),
    slab: data.getUint32(IMAGE.slab, true),
    epoch: data.getUint32(IMAGE.epoch, true),
    states: data.getUint32(IMAGE.states, true),
    sequence,
  };
}

// --- failures and grants -------------------------------------------------------------------------

/** Text of a peer for our logs: printable ASCII, whatever came. */
export function printable(u8: Uint8Array, at: number, bytes: number): string {
  let text = "";
  for (let index = at; index < at + bytes; index++) {
    const code = u8[index] as number;
    text += code >= 0x20 && code < 0x7f ? String.fromCharCode(code) : "?";
  }
  return text;
}

/** Writes at most `bytesMax` characters, what is not ASCII as "?". Returns how many. */
export function putText(u8: Uint8Array, at: number, text: string, bytesMax: number): number {
  const bytes = Math.min(text.length, bytesMax);
  for (let index = 0; index < bytes; index++) {
    const code = text.charCodeAt(index);
    u8[at + index] = code < 0x7f ? code : 0x3f;
  }
  return bytes;
}

export function encodeFailure(u8: Uint8Array, at: number, failure: ReplicaFailure): number {
  u8.fill(0, at, at + FAILURE.BYTES);
  const data = view(u8, at, FAILURE.BYTES);
  data.setUint16(FAILURE.code, FAILURE_CODES.indexOf(failure.code), true);
  data.setUint32(FAILURE.epoch, failure.epoch ?? 0, true);
  const textBytes = putText(u8, at + FAILURE.text, failure.message, FAILURE_TEXT_BYTES);
  data.setUint16(FAILURE.textBytes, textBytes, true);
  return alignUp(FAILURE.BYTES, 8);
}

export function decodeFailure(u8: Uint8Array, at: number, bytes: number): ReplicaFailure | null {
  if (bytes !== alignUp(FAILURE.BYTES, 8)) return null;
  const data = view(u8, at, bytes);
  const code = FAILURE_CODES[data.getUint16(FAILURE.code, true)];
  const textBytes = data.getUint16(FAILURE.textBytes, true);
  if (code === undefined || textBytes > FAILURE_TEXT_BYTES) return null;
  const message = printable(u8, at + FAILURE.text, textBytes);
  const epoch = data.getUint32(FAILURE.epoch, true);
  return epoch === 0 ? { code, message } : { code, message, epoch };
}

export function encodeGrant(u8: Uint8Array, at: number, grantUs: number): number {
  putWideAt(view(u8, at, GRANT.BYTES), GRANT.grantUs, grantUs);
  return GRANT.BYTES;
}

/** Microseconds, -1 when it makes no sense. */
export function decodeGrant(u8: Uint8Array, at: number, bytes: number): number {
  if (bytes !== GRANT.BYTES) return -1;
  const grantUs = wideAt(view(u8, at, bytes), GRANT.grantUs);
  return Number.isNaN(grantUs) ? -1 : grantUs;
}
