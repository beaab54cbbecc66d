// A tar archive in memory (POSIX ustar): regular files of our own naming, nothing else.

export interface TarFile {
  /** At most 100 ASCII characters. */
  readonly name: string;
  readonly content: Buffer;
}

const BLOCK_BYTES = 512;
const NAME_BYTES_MAX = 100;
const CHECKSUM_AT = 148;
const CHECKSUM_BYTES = 8;

export function tarOf(files: readonly TarFile[], atSeconds: number): Buffer {
  const parts: Buffer[] = [];
  for (const { name, content } of files) {
    parts.push(headerOf(name, content.length, atSeconds), content);
    const rest = content.length % BLOCK_BYTES;
    if (rest > 0) parts.push(Buffer.alloc(BLOCK_BYTES - rest));
  }
  // Two empty blocks are the end.
  parts.push(Buffer.alloc(2 * BLOCK_BYTES));
  return Buffer.concat(parts);
}

function headerOf(name: string, bytes: number, atSeconds: number): Buffer {
  if (name.length > NAME_BYTES_MAX) throw new RangeError(`"${name}" is too long for an archive`);
  const header = Buffer.alloc(BLOCK_BYTES);
  const octal = (value: number, at: number, width: number): void => {
    header.write(value.toString(8).padStart(width - 1, "0"), at, "ascii");
  };
  header.write(name, 0, "ascii");
  octal(0o600, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(bytes, 124, 12);
  octal(atSeconds, 136, 12);
  header.write("0", 156, "ascii");
  header.write("ustar\0", 257, "ascii");
  header.write("00", 263, "ascii");
  // The sum is made with blanks in its own place.
  header.fill(" ", CHECKSUM_AT, CHECKSUM_AT + CHECKSUM_BYTES);
  let sum = 0;
  for (const byte of header) sum += byte;
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, CHECKSUM_AT, "ascii");
  return header;
}
