// CRC32C (Castagnoli, RFC 3720 appendix B.4) by table: the fallback where no vector library is
// installed, and the reference the fast ones are tested against.

const POLYNOMIAL = 0x82f63b78;

const TABLE: Uint32Array = (() => {
  const table = new Uint32Array(256);
  for (let index = 0; index < 256; index++) {
    let value = index;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
    table[index] = value >>> 0;
  }
  return table;
})();

/** CRC32C of `data`, continuing from `seed` (0 to begin). */
export function crc32cTable(data: Uint8Array, seed: number): number {
  let crc = ~seed >>> 0;
  for (let index = 0; index < data.length; index++) {
    crc = (TABLE[(crc ^ (data[index] as number)) & 0xff] as number) ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}
