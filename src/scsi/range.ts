// Which blocks a command names, by the length of its CDB (SPC-4 4.2.5), and whether they are on
// the medium.

import type { CommandRun } from "./command-run.ts";
import { SENSE_OUT_OF_RANGE } from "./sense.ts";

export interface BlockRange {
  readonly lba: number;
  readonly blocks: number;
  /** First byte of the length field, for sense data. */
  readonly lengthByte: number;
}

/** The range in a CDB of 10, 12 or 16 bytes in the usual places. */
export function readRange(run: CommandRun): BlockRange {
  const opcode = run.u8(0);
  if (opcode < 0x60) return { lba: run.u32(2), blocks: run.u16(7), lengthByte: 7 };
  if (opcode >= 0xa0) return { lba: run.u32(2), blocks: run.u32(6), lengthByte: 6 };
  return { lba: run.u64(2), blocks: run.u32(10), lengthByte: 10 };
}

/** False: refused with LOGICAL BLOCK ADDRESS OUT OF RANGE. */
export function checkRange(run: CommandRun, lba: number, blocks: number): boolean {
  return lba + blocks <= run.blockCount || run.refuse(SENSE_OUT_OF_RANGE);
}

/** RDPROTECT, WRPROTECT, VRPROTECT, ORPROTECT: there is no protection information. */
export function checkUnprotected(run: CommandRun): boolean {
  return (run.u8(1) & 0xe0) === 0 || run.refuseField(1, 7);
}

/** False: refused, because the data of the range is more than one command may move. */
export function checkTransfer(run: CommandRun, range: BlockRange): boolean {
  const isShort = range.blocks * run.blockBytes <= run.unit.transferBytesMax;
  return isShort || run.refuseField(range.lengthByte);
}
