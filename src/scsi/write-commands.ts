// Commands that change blocks in other ways than WRITE: WRITE AND VERIFY, WRITE SAME, UNMAP,
// COMPARE AND WRITE, ORWRITE (SBC-3 5.2, 5.19, 5.28, 5.40 to 5.46).
//
// Invariants:
//  - LBPRZ is one: what is unmapped reads as zeroes at once, so UNMAP is a write of zeroes that
//    may deallocate, also where a range is not aligned to what the device allocates;
//  - COMPARE AND WRITE and ORWRITE are exclusive in their range from the read to the write;
//  - nothing is written before the whole command has been found good.

import { getU16, getU32, getU64 } from "../base/index.ts";
import type { CommandRun, Part, Steps } from "./command-run.ts";
import { SCRATCH_BYTES } from "./command-run.ts";
import {
  compareBlocksMax,
  STEP_BYTES,
  UNMAP_BLOCKS_MAX,
  UNMAP_DESCRIPTORS_MAX,
  WRITE_SAME_BLOCKS_MAX,
} from "./limits.ts";
import { compareBlocks, firstDifference } from "./medium.ts";
import { checkRange, checkTransfer, checkUnprotected, readRange } from "./range.ts";
import {
  SENSE_INFORMATION_UNIT,
  SENSE_INVALID_OPCODE,
  SENSE_MISCOMPARE,
  SENSE_OUT_OF_RANGE,
  SENSE_PARAMETER_LENGTH,
} from "./sense.ts";

/** Zeroes in one request: a device may have to write them out. */
const ZEROES_BYTES_MAX = 33554432;

function isForced(run: CommandRun): boolean {
  return (run.u8(1) & 0x08) !== 0 || !run.unit.isWriteCached;
}

export function* writeAndVerify(run: CommandRun): Steps {
  const range = readRange(run);
  const check = (run.u8(1) >>> 1) & 3;
  if (!checkUnprotected(run)) return;
  if (check > 1) {
    run.refuseField(1, 2);
    return;
  }
  if (!run.checkWritable() || !checkRange(run, range.lba, range.blocks)) return;
  if (!checkTransfer(run, range) || range.blocks === 0) return;
  const { blockBytes } = run;
  const blocks = yield* fetchBlocks(run, range.blocks);
  if (blocks <= 0) return;
  if (!(yield* run.enter(range.lba, blocks, true))) return;
  // Durable, so that what is verified is what the medium has.
  const result = yield* run.writeMapped(range.lba * blockBytes, true);
  if (result < 0) run.refuseResult(result, false);
  else yield* compareBlocks(run, range.lba, blocks, blockBytes, check);
}

/** Fetches the whole blocks that there are of `blocks`, as WRITE does. Returns how many, or -1. */
function* fetchBlocks(run: CommandRun, blocks: number): Part<number> {
  const { tasks } = run.host;
  const wanted = blocks * run.blockBytes;
  const bytes = Math.min(wanted, tasks.dataOutBytes[run.task]);
  if (bytes % run.blockBytes !== 0) {
    tasks.wantedBytes[run.task] = wanted;
    run.refuse(SENSE_INFORMATION_UNIT);
    return -1;
  }
  if (!(yield* run.fetch(bytes))) return -1;
  // The residual is told of what the CDB says.
  tasks.wantedBytes[run.task] = wanted;
  return bytes / run.blockBytes;
}

