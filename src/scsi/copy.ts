// EXTENDED COPY (LID1) and RECEIVE COPY RESULTS (SPC-4 6.4, 6.21, 5.16): copies blocks between
// logical units of one target, or within one, without the initiator's having them.
//
//   parameter list:  header 16 | CSCD descriptors, 32 each | segment descriptors, 28 each
//
// Served in the foreground: the command ends when the copy has, and its result is kept for the
// nexus until RECEIVE COPY RESULTS asks for it.
//
// Invariants:
//  - source and destination are named by the NAA or T10 vendor designator of VPD page 83h, and are
//    looked for among the units that the nexus itself can reach, under its own reservations;
//  - all descriptors are checked before the first block is copied.

import { getU16, getU32, getU64, putU16, putU32 } from "../base/index.ts";
import { isAllowedByReservations, RESERVED_READ, RESERVED_WRITE } from "./access.ts";
import { putAscii } from "./bytes.ts";
import { type CommandRun, type Part, SCRATCH_BYTES, type Steps } from "./command-run.ts";
import {
  COPY_BLOCKS_MAX,
  COPY_LIST_BYTES_MAX,
  COPY_SEGMENTS_MAX,
  COPY_TARGETS_MAX,
} from "./limits.ts";
import type { NexusLink, UnitIdentity } from "./logical-unit.ts";
import {
  SENSE_COPY_FAILED,
  SENSE_COPY_NOT_REACHABLE,
  SENSE_COPY_RANGE,
  SENSE_PARAMETER_LENGTH,
  SENSE_TOO_MANY_SEGMENTS,
  SENSE_TOO_MANY_TARGETS,
  SENSE_UNSUPPORTED_SEGMENT,
  SENSE_UNSUPPORTED_TARGET,
  SENSE_WRITE_PROTECTED,
} from "./sense.ts";

const HEADER_BYTES = 16;
const TARGET_BYTES = 32;
const SEGMENT_BYTES = 28;
const TARGET_IDENTIFICATION = 0xe4;
const SEGMENT_BLOCK_TO_BLOCK = 0x02;
const LIST_ID_IGNORED = 3;
const DESIGNATOR_T10 = 1;
const DESIGNATOR_NAA = 3;

const COMPLETED = 1;
const COMPLETED_WITH_ERRORS = 2;
/** Results kept per nexus; the oldest go. */
const RESULTS_MAX = 16;

interface Segment {
  readonly source: NexusLink;
  readonly destination: NexusLink;
  readonly fromLba: number;
  readonly toLba: number;
  readonly blocks: number;
}

export function* extendedCopy(run: CommandRun): Steps {
  const bytes = run.u32(10);
  if (bytes === 0) return;
  if (bytes < HEADER_BYTES) {
    run.refuse(SENSE_PARAMETER_LENGTH);
    return;
  }
  const list = yield* run.parameters(bytes);
  if (list === null) return;
  const segments = readList(run, list);
  if (segments === null) return;
  // What is written is claimed here; several units may be written, each in its own order.
  if (!(yield* run.enter(0, 0, false))) return;
  let done = 0;
  let blocks = 0;
  for (const segment of segments) {
    if (!(yield* copySegment(run, segment))) break;
    done += 1;
    blocks += segment.blocks;
  }
  if (((list[1] >>> 3) & 3) === LIST_ID_IGNORED) return;
  keepResult(run, list[0], done === segments.length, done, blocks);
}

function readList(run: CommandRun, list: Uint8Array): Segment[] | null {
  const targetsBytes = getU16(list, 2);
  const segmentsBytes = getU32(list, 8);
  const end = HEADER_BYTES + targetsBytes + segmentsBytes;
  if (targetsBytes + segmentsBytes > COPY_LIST_BYTES_MAX || list.length < end) {
    run.refuse(SENSE_PARAMETER_LENGTH);
    return null;
  }
  if (getU32(list, 12) !== 0) {
    run.refuseParameter(12);
    return null;
  }
  if (targetsBytes > COPY_TARGETS_MAX * TARGET_BYTES) {
    run.refuse(SENSE_TOO_MANY_TARGETS);
    return null;
  }
  const links: (NexusLink | null)[] = [];
  for (let at = HEADER_BYTES; at < HEADER_BYTES + targetsBytes; at += TARGET_BYTES) {
    if (!checkTarget(run, list, at, HEADER_BYTES + targetsBytes)) return null;
    links.push(findTarget(run, list, at));
  }
  if (segmentsBytes > COPY_SEGMENTS_MAX * SEGMENT_BYTES) {
    run.refuse(SENSE_TOO_MANY_SEGMENTS);
    return null;
  }
  const segments: Segment[] = [];
  for (let at = HEADER_BYTES + targetsBytes; at < end; at += SEGMENT_BYTES) {
    const segment = readSegment(run, list, at, end, links);
    if (segment === null) return null;
    segments.push(segment);
  }
  return segments;
}

function checkTarget(run: CommandRun, list: Uint8Array, at: number, end: number): boolean {
  if (list[at] !== TARGET_IDENTIFICATION) return run.refuse(SENSE_UNSUPPORTED_TARGET);
  // LU ID TYPE says how a logical unit is identified where no designator does: not looked at.
  return at + TARGET_BYTES <= end || run.refuse(SENSE_PARAMETER_LENGTH);
}

/** The link to the unit that a descriptor names, or null. */
function findTarget(run: CommandRun, list: Uint8Array, at: number): NexusLink | null {
  const isNull = (list[at + 1] & 0x20) !== 0;
  const bytes = list[at + 7];
  if (isNull || bytes > 20) return null;
  const type = list[at + 5] & 0x3f;
  const designator = list.subarray(at + 8, at + 8 + bytes);
  for (const link of run.target.linksOf(run.link.nexus)) {
    if (isNamed(link.unit.identity, type, designator)) return link;
  }
  return null;
}

