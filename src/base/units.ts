// Units and integer helpers shared by every room. Sizes are plain numbers in bytes, exact below
// 2^53; 64-bit fields of the protocols are read as two 32-bit halves and refused above that.

export const KIB = 1024;
export const MIB: number = 1024 * KIB;
export const GIB: number = 1024 * MIB;
export const TIB: number = 1024 * GIB;

/** virtio-blk and SCSI address disks in sectors of this size whatever the block size is. */
export const SECTOR_BYTES = 512;
export const PAGE_BYTES = 4096;
export const TWO_32 = 4294967296;

/** The greatest high half for which high * 2^32 + low is still an exact JS number. */
export const SAFE_HIGH_MAX = 0x1fffff;

/** Joins two u32 halves. The caller has checked `high <= SAFE_HIGH_MAX`. */
export function join64(low: number, high: number): number {
  return high * TWO_32 + low;
}

/** The low 32 bits of a non-negative safe integer. */
export function low32(value: number): number {
  return value >>> 0;
}

/** The high 32 bits of a non-negative safe integer. */
export function high32(value: number): number {
  return Math.floor(value / TWO_32);
}

/** Rounds `value` up to a multiple of `alignment` (any positive integer, not only powers of 2). */
export function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

export function alignDown(value: number, alignment: number): number {
  return Math.floor(value / alignment) * alignment;
}

export function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0;
}

const SUFFIXES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

/** `1536` -> `"1.5 KiB"`. For people, never parsed. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let index = 0;
  while (value >= 1024 && index < SUFFIXES.length - 1) {
    value /= 1024;
    index += 1;
  }
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${SUFFIXES[index]}`;
}

/**
 * `"20G"`, `"512MiB"`, `"4096"` -> bytes. Binary multiples, as `qemu-img` and `lvcreate` read
 * them. Returns -1 when the text is not a size.
 */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?$/i.exec(text.trim());
  if (match === null) return -1;
  const power = "KMGTP".indexOf((match[2] ?? "").toUpperCase()) + 1;
  const bytes = Number(match[1]) * 1024 ** (match[2] === "" ? 0 : power);
  return Number.isSafeInteger(bytes) ? bytes : -1;
}
