// @hot
// Text in byte arrays, as SCSI has it, and bytes as text. Numbers: base/big-endian.ts.

/** ASCII, padded with blanks or cut to `bytes`. Bytes that are no printable ASCII become "?". */
// @cold
export function putAscii(to: Uint8Array, at: number, bytes: number, text: string): void {
  for (let index = 0; index < bytes; index++) {
    const code = index < text.length ? text.charCodeAt(index) : 0x20;
    to[at + index] = code >= 0x20 && code < 0x7f ? code : 0x3f;
  }
}

// @cold
export function hexOf(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

/** What hexOf() wrote, as bytes; null when the text is not hexadecimal. */
// @cold
export function bytesOfHex(text: string): Uint8Array | null {
  if (!/^(?:[0-9a-f]{2})*$/i.test(text)) return null;
  const bytes = new Uint8Array(text.length / 2);
  for (let index = 0; index < bytes.length; index++) {
    bytes[index] = Number.parseInt(text.slice(2 * index, 2 * index + 2), 16);
  }
  return bytes;
}