function isNamed(identity: UnitIdentity, type: number, designator: Uint8Array): boolean {
  let own = identity.naa;
  if (type === DESIGNATOR_T10) {
    own = new Uint8Array(8 + identity.serial.length);
    putAscii(own, 0, 8, identity.vendor);
    putAscii(own, 8, identity.serial.length, identity.serial);
  } else if (type !== DESIGNATOR_NAA) {
    return false;
  }
  return own.length === designator.length && own.every((byte, at) => byte === designator[at]);
}

function readSegment(
  run: CommandRun,
  list: Uint8Array,
  at: number,
  end: number,
  links: readonly (NexusLink | null)[],
): Segment | null {
  const fail = (code: number): null => {
    run.refuse(code);
    return null;
  };
  if (list[at] !== SEGMENT_BLOCK_TO_BLOCK) return fail(SENSE_UNSUPPORTED_SEGMENT);
  if (at + SEGMENT_BYTES > end) return fail(SENSE_PARAMETER_LENGTH);
  const source = links[getU16(list, at + 4)] ?? null;
  const destination = links[getU16(list, at + 6)] ?? null;
  const from = source?.unit.device?.info;
  const to = destination?.unit.device?.info;
  if (source === null || destination === null || from === undefined || to === undefined) {
    return fail(SENSE_COPY_NOT_REACHABLE);
  }
  const blocks = getU16(list, at + 10);
  const fromLba = getU64(list, at + 12);
  const toLba = getU64(list, at + 20);
  if (from.blockBytes !== to.blockBytes) {
    run.refuseParameter(at + 4);
    return null;
  }
  const isOnMedium =
    fromLba + blocks <= from.capacityBytes / from.blockBytes &&
    toLba + blocks <= to.capacityBytes / to.blockBytes;
  if (!isOnMedium) return fail(SENSE_COPY_RANGE);
  if (destination.unit.isWriteProtected) return fail(SENSE_WRITE_PROTECTED);
  const isAllowed =
    isAllowedByReservations(source, RESERVED_READ, 0) &&
    isAllowedByReservations(destination, RESERVED_WRITE, 0);
  if (!isAllowed) {
    run.conflict();
    return null;
  }
  return { source, destination, fromLba, toLba, blocks };
}

function* copySegment(run: CommandRun, segment: Segment): Part<boolean> {
  const { source, destination, fromLba, toLba, blocks } = segment;
  const info = source.unit.device?.info;
  if (info === undefined) return run.refuse(SENSE_COPY_NOT_REACHABLE);
  const { blockBytes } = info;
  const total = blocks * blockBytes;
  const address = (run.scratch ?? (yield* run.takeScratch())).address;
  // Overlapping ranges of one unit: from the end, where the destination lies above the source.
  const isBackward = source.unit === destination.unit && toLba > fromLba;
  for (let moved = 0; moved < total; moved += SCRATCH_BYTES) {
    const bytes = Math.min(SCRATCH_BYTES, total - moved);
    const at = isBackward ? total - moved - bytes : moved;
    let result = yield* run.read(fromLba * blockBytes + at, address, bytes, source.unit.device);
    if (result >= 0) {
      const { device, isWriteCached } = destination.unit;
      const offset = toLba * blockBytes + at;
      result = yield* run.write(offset, address, bytes, !isWriteCached, device);
    }
    if (result < 0) return run.refuse(SENSE_COPY_FAILED);
  }
  return true;
}

function keepResult(
  run: CommandRun,
  listId: number,
  isComplete: boolean,
  segments: number,
  blocks: number,
): void {
  const { copyResults } = run.link.nexus;
  const data = new Uint8Array(12);
  putU32(data, 0, 8);
  data[4] = isComplete ? COMPLETED : COMPLETED_WITH_ERRORS;
  putU16(data, 5, segments);
  // TRANSFER COUNT UNITS F1h: logical blocks of the destination.
  data[7] = 0xf1;
  putU32(data, 8, blocks);
  copyResults.delete(listId);
  const oldest = copyResults.keys().next();
  if (copyResults.size >= RESULTS_MAX && oldest.done !== true) copyResults.delete(oldest.value);
  copyResults.set(listId, data);
}

export function receiveCopyStatus(run: CommandRun): void {
  const { copyResults } = run.link.nexus;
  const listId = run.u8(2);
  const result = copyResults.get(listId);
  if (result === undefined) {
    run.refuseField(2);
    return;
  }
  run.page(result.length).set(result);
  if (run.reply(result.length, run.u32(10))) copyResults.delete(listId);
}

export function receiveCopyParameters(run: CommandRun): void {
  const total = 46;
  const data = run.page(total);
  putU32(data, 0, total - 4);
  // SNLID: list identifiers may be left unused.
  data[4] = 0x01;
  putU16(data, 8, COPY_TARGETS_MAX);
  putU16(data, 10, COPY_SEGMENTS_MAX);
  putU32(data, 12, COPY_LIST_BYTES_MAX);
  putU32(data, 16, COPY_BLOCKS_MAX * run.blockBytes);
  putU16(data, 34, 1);
  data[36] = 1;
  data[37] = Math.log2(run.blockBytes);
  data[43] = 2;
  data[44] = SEGMENT_BLOCK_TO_BLOCK;
  data[45] = TARGET_IDENTIFICATION;
  run.reply(total, run.u32(10));
}
