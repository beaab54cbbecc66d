// @hot
// How virtio-scsi names logical units (virtio 1.2, 5.6.6.1): 1, the target, and a single level LUN
// structure of two bytes; four zeroes follow. A controller of ours is one target, number 0.

import { LUN_BYTES } from "../scsi/index.ts";

const ADDRESS_FORMAT = 1;
const TARGET = 0;
/** The well known logical unit REPORT LUNS, which needs no target before it. */
const REPORT_LUNS_FIRST = 0xc1;
const REPORT_LUNS_SECOND = 0x01;

/** Do the LUN_BYTES at `at` name a logical unit, there or not, of our target? */
export function isOurTarget(bytes: Uint8Array, at: number): boolean {
  for (let index = 4; index < LUN_BYTES; index++) if (bytes[at + index] !== 0) return false;
  if (bytes[at] === ADDRESS_FORMAT) return bytes[at + 1] === TARGET;
  if (bytes[at] !== REPORT_LUNS_FIRST || bytes[at + 1] !== REPORT_LUNS_SECOND) return false;
  return bytes[at + 2] === 0 && bytes[at + 3] === 0;
}

/**
 * Where in LUN_BYTES at `at` the two bytes of the single level LUN structure are. Those of the well
 * known logical unit are a number that no unit of scsi/ has.
 */
export function structureAt(bytes: Uint8Array, at: number): number {
  return bytes[at] === ADDRESS_FORMAT ? at + 2 : at;
}

/** LUN_BYTES as scsi/ takes them. */
// @cold
export function lunStructure(bytes: Uint8Array, at: number): Uint8Array {
  const lun = new Uint8Array(LUN_BYTES);
  const from = structureAt(bytes, at);
  lun[0] = bytes[from];
  lun[1] = bytes[from + 1];
  return lun;
}

/**
 * The LUN_BYTES that an event names logical unit `lun` (0 to 255) with. Linux wants the addressing
 * that REPORT LUNS has: peripheral.
 */
// @cold
export function eventLun(lun: number): Uint8Array {
  return Uint8Array.of(ADDRESS_FORMAT, TARGET, 0, lun, 0, 0, 0, 0);
}
