// TransportIDs (SPC-4 7.6.4): how persistent reservations name initiator ports.

import { putU16 } from "../base/index.ts";
import { hexOf, putAscii } from "./bytes.ts";

const PROTOCOL_ISCSI = 0x05;
const FORMAT_PORT = 0x40;
const HEADER_BYTES = 4;
/** ADDITIONAL LENGTH is at least this, and a multiple of 4. */
const NAME_BYTES_MIN = 20;

/**
 * TransportID of an iSCSI initiator port, format 01b: the initiator's name (at most 223 ASCII
 * characters), and its ISID of 6 bytes. Registrations belong to this pair.
 */
export function iscsiTransportId(name: string, isid: Uint8Array): Uint8Array {
  const text = `${name},i,0x${hexOf(isid)}`;
  // Ended by NUL, padded to whole words.
  const bytes = Math.max(NAME_BYTES_MIN, (text.length + 4) & ~3);
  const id = new Uint8Array(HEADER_BYTES + bytes);
  id[0] = FORMAT_PORT | PROTOCOL_ISCSI;
  putU16(id, 2, bytes);
  putAscii(id, HEADER_BYTES, text.length, text);
  return id;
}
