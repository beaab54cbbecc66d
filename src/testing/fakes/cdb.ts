// CDBs of the commands that tests send most, and bytes that say where they come from.

export function be(value: number, bytes: number): number[] {
  const digits = value.toString(16).padStart(2 * bytes, "0");
  return Array.from({ length: bytes }, (_, at) =>
    Number.parseInt(digits.slice(2 * at, 2 * at + 2), 16),
  );
}

export const read10 = (lba: number, blocks: number, flags: number = 0): number[] => [
  0x28,
  flags,
  ...be(lba, 4),
  0,
  ...be(blocks, 2),
  0,
];
export const write10 = (lba: number, blocks: number, flags: number = 0): number[] => [
  0x2a,
  flags,
  ...be(lba, 4),
  0,
  ...be(blocks, 2),
  0,
];
/** CDBs of 16 bytes with LBA and length in the usual places. */
export const cdb16 = (code: number, lba: number, blocks: number, flags: number = 0): number[] => [
  code,
  flags,
  ...be(lba, 8),
  ...be(blocks, 4),
  0,
  0,
];

/** Bytes that say where they come from. */
export function pattern(bytes: number, seed: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, at) => (at * 7 + seed * 31 + (at >>> 8)) & 0xff);
}