export function* writeSame(run: CommandRun): Steps {
  const range = readRange(run);
  const isLong = run.u8(0) === 0x93;
  const flags = run.u8(1);
  const mayUnmap = (flags & 0x08) !== 0;
  const hasNoData = isLong && (flags & 0x01) !== 0;
  if (!checkUnprotected(run)) return;
  if ((flags & 0x10) !== 0) {
    run.refuseField(1, 4);
    return;
  }
  if (mayUnmap && !run.info.canDiscard) {
    run.refuseField(1, 3);
    return;
  }
  if (!run.checkWritable()) return;
  if (!checkRange(run, range.lba, range.blocks)) return;
  if (range.blocks === 0 || range.blocks > WRITE_SAME_BLOCKS_MAX) {
    run.refuseField(range.lengthByte);
    return;
  }
  const { blockBytes } = run;
  if (!hasNoData && !(yield* fetchExactly(run, blockBytes))) return;
  if (!(yield* run.enter(range.lba, range.blocks, false))) return;
  if (hasNoData) {
    yield* zeroBlocks(run, range.lba, range.blocks, blockBytes, mayUnmap);
    return;
  }
  const { address } = yield* run.takeScratch();
  const result = run.host.gather(run.task, 0, address, blockBytes);
  if (result < 0) run.refuseResult(result, false);
  else if (run.host.memory.isZero(address, blockBytes)) {
    yield* zeroBlocks(run, range.lba, range.blocks, blockBytes, mayUnmap);
  } else yield* repeatBlock(run, range.lba, range.blocks, blockBytes, address);
}

/** Fetches data-out that must have just this length; what has another is a mistake. */
function* fetchExactly(run: CommandRun, bytes: number): Part<boolean> {
  const { tasks } = run.host;
  tasks.wantedBytes[run.task] = bytes;
  if (tasks.dataOutBytes[run.task] !== bytes) return run.refuse(SENSE_INFORMATION_UNIT);
  return yield* run.fetch(bytes);
}

function* zeroBlocks(
  run: CommandRun,
  lba: number,
  blocks: number,
  blockBytes: number,
  mayUnmap: boolean,
): Part<boolean> {
  const total = blocks * blockBytes;
  for (let done = 0; done < total; done += ZEROES_BYTES_MAX) {
    const bytes = Math.min(ZEROES_BYTES_MAX, total - done);
    const isDurable = !run.unit.isWriteCached;
    const result = yield* run.writeZeroes(lba * blockBytes + done, bytes, mayUnmap, isDurable);
    if (result < 0) return run.refuseResult(result, false);
  }
  return true;
}

/** Writes the block at the beginning of the scratch buffer over and over. */
function* repeatBlock(
  run: CommandRun,
  lba: number,
  blocks: number,
  blockBytes: number,
  address: number,
): Part<boolean> {
  const total = blocks * blockBytes;
  const filled = Math.min(SCRATCH_BYTES, total);
  for (let done = blockBytes; done < filled; done *= 2) {
    run.host.memory.copy(address + done, address, Math.min(done, filled - done));
  }
  for (let done = 0; done < total; done += filled) {
    const bytes = Math.min(filled, total - done);
    const isDurable = !run.unit.isWriteCached;
    const result = yield* run.write(lba * blockBytes + done, address, bytes, isDurable);
    if (result < 0) return run.refuseResult(result, false);
  }
  return true;
}

interface UnmapRange {
  readonly lba: number;
  blocks: number;
}

export function* unmap(run: CommandRun): Steps {
  if (!run.info.canDiscard) {
    run.refuse(SENSE_INVALID_OPCODE);
    return;
  }
  if ((run.u8(1) & 1) !== 0) {
    run.refuseField(1, 0);
    return;
  }
  if (!run.checkWritable()) return;
  const bytes = run.u16(7);
  if (bytes === 0) return;
  const { blockBytes, blockCount } = run;
  const list = yield* run.parameters(bytes);
  if (list === null) return;
  const ranges = readUnmapList(run, list, blockCount);
  if (ranges === null || ranges.length === 0) return;
  const first = ranges.reduce((least, one) => Math.min(least, one.lba), Number.MAX_VALUE);
  const end = ranges.reduce((most, one) => Math.max(most, one.lba + one.blocks), 0);
  if (!(yield* run.enter(first, end - first, false))) return;
  for (const { lba, blocks } of ranges) {
    if (!(yield* zeroBlocks(run, lba, blocks, blockBytes, true))) return;
  }
}

