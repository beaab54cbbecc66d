// Sense data (SPC-4 4.5): the codes that this device server reports, and how they are laid out in
// fixed and in descriptor format.
//
// A code is one number: sense key << 16 | ASC << 8 | ASCQ.
//
// Invariants: the sense data of a task never exceeds SENSE_BYTES_MAX; INFORMATION that does not
// fit in the four bytes of the fixed format is left out there (VALID 0), never cut.

import {
  EBADMSG,
  EFAULT,
  EILSEQ,
  EINVAL,
  EIO,
  ENOSPC,
  EOPNOTSUPP,
  EROFS,
  high32,
  type Layout,
  layout,
  putU24,
  putU32,
} from "../base/index.ts";

const FIXED_SENSE_FIELDS = {
  response_code: [0, 1],
  sense_key: [2, 1],
  information: [3, 4],
  additional_sense_length: [7, 1],
  command_specific_information: [8, 4],
  asc: [12, 1],
  ascq: [13, 1],
  field_replaceable_unit: [14, 1],
  sense_key_specific: [15, 3],
} as const;
const FIXED_SENSE: Layout<typeof FIXED_SENSE_FIELDS> = layout(
  "fixed format sense data",
  18,
  FIXED_SENSE_FIELDS,
  { packed: true },
);

const DESCRIPTOR_SENSE_FIELDS = {
  response_code: [0, 1],
  sense_key: [1, 1],
  asc: [2, 1],
  ascq: [3, 1],
  additional_sense_length: [7, 1],
} as const;
const DESCRIPTOR_SENSE: Layout<typeof DESCRIPTOR_SENSE_FIELDS> = layout(
  "descriptor format sense data",
  8,
  DESCRIPTOR_SENSE_FIELDS,
);
const INFORMATION_DESCRIPTOR_BYTES = 12;
const KEY_SPECIFIC_DESCRIPTOR_BYTES = 8;

const VALID = 0x80;

export const SENSE_NONE = 0;
export const SENSE_BECOMING_READY = 0x020401;
export const SENSE_STANDBY = 0x02040b;
export const SENSE_UNAVAILABLE = 0x02040c;
export const SENSE_TRANSITION = 0x02040a;
export const SENSE_NO_MEDIUM = 0x023a00;
const SENSE_READ_ERROR = 0x031100;
const SENSE_WRITE_ERROR = 0x030c00;
export const SENSE_PARAMETER_LENGTH = 0x051a00;
export const SENSE_INVALID_OPCODE = 0x052000;
export const SENSE_OUT_OF_RANGE = 0x052100;
export const SENSE_INVALID_FIELD_IN_CDB = 0x052400;
export const SENSE_LUN_NOT_SUPPORTED = 0x052500;
export const SENSE_INVALID_FIELD_IN_PARAMETERS = 0x052600;
export const SENSE_INVALID_RELEASE = 0x052604;
export const SENSE_TOO_MANY_TARGETS = 0x052606;
export const SENSE_UNSUPPORTED_TARGET = 0x052607;
export const SENSE_TOO_MANY_SEGMENTS = 0x052608;
export const SENSE_UNSUPPORTED_SEGMENT = 0x052609;
export const SENSE_SAVING_NOT_SUPPORTED = 0x053900;
export const SENSE_REMOVAL_PREVENTED = 0x055302;
export const SENSE_NO_REGISTRATION_ROOM = 0x055504;
export const SENSE_WRITE_PROTECTED = 0x072700;
const SENSE_NO_SPACE = 0x072707;
export const SENSE_COPY_NOT_REACHABLE = 0x0a0d02;
export const SENSE_COPY_RANGE = 0x0a0000;
export const SENSE_COPY_FAILED = 0x0a0d01;
export const SENSE_ABORTED = 0x0b0000;
export const SENSE_INFORMATION_UNIT = 0x050e03;
export const SENSE_DATA_PHASE = 0x0b4b00;
export const SENSE_NO_RESOURCES = 0x0b5503;
export const SENSE_MISCOMPARE = 0x0e1d00;

// Unit attentions: ASC << 8 | ASCQ.
export const UA_POWER_ON = 0x2900;
export const UA_BUS_DEVICE_RESET = 0x2903;
export const UA_NEXUS_LOSS = 0x2907;
export const UA_MODE_PARAMETERS_CHANGED = 0x2a01;
export const UA_RESERVATIONS_PREEMPTED = 0x2a03;
export const UA_RESERVATIONS_RELEASED = 0x2a04;
export const UA_REGISTRATIONS_PREEMPTED = 0x2a05;
export const UA_ACCESS_STATE_CHANGED = 0x2a06;
export const UA_CAPACITY_CHANGED = 0x2a09;
export const UA_MEDIUM_CHANGED = 0x2800;
export const UA_THIN_THRESHOLD = 0x3807;
export const UA_LUNS_CHANGED = 0x3f0e;
export const UA_INQUIRY_CHANGED = 0x3f03;

