// CRC32C (Castagnoli, RFC 3720 appendix B.4) by table: the fallback where no vector library is
// installed, and the reference the fast ones are tested against.
//
// Eight bytes a step ("slicing by 8"): table k holds what a byte becomes once k zero bytes have
// followed it, so that eight lookups that do not wait for each other replace eight that do.

const POLYNOMIAL = 0x82f63b78;
const SLICES = 8;

/** Table k begins at k * 256. */
const TABLE: Int32Array = (() => {
  const table = new Int32Array(SLICES * 256);
  for (let index = 0; index < 256; index++) {
    let value = index;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
    table[index] = value;
  }
  for (let index = 256; index < SLICES * 256; index++) {
    const before = table[index - 256];
    table[index] = table[before & 0xff] ^ (before >>> 8);
  }
  return table;
})();

/** CRC32C of `data` in [from, to), all of it by default; `seed` is 0 or what came before. */
export function crc32cTable(
  data: Uint8Array,
  seed: number,
  from: number = 0,
  to: number = data.length,
): number {
  let crc = ~seed;
  let index = from;
  for (const stop = to - 7; index < stop; index += 8) {
    crc =
      TABLE[1792 + ((crc ^ data[index]) & 0xff)] ^
      TABLE[1536 + (((crc >>> 8) ^ data[index + 1]) & 0xff)] ^
      TABLE[1280 + (((crc >>> 16) ^ data[index + 2]) & 0xff)] ^
      TABLE[1024 + ((crc >>> 24) ^ data[index + 3])] ^
      TABLE[768 + data[index + 4]] ^
      TABLE[512 + data[index + 5]] ^
      TABLE[256 + data[index + 6]] ^
      TABLE[data[index + 7]];
  }
  for (; index < to; index++) crc = TABLE[(crc ^ data[index]) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}
