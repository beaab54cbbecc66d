// What one command may ask for at most: VPD page B0h shows these numbers, and the commands keep
// them.

import { SCRATCH_BYTES } from "./command-run.ts";

/** A third of the scratch buffer each: what is there, what is compared, what is written. */
const COMPARE_BYTES_MAX: number = 65536;

/** MAXIMUM COMPARE AND WRITE LENGTH in blocks; the field has one byte. */
export function compareBlocksMax(blockBytes: number): number {
  return Math.min(255, COMPARE_BYTES_MAX / blockBytes);
}

/** Blocks of UNMAP in one command, and its block descriptors. */
export const UNMAP_BLOCKS_MAX = 1048576;
export const UNMAP_DESCRIPTORS_MAX = 256;

/** MAXIMUM WRITE SAME LENGTH. */
export const WRITE_SAME_BLOCKS_MAX = 32768;

/** Bytes compared, copied or repeated in one step; two halves of a scratch buffer. */
export const STEP_BYTES: number = SCRATCH_BYTES / 2;

/** EXTENDED COPY: what one parameter list may have. */
export const COPY_TARGETS_MAX = 8;
export const COPY_SEGMENTS_MAX = 64;
/** Enough for all of them: 32 bytes a target descriptor, 28 a segment descriptor. */
export const COPY_LIST_BYTES_MAX = 2048;
/** Of one segment: 16 bits of blocks. */
export const COPY_BLOCKS_MAX = 65535;