/** The sense code for what a device answered to a read or a write: `result` < 0. */
export function senseOfResult(result: number, isRead: boolean): number {
  switch (-result) {
    case EROFS:
      return SENSE_WRITE_PROTECTED;
    case ENOSPC:
      return SENSE_NO_SPACE;
    case EFAULT:
      return SENSE_DATA_PHASE;
    case EIO:
    case EILSEQ:
    case EBADMSG:
      return isRead ? SENSE_READ_ERROR : SENSE_WRITE_ERROR;
    case EINVAL:
    case EOPNOTSUPP:
      return SENSE_INVALID_FIELD_IN_CDB;
    default:
      // The device could not say: the initiator may try again.
      return SENSE_ABORTED;
  }
}

/**
 * The three sense key specific bytes that point at a field (SPC-4 4.5.2.4.2): SKSV, C/D, and the
 * bit pointer where `bit` >= 0. 0 is none.
 */
export function fieldPointer(isCdb: boolean, byte: number, bit: number): number {
  const head = 0x80 | (isCdb ? 0x40 : 0) | (bit >= 0 ? 0x08 | bit : 0);
  return (head << 16) | (byte & 0xffff);
}

/**
 * Writes sense data at `at`. `information` < 0 is none. Returns the bytes written, at most
 * SENSE_BYTES_MAX.
 */
export function writeSense(
  to: Uint8Array,
  at: number,
  isDescriptor: boolean,
  code: number,
  information: number,
  keySpecific: number,
): number {
  return isDescriptor
    ? writeDescriptors(to, at, code, information, keySpecific)
    : writeFixed(to, at, code, information, keySpecific);
}

function writeFixed(
  to: Uint8Array,
  at: number,
  code: number,
  information: number,
  keySpecific: number,
): number {
  to.fill(0, at, at + FIXED_SENSE.BYTES);
  to[at + FIXED_SENSE.response_code] = 0x70;
  to[at + FIXED_SENSE.sense_key] = (code >>> 16) & 0xf;
  if (information >= 0 && information <= 0xffffffff) {
    to[at + FIXED_SENSE.response_code] = 0x70 | VALID;
    putU32(to, at + FIXED_SENSE.information, information);
  }
  to[at + FIXED_SENSE.additional_sense_length] = FIXED_SENSE.BYTES - 8;
  to[at + FIXED_SENSE.asc] = code >>> 8;
  to[at + FIXED_SENSE.ascq] = code;
  putU24(to, at + FIXED_SENSE.sense_key_specific, keySpecific);
  return FIXED_SENSE.BYTES;
}

function writeDescriptors(
  to: Uint8Array,
  at: number,
  code: number,
  information: number,
  keySpecific: number,
): number {
  to.fill(0, at, at + DESCRIPTOR_SENSE.BYTES);
  to[at + DESCRIPTOR_SENSE.response_code] = 0x72;
  to[at + DESCRIPTOR_SENSE.sense_key] = (code >>> 16) & 0xf;
  to[at + DESCRIPTOR_SENSE.asc] = code >>> 8;
  to[at + DESCRIPTOR_SENSE.ascq] = code;
  let bytes: number = DESCRIPTOR_SENSE.BYTES;
  if (information >= 0) {
    const descriptor = at + bytes;
    to.fill(0, descriptor, descriptor + INFORMATION_DESCRIPTOR_BYTES);
    to[descriptor] = 0x00;
    to[descriptor + 1] = INFORMATION_DESCRIPTOR_BYTES - 2;
    to[descriptor + 2] = VALID;
    putU32(to, descriptor + 4, high32(information));
    putU32(to, descriptor + 8, information);
    bytes += INFORMATION_DESCRIPTOR_BYTES;
  }
  if (keySpecific !== 0) {
    const descriptor = at + bytes;
    to.fill(0, descriptor, descriptor + KEY_SPECIFIC_DESCRIPTOR_BYTES);
    to[descriptor] = 0x02;
    to[descriptor + 1] = KEY_SPECIFIC_DESCRIPTOR_BYTES - 2;
    putU24(to, descriptor + 4, keySpecific);
    bytes += KEY_SPECIFIC_DESCRIPTOR_BYTES;
  }
  to[at + DESCRIPTOR_SENSE.additional_sense_length] = bytes - DESCRIPTOR_SENSE.BYTES;
  return bytes;
}
