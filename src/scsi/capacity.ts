// READ CAPACITY (10) and (16), GET LBA STATUS, READ DEFECT DATA (SBC-3 5.6, 5.12, 5.15, 5.16).
//
// GET LBA STATUS: devices do not tell what they have allocated. Blocks that read as zeroes are
// reported as deallocated, all others as mapped: with LBPRZ set to one nobody can tell such blocks
// apart, and what a copy tool makes of the answer is right.

import { putU32, putU64 } from "../base/index.ts";
import type { CommandRun, Steps } from "./command-run.ts";
import { STEP_BYTES } from "./limits.ts";
import { SENSE_OUT_OF_RANGE, SENSE_STANDBY } from "./sense.ts";

const STATUS_HEADER_BYTES = 8;
const STATUS_DESCRIPTOR_BYTES = 16;
const STATUS_DESCRIPTORS_MAX = 64;
/** What one GET LBA STATUS looks at. */
const STATUS_SCAN_BYTES = 4194304;
const MAPPED = 0;
const DEALLOCATED = 1;

export function readCapacity10(run: CommandRun): void {
  const isPartial = (run.u8(8) & 1) !== 0;
  if (isPartial || run.u32(2) !== 0) {
    // PMI is obsolete; without it the address must be 0.
    if (isPartial) run.refuseField(8, 0);
    else run.refuseField(2);
    return;
  }
  if (!checkKnown(run)) return;
  const data = run.page(8);
  putU32(data, 0, Math.min(0xffffffff, lastLba(run)));
  putU32(data, 4, run.blockBytes);
  run.reply(8, 8);
}

export function readCapacity16(run: CommandRun): void {
  if (!checkKnown(run)) return;
  const { canDiscard, physicalBlockBytes } = run.info;
  const data = run.page(32);
  putU64(data, 0, lastLba(run));
  putU32(data, 8, run.blockBytes);
  data[13] = Math.log2(physicalBlockBytes / run.blockBytes) & 0xf;
  // LBPME, LBPRZ.
  data[14] = canDiscard ? 0xc0 : 0;
  run.reply(32, run.u32(10));
}

/** In standby the volume may be known or not. */
function checkKnown(run: CommandRun): boolean {
  return run.unit.info !== null || run.refuse(SENSE_STANDBY);
}

function lastLba(run: CommandRun): number {
  return Math.max(0, run.blockCount - 1);
}

interface LbaRun {
  readonly lba: number;
  readonly status: number;
  blocks: number;
}

export function* getLbaStatus(run: CommandRun): Steps {
  const lba = run.u64(2);
  const allocation = run.u32(10);
  const { blockBytes, blockCount } = run;
  if (lba >= blockCount) {
    run.refuse(SENSE_OUT_OF_RANGE);
    return;
  }
  const room = Math.floor((allocation - STATUS_HEADER_BYTES) / STATUS_DESCRIPTOR_BYTES);
  const count = Math.max(1, Math.min(STATUS_DESCRIPTORS_MAX, room));
  const bytesMax = STATUS_HEADER_BYTES + count * STATUS_DESCRIPTOR_BYTES;
  if (!run.mapIn(Math.min(allocation, bytesMax))) return;
  const runs: LbaRun[] = [];
  if (run.info.canDiscard) {
    const blocks = Math.min(blockCount - lba, STATUS_SCAN_BYTES / blockBytes);
    if (!(yield* run.enter(lba, blocks, false))) return;
    const { address } = yield* run.takeScratch();
    for (let done = 0; done < blocks && runs.length <= count; ) {
      const step = Math.min(STEP_BYTES / blockBytes, blocks - done);
      const result = yield* run.read((lba + done) * blockBytes, address, step * blockBytes);
      if (result < 0) {
        run.refuseResult(result, true);
        return;
      }
      for (let index = 0; index < step; index++) {
        const isZero = run.host.memory.isZero(address + index * blockBytes, blockBytes);
        note(runs, lba + done + index, isZero ? DEALLOCATED : MAPPED);
      }
      done += step;
    }
  } else {
    runs.push({ lba, status: MAPPED, blocks: Math.min(0xffffffff, blockCount - lba) });
  }
  const shown = runs.slice(0, count);
  const total = STATUS_HEADER_BYTES + shown.length * STATUS_DESCRIPTOR_BYTES;
  const data = run.page(total);
  putU32(data, 0, total - 4);
  for (const [index, one] of shown.entries()) {
    const at = STATUS_HEADER_BYTES + index * STATUS_DESCRIPTOR_BYTES;
    putU64(data, at, one.lba);
    putU32(data, at + 8, one.blocks);
    data[at + 12] = one.status;
  }
  run.sendMapped(Math.min(total, allocation), run.host.replyArena.address);
}

function note(runs: LbaRun[], lba: number, status: number): void {
  const last = runs[runs.length - 1];
  if (last !== undefined && last.status === status) last.blocks += 1;
  else runs.push({ lba, status, blocks: 1 });
}

/** There are no defects to know of: both lists are empty. */
export function readDefectData(run: CommandRun): void {
  const isLong = run.u8(0) === 0xb7;
  const data = run.page(8);
  data[1] = run.u8(isLong ? 1 : 2) & 0x1f;
  run.reply(isLong ? 8 : 4, isLong ? run.u32(6) : run.u16(7));
}
