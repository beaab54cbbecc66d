// Commands about the medium that change no data: TEST UNIT READY, REQUEST SENSE, START STOP UNIT,
// PREVENT ALLOW MEDIUM REMOVAL, SYNCHRONIZE CACHE, PRE-FETCH, VERIFY (SPC-4 6.39, 6.47; SBC-3 5.8,
// 5.13, 5.22 to 5.31).
//
// START STOP UNIT: a volume does not spin. Stopping it writes the cache and nothing else, so that
// one initiator cannot take the volume from the others; only a removable medium can be ejected.

import type { CommandRun, Part, Steps } from "./command-run.ts";
import { STEP_BYTES } from "./limits.ts";
import { checkRange, checkTransfer, checkUnprotected, readRange } from "./range.ts";
import {
  SENSE_BECOMING_READY,
  SENSE_LUN_NOT_SUPPORTED,
  SENSE_MISCOMPARE,
  SENSE_REMOVAL_PREVENTED,
  UA_MEDIUM_CHANGED,
  writeSense,
} from "./sense.ts";
import { SENSE_BYTES_MAX } from "./task.ts";

export function testUnitReady(): void {
  // All that could be wrong has been asked before.
}

export function requestSense(run: CommandRun): void {
  const isDescriptor = (run.u8(1) & 1) !== 0;
  const { link } = run;
  let code = 0;
  if (link.isAbsent) code = SENSE_LUN_NOT_SUPPORTED;
  else if (link.attentionCount > 0) code = 0x060000 | link.takeAttention();
  else if (link.unit.isPending) code = SENSE_BECOMING_READY;
  const data = run.page(SENSE_BYTES_MAX);
  const bytes = writeSense(data, 0, isDescriptor, code, -1, 0);
  run.reply(bytes, run.u8(4));
}

export function* startStopUnit(run: CommandRun): Steps {
  const { unit, link } = run;
  const flags = run.u8(4);
  const isStart = (flags & 0x01) !== 0;
  const isLoad = (flags & 0x02) !== 0;
  const isCondition = flags >>> 4 !== 0;
  // Power conditions change nothing here, and START and LOEJ do not count beside them.
  if (isCondition) return;
  if (isLoad && !unit.isRemovable) {
    run.refuseField(4, 1);
    return;
  }
  if (isLoad && isStart) {
    if (!unit.isLoaded) {
      unit.isLoaded = true;
      unit.attendAll(UA_MEDIUM_CHANGED, link);
    }
    return;
  }
  if (isStart || !unit.isLoaded) return;
  if (isLoad && unit.isRemovalPrevented) {
    run.refuse(SENSE_REMOVAL_PREVENTED);
    return;
  }
  if ((flags & 0x04) === 0 && !(yield* flushAll(run))) return;
  if (isLoad) unit.isLoaded = false;
}

function* flushAll(run: CommandRun): Part<boolean> {
  if (!(yield* run.enter(0, 0, false))) return false;
  const result = yield* run.flush();
  return result >= 0 || run.refuseResult(result, false);
}

export function preventAllow(run: CommandRun): void {
  const prevent = run.u8(4) & 0x03;
  if (prevent > 1) run.refuseField(4, 1);
  else run.link.preventsRemoval = prevent === 1;
}

export function* synchronizeCache(run: CommandRun): Steps {
  const { lba, blocks } = readRange(run);
  if (!checkRange(run, lba, blocks)) return;
  yield* flushAll(run);
}

/** Nothing is fetched ahead: the command says nothing about when, and reads are as fast. */
export function preFetch(run: CommandRun): void {
  const { lba, blocks } = readRange(run);
  checkRange(run, lba, blocks);
}

/** BYTCHK (SBC-3 5.29). */
const CHECK_NOTHING = 0;
const CHECK_ALL = 1;
const CHECK_ONE = 3;

export function* verify(run: CommandRun): Steps {
  const range = readRange(run);
  const check = (run.u8(1) >>> 1) & 3;
  if (!checkUnprotected(run)) return;
  if (check === 2) {
    run.refuseField(1, 2);
    return;
  }
  if (!checkRange(run, range.lba, range.blocks)) return;
  if (check !== CHECK_NOTHING && !checkTransfer(run, range)) return;
  const { blockBytes } = run;
  if (range.blocks === 0) return;
  const blocksOut = check === CHECK_ALL ? range.blocks : check === CHECK_ONE ? 1 : 0;
  if (!(yield* run.fetch(blocksOut * blockBytes))) return;
  if (!(yield* run.enter(range.lba, range.blocks, false))) return;
  yield* compareBlocks(run, range.lba, range.blocks, blockBytes, check);
}

/**
 * Reads the blocks and, unless `check` is 0, compares them with the mapped data-out. False: an
 * error or MISCOMPARE, with the offset of the first byte in the data-out that differs.
 */
export function* compareBlocks(
  run: CommandRun,
  lba: number,
  blocks: number,
  blockBytes: number,
  check: number,
): Part<boolean> {
  const { host } = run;
  const scratch = yield* run.takeScratch();
  const own = scratch.address;
  const theirs = scratch.address + STEP_BYTES;
  const total = blocks * blockBytes;
  // With one block for all, a step is a block.
  const step = check === CHECK_ONE ? blockBytes : STEP_BYTES;
  for (let done = 0; done < total; done += step) {
    const bytes = Math.min(step, total - done);
    let result = yield* run.read(lba * blockBytes + done, own, bytes);
    if (result < 0) return run.refuseResult(result, true);
    if (check === CHECK_NOTHING) continue;
    const skip = check === CHECK_ONE ? 0 : done;
    result = host.gather(run.task, skip, theirs, bytes);
    if (result < 0) return run.refuseResult(result, false);
    if (host.memory.compare(own, theirs, bytes) === 0) continue;
    const at = firstDifference(scratch.u8, 0, STEP_BYTES, bytes);
    return run.refuse(SENSE_MISCOMPARE, skip + at);
  }
  return true;
}

/** Offset of the first byte in which `bytes` at `a` and at `b` differ. */
export function firstDifference(u8: Uint8Array, a: number, b: number, bytes: number): number {
  for (let index = 0; index < bytes; index++) {
    if (u8[a + index] !== u8[b + index]) return index;
  }
  return bytes;
}