/** What the block descriptors name, those that follow each other as one; null: refused. */
function readUnmapList(run: CommandRun, list: Uint8Array, blockCount: number): UnmapRange[] | null {
  if (list.length < 8) {
    run.refuse(SENSE_PARAMETER_LENGTH);
    return null;
  }
  const count = Math.floor(Math.min(getU16(list, 2), list.length - 8) / 16);
  if (count > UNMAP_DESCRIPTORS_MAX) {
    run.refuseParameter(2);
    return null;
  }
  const ranges: UnmapRange[] = [];
  let sum = 0;
  for (let index = 0; index < count; index++) {
    const at = 8 + index * 16;
    const lba = getU64(list, at);
    const blocks = getU32(list, at + 8);
    sum += blocks;
    if (lba + blocks > blockCount) {
      run.refuse(SENSE_OUT_OF_RANGE);
      return null;
    }
    if (sum > UNMAP_BLOCKS_MAX) {
      run.refuseParameter(at + 8);
      return null;
    }
    if (blocks === 0) continue;
    const last = ranges.at(-1);
    if (last !== undefined && last.lba + last.blocks === lba) last.blocks += blocks;
    else ranges.push({ lba, blocks });
  }
  return ranges;
}

export function* compareAndWrite(run: CommandRun): Steps {
  const lba = run.u64(2);
  const blocks = run.u8(13);
  if (!checkUnprotected(run)) return;
  if (!run.checkWritable() || !checkRange(run, lba, blocks)) return;
  const { blockBytes } = run;
  if (blocks > compareBlocksMax(blockBytes)) {
    run.refuseField(13);
    return;
  }
  if (blocks === 0) return;
  const bytes = blocks * blockBytes;
  if (!(yield* fetchExactly(run, 2 * bytes))) return;
  if (!(yield* run.enter(lba, blocks, true))) return;
  const scratch = yield* run.takeScratch();
  // What is compared and what is written, then what is there.
  let result = run.host.gather(run.task, 0, scratch.address, 2 * bytes);
  if (result < 0) {
    run.refuseResult(result, false);
    return;
  }
  const found = 2 * bytes;
  result = yield* run.read(lba * blockBytes, scratch.address + found, bytes);
  if (result < 0) {
    run.refuseResult(result, true);
    return;
  }
  if (run.host.memory.compare(scratch.address, scratch.address + found, bytes) !== 0) {
    run.refuse(SENSE_MISCOMPARE, firstDifference(scratch.u8, 0, found, bytes));
    return;
  }
  result = yield* run.write(lba * blockBytes, scratch.address + bytes, bytes, isForced(run));
  if (result < 0) run.refuseResult(result, false);
}

export function* orWrite(run: CommandRun): Steps {
  const range = readRange(run);
  if (!checkUnprotected(run)) return;
  if (!run.checkWritable() || !checkRange(run, range.lba, range.blocks)) return;
  if (!checkTransfer(run, range) || range.blocks === 0) return;
  const { blockBytes } = run;
  const total = range.blocks * blockBytes;
  if (!(yield* run.fetch(total))) return;
  if (!(yield* run.enter(range.lba, range.blocks, true))) return;
  const { address, u8 } = yield* run.takeScratch();
  const isDurable = isForced(run);
  for (let done = 0; done < total; done += STEP_BYTES) {
    const bytes = Math.min(STEP_BYTES, total - done);
    const offset = range.lba * blockBytes + done;
    let result = yield* run.read(offset, address, bytes);
    if (result < 0) {
      run.refuseResult(result, true);
      return;
    }
    result = run.host.gather(run.task, done, address + STEP_BYTES, bytes);
    if (result >= 0) {
      for (let index = 0; index < bytes; index++) u8[index] |= u8[STEP_BYTES + index];
      result = yield* run.write(offset, address, bytes, isDurable);
    }
    if (result < 0) {
      run.refuseResult(result, false);
      return;
    }
  }
}
