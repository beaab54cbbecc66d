// @hot
// READ and WRITE of 6, 10, 12 and 16 bytes and WRITE ATOMIC (16): what their CDBs ask for, and
// whether this unit can do it (SBC-3 5.7 to 5.11, 5.32 to 5.35, SBC-4 WRITE ATOMIC).
//
// Invariants:
//  - LBA and length are read once into TRANSFER; nothing else of the CDB is trusted;
//  - a transfer that judgeTransfer() accepts lies wholly on the medium and is no longer than
//    transferBytesMax.

import { getU16, getU24, getU32, getU64 } from "../base/index.ts";
import type { LogicalUnit } from "./logical-unit.ts";
import {
  SENSE_INVALID_FIELD_IN_CDB,
  SENSE_NONE,
  SENSE_OUT_OF_RANGE,
  SENSE_STANDBY,
  SENSE_WRITE_PROTECTED,
} from "./sense.ts";

export const TRANSFER_NONE = 0;
export const TRANSFER_READ = 1;
const TRANSFER_WRITE = 2;
export const TRANSFER_WRITE_ATOMIC = 3;

const READ_6 = 0x08;
const WRITE_6 = 0x0a;
const READ_10 = 0x28;
const WRITE_10 = 0x2a;
const READ_12 = 0xa8;
const WRITE_12 = 0xaa;
const READ_16 = 0x88;
const WRITE_16 = 0x8a;
const WRITE_ATOMIC_16 = 0x9c;

/** Operation code -> TRANSFER_... */
export const TRANSFER_KIND: Uint8Array = transferKinds();

// @cold
function transferKinds(): Uint8Array {
  const kinds = new Uint8Array(256);
  for (const code of [READ_6, READ_10, READ_12, READ_16]) kinds[code] = TRANSFER_READ;
  for (const code of [WRITE_6, WRITE_10, WRITE_12, WRITE_16]) kinds[code] = TRANSFER_WRITE;
  kinds[WRITE_ATOMIC_16] = TRANSFER_WRITE_ATOMIC;
  return kinds;
}

/** What judgeTransfer() found: the thread's, until the next call. */
export const TRANSFER: Float64Array = new Float64Array(3);
export const TRANSFER_LBA = 0;
export const TRANSFER_BLOCKS = 1;
/** Byte of the CDB that a refusal points at, times 8 and with the bit in it; -1 is none. */
export const TRANSFER_FIELD = 2;

const FUA = 0x08;
const PROTECT_MASK = 0xe0;

export function isForceUnitAccess(cdb: Uint8Array, at: number): boolean {
  const opcode = cdb[at];
  if (opcode === READ_6 || opcode === WRITE_6) return false;
  return (cdb[at + 1] & FUA) !== 0;
}

/** SENSE_NONE, or why the command is refused; TRANSFER says the rest. */
export function judgeTransfer(
  cdb: Uint8Array,
  at: number,
  kind: number,
  unit: LogicalUnit,
): number {
  const device = unit.device;
  if (device === null) return SENSE_STANDBY;
  const lengthByte = readTransfer(cdb, at);
  TRANSFER[TRANSFER_FIELD] = -1;
  const opcode = cdb[at];
  if (opcode !== READ_6 && opcode !== WRITE_6 && (cdb[at + 1] & PROTECT_MASK) !== 0) {
    TRANSFER[TRANSFER_FIELD] = 8 + 7;
    return SENSE_INVALID_FIELD_IN_CDB;
  }
  if (kind !== TRANSFER_READ && unit.isWriteProtected) return SENSE_WRITE_PROTECTED;
  const { capacityBytes, blockBytes } = device.info;
  const blocks = TRANSFER[TRANSFER_BLOCKS];
  if (TRANSFER[TRANSFER_LBA] + blocks > capacityBytes / blockBytes) return SENSE_OUT_OF_RANGE;
  const max = kind === TRANSFER_WRITE_ATOMIC ? atomicBytes(unit) : unit.transferBytesMax;
  if (blocks * blockBytes > max) {
    TRANSFER[TRANSFER_FIELD] = lengthByte * 8 + 7;
    return SENSE_INVALID_FIELD_IN_CDB;
  }
  if (kind === TRANSFER_WRITE_ATOMIC && getU16(cdb, at + 10) !== 0) {
    // ATOMIC BOUNDARY: page B0h says that there are none.
    TRANSFER[TRANSFER_FIELD] = 10 * 8 + 7;
    return SENSE_INVALID_FIELD_IN_CDB;
  }
  return SENSE_NONE;
}

function atomicBytes(unit: LogicalUnit): number {
  return unit.atomicBytesMax < unit.transferBytesMax ? unit.atomicBytesMax : unit.transferBytesMax;
}

/** Fills TRANSFER; returns the first byte of the length field. */
function readTransfer(cdb: Uint8Array, at: number): number {
  switch (cdb[at]) {
    case READ_6:
    case WRITE_6: {
      const blocks = cdb[at + 4];
      TRANSFER[TRANSFER_LBA] = getU24(cdb, at + 1) & 0x1fffff;
      TRANSFER[TRANSFER_BLOCKS] = blocks === 0 ? 256 : blocks;
      return 4;
    }
    case READ_10:
    case WRITE_10:
      TRANSFER[TRANSFER_LBA] = getU32(cdb, at + 2);
      TRANSFER[TRANSFER_BLOCKS] = getU16(cdb, at + 7);
      return 7;
    case READ_12:
    case WRITE_12:
      TRANSFER[TRANSFER_LBA] = getU32(cdb, at + 2);
      TRANSFER[TRANSFER_BLOCKS] = getU32(cdb, at + 6);
      return 6;
    case WRITE_ATOMIC_16:
      TRANSFER[TRANSFER_LBA] = getU64(cdb, at + 2);
      TRANSFER[TRANSFER_BLOCKS] = getU16(cdb, at + 12);
      return 12;
    default:
      TRANSFER[TRANSFER_LBA] = getU64(cdb, at + 2);
      TRANSFER[TRANSFER_BLOCKS] = getU32(cdb, at + 10);
      return 10;
  }
}
