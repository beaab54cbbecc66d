// The protocol data units of iSCSI, as tables, and the numbers that RFC 7143 (sections 11 and 13)
// gives to their fields.
//
// Invariants:
// - every field is big-endian; a basic header segment (BHS) has 48 bytes, whatever the opcode;
// - DataSegmentLength has 24 bits and shares its word with TotalAHSLength;
// - numbers here are the specification's; our own limits are in limits.ts.

import { type FieldTable, type Layout, layout } from "../base/index.ts";

export const BHS_BYTES = 48;
export const DIGEST_BYTES = 4;
/** The initiator task tag, or the target transfer tag, of what has none. */
export const RESERVED_TAG = 0xffffffff;

/** Every PDU. */
const COMMON = {
  opcode: [0, 1],
  flags: [1, 1],
  totalAhsLength: [4, 1],
  dataSegmentLength: [5, 3],
  initiatorTaskTag: [16, 4],
} as const;
/** Every PDU but those of a login, which have the session's name in its place. */
const UNIT = { lun: [8, 8] } as const;
const NAME = { isid: [8, 6], tsih: [14, 2] } as const;
const TRANSFER_TAG = { targetTransferTag: [20, 4] } as const;
/** Requests that are counted. */
const REQUEST = { cmdSn: [24, 4], expStatSn: [28, 4] } as const;
/** Whatever a target says. */
const ANSWER = { statSn: [24, 4], expCmdSn: [28, 4], maxCmdSn: [32, 4] } as const;

type Pdu<T extends FieldTable> = Layout<typeof COMMON & T>;

function pdu<const T extends FieldTable>(name: string, fields: T): Pdu<T> {
  return layout(name, BHS_BYTES, { ...COMMON, ...fields });
}

export const BHS: Pdu<typeof UNIT> = pdu("BHS", UNIT);

const SCSI_COMMAND_FIELDS = {
  expectedDataTransferLength: [20, 4],
  cdb: [32, 16],
} as const;
/** 11.3 */
export const SCSI_COMMAND: Pdu<typeof UNIT & typeof REQUEST & typeof SCSI_COMMAND_FIELDS> = pdu(
  "SCSI Command",
  { ...UNIT, ...REQUEST, ...SCSI_COMMAND_FIELDS },
);

const SCSI_RESPONSE_FIELDS = {
  response: [2, 1],
  status: [3, 1],
  expDataSn: [36, 4],
  bidirectionalResidualCount: [40, 4],
  residualCount: [44, 4],
} as const;
/** 11.4; `targetTransferTag` is the SNACK tag here. */
export const SCSI_RESPONSE: Pdu<
  typeof UNIT & typeof TRANSFER_TAG & typeof ANSWER & typeof SCSI_RESPONSE_FIELDS
> = pdu("SCSI Response", { ...UNIT, ...TRANSFER_TAG, ...ANSWER, ...SCSI_RESPONSE_FIELDS });

const TASK_REQUEST_FIELDS = {
  referencedTaskTag: [20, 4],
  refCmdSn: [32, 4],
  expDataSn: [36, 4],
} as const;
/** 11.5 */
export const TASK_REQUEST: Pdu<typeof UNIT & typeof REQUEST & typeof TASK_REQUEST_FIELDS> = pdu(
  "Task Management Function Request",
  { ...UNIT, ...REQUEST, ...TASK_REQUEST_FIELDS },
);

const TASK_RESPONSE_FIELDS = {
  response: [2, 1],
} as const;
/** 11.6 */
export const TASK_RESPONSE: Pdu<
  typeof UNIT & typeof TRANSFER_TAG & typeof ANSWER & typeof TASK_RESPONSE_FIELDS
> = pdu("Task Management Function Response", {
  ...UNIT,
  ...TRANSFER_TAG,
  ...ANSWER,
  ...TASK_RESPONSE_FIELDS,
});

const DATA_OUT_FIELDS = {
  expStatSn: [28, 4],
  dataSn: [36, 4],
  bufferOffset: [40, 4],
} as const;
/** 11.7 */
export const DATA_OUT: Pdu<typeof UNIT & typeof TRANSFER_TAG & typeof DATA_OUT_FIELDS> = pdu(
  "SCSI Data-Out",
  { ...UNIT, ...TRANSFER_TAG, ...DATA_OUT_FIELDS },
);

const DATA_IN_FIELDS = {
  status: [3, 1],
  dataSn: [36, 4],
  bufferOffset: [40, 4],
  residualCount: [44, 4],
} as const;
/** 11.7 */
export const DATA_IN: Pdu<
  typeof UNIT & typeof TRANSFER_TAG & typeof ANSWER & typeof DATA_IN_FIELDS
> = pdu("SCSI Data-In", { ...UNIT, ...TRANSFER_TAG, ...ANSWER, ...DATA_IN_FIELDS });

const R2T_FIELDS = {
  r2tSn: [36, 4],
  bufferOffset: [40, 4],
  desiredDataTransferLength: [44, 4],
} as const;
/** 11.8 */
export const R2T: Pdu<typeof UNIT & typeof TRANSFER_TAG & typeof ANSWER & typeof R2T_FIELDS> = pdu(
  "Ready To Transfer",
  { ...UNIT, ...TRANSFER_TAG, ...ANSWER, ...R2T_FIELDS },
);

const ASYNC_FIELDS = {
  asyncEvent: [36, 1],
  asyncVCode: [37, 1],
  parameter1: [38, 2],
  parameter2: [40, 2],
  parameter3: [42, 2],
} as const;
/** 11.9 */
export const ASYNC_MESSAGE: Pdu<typeof UNIT & typeof ANSWER & typeof ASYNC_FIELDS> = pdu(
  "Asynchronous Message",
  { ...UNIT, ...ANSWER, ...ASYNC_FIELDS },
);

/** 11.10; NOP-Out (11.18) has the same fields. */
export const TEXT_REQUEST: Pdu<typeof UNIT & typeof TRANSFER_TAG & typeof REQUEST> = pdu(
  "Text Request",
  { ...UNIT, ...TRANSFER_TAG, ...REQUEST },
);

/** 11.11; NOP-In (11.19) has the same fields. */
export const TEXT_RESPONSE: Pdu<typeof UNIT & typeof TRANSFER_TAG & typeof ANSWER> = pdu(
  "Text Response",
  { ...UNIT, ...TRANSFER_TAG, ...ANSWER },
);

const LOGIN_REQUEST_FIELDS = {
  versionMax: [2, 1],
  versionMin: [3, 1],
  cid: [20, 2],
} as const;
/** 11.12 */
export const LOGIN_REQUEST: Pdu<typeof NAME & typeof REQUEST & typeof LOGIN_REQUEST_FIELDS> = pdu(
  "Login Request",
  { ...NAME, ...REQUEST, ...LOGIN_REQUEST_FIELDS },
);

const LOGIN_RESPONSE_FIELDS = {
  versionMax: [2, 1],
  versionActive: [3, 1],
  statusClass: [36, 1],
  statusDetail: [37, 1],
} as const;
/** 11.13 */
export const LOGIN_RESPONSE: Pdu<typeof NAME & typeof ANSWER & typeof LOGIN_RESPONSE_FIELDS> = pdu(
  "Login Response",
  { ...NAME, ...ANSWER, ...LOGIN_RESPONSE_FIELDS },
);

const LOGOUT_REQUEST_FIELDS = {
  cid: [20, 2],
} as const;
/** 11.14; the reason is in the low 7 bits of the flags. */
export const LOGOUT_REQUEST: Pdu<typeof UNIT & typeof REQUEST & typeof LOGOUT_REQUEST_FIELDS> = pdu(
  "Logout Request",
  { ...UNIT, ...REQUEST, ...LOGOUT_REQUEST_FIELDS },
);

const LOGOUT_RESPONSE_FIELDS = {
  response: [2, 1],
  time2Wait: [40, 2],
  time2Retain: [42, 2],
} as const;
/** 11.15 */
export const LOGOUT_RESPONSE: Pdu<typeof UNIT & typeof ANSWER & typeof LOGOUT_RESPONSE_FIELDS> =
  pdu("Logout Response", { ...UNIT, ...ANSWER, ...LOGOUT_RESPONSE_FIELDS });

const REJECT_FIELDS = {
  reason: [2, 1],
  dataSn: [36, 4],
} as const;
/** 11.17; the data segment is the header that was refused. */
export const REJECT: Pdu<typeof UNIT & typeof TRANSFER_TAG & typeof ANSWER & typeof REJECT_FIELDS> =
  pdu("Reject", { ...UNIT, ...TRANSFER_TAG, ...ANSWER, ...REJECT_FIELDS });

// Opcodes (11.2.1.2) -----------------------------------------------------------------------------

/** Bit of the opcode byte: delivered at once, takes no CmdSN. */
export const IMMEDIATE = 0x40;
export const OPCODE_MASK = 0x3f;
export const OP_NOP_OUT = 0x00;
export const OP_SCSI_COMMAND = 0x01;
export const OP_TASK_REQUEST = 0x02;
export const OP_LOGIN_REQUEST = 0x03;
export const OP_TEXT_REQUEST = 0x04;
export const OP_DATA_OUT = 0x05;
export const OP_LOGOUT_REQUEST = 0x06;
export const OP_SNACK = 0x10;
export const OP_NOP_IN = 0x20;
export const OP_SCSI_RESPONSE = 0x21;
export const OP_TASK_RESPONSE = 0x22;
export const OP_LOGIN_RESPONSE = 0x23;
export const OP_TEXT_RESPONSE = 0x24;
export const OP_DATA_IN = 0x25;
export const OP_LOGOUT_RESPONSE = 0x26;
export const OP_R2T = 0x31;
export const OP_ASYNC_MESSAGE = 0x32;
export const OP_REJECT = 0x3f;

// Flags ------------------------------------------------------------------------------------------

export const FLAG_FINAL = 0x80;
/** Text and login: more of this text follows. */
export const FLAG_CONTINUE = 0x40;
export const COMMAND_READ = 0x40;
export const COMMAND_WRITE = 0x20;
export const COMMAND_ATTRIBUTE_MASK = 0x07;
/** Data-In: the status is in this PDU too. */
export const DATA_STATUS = 0x01;
export const RESIDUAL_OVERFLOW = 0x04;
export const RESIDUAL_UNDERFLOW = 0x02;
export const BIDIRECTIONAL_UNDERFLOW = 0x08;

export const LOGIN_TRANSIT = 0x80;
export const LOGIN_CSG_SHIFT = 2;
export const LOGIN_STAGE_MASK = 3;
export const STAGE_SECURITY = 0;
export const STAGE_OPERATIONAL = 1;
export const STAGE_FULL_FEATURE = 3;

/** Type of an additional header segment that continues a CDB of more than 16 bytes (11.2.2). */
export const AHS_EXTENDED_CDB = 1;

// Answers ----------------------------------------------------------------------------------------

/** Login status: class in the high byte, detail in the low one (11.13.5). */
export const LOGIN_SUCCESS = 0x0000;
export const LOGIN_MOVED_TEMPORARILY = 0x0101;
export const LOGIN_MOVED_PERMANENTLY = 0x0102;
export const LOGIN_INITIATOR_ERROR = 0x0200;
export const LOGIN_AUTHENTICATION_FAILURE = 0x0201;
export const LOGIN_AUTHORIZATION_FAILURE = 0x0202;
export const LOGIN_NOT_FOUND = 0x0203;
export const LOGIN_TARGET_REMOVED = 0x0204;
export const LOGIN_UNSUPPORTED_VERSION = 0x0205;
export const LOGIN_TOO_MANY_CONNECTIONS = 0x0206;
export const LOGIN_MISSING_PARAMETER = 0x0207;
export const LOGIN_SESSION_TYPE_NOT_SUPPORTED = 0x0209;
export const LOGIN_SESSION_DOES_NOT_EXIST = 0x020a;
export const LOGIN_INVALID_DURING_LOGIN = 0x020b;
export const LOGIN_SERVICE_UNAVAILABLE = 0x0301;
export const LOGIN_OUT_OF_RESOURCES = 0x0302;

/** 11.17.1 */
export const REJECT_DATA_DIGEST = 0x02;
export const REJECT_SNACK = 0x03;
export const REJECT_PROTOCOL_ERROR = 0x04;
export const REJECT_NOT_SUPPORTED = 0x05;
export const REJECT_TOO_MANY_IMMEDIATE = 0x06;
export const REJECT_TASK_IN_PROGRESS = 0x07;
export const REJECT_INVALID_FIELD = 0x09;

/** 11.5.1 */
export const TMF_ABORT_TASK = 1;
export const TMF_ABORT_TASK_SET = 2;
export const TMF_CLEAR_ACA = 3;
export const TMF_CLEAR_TASK_SET = 4;
export const TMF_LUN_RESET = 5;
export const TMF_WARM_RESET = 6;
export const TMF_COLD_RESET = 7;
export const TMF_TASK_REASSIGN = 8;

/** 11.6.1 */
export const TMF_COMPLETE = 0;
export const TMF_NO_TASK = 1;
export const TMF_NO_LUN = 2;
export const TMF_NO_REASSIGNMENT = 4;
export const TMF_NOT_SUPPORTED = 5;
export const TMF_REJECTED = 255;

/** 11.9.1 */
export const ASYNC_SCSI_EVENT = 0;
export const ASYNC_LOGOUT_REQUEST = 1;
export const ASYNC_DROP_CONNECTION = 2;
export const ASYNC_DROP_ALL_CONNECTIONS = 3;
export const ASYNC_NEGOTIATE = 4;

/** 11.14.1 */
export const LOGOUT_CLOSE_SESSION = 0;
export const LOGOUT_CLOSE_CONNECTION = 1;
export const LOGOUT_FOR_RECOVERY = 2;
/** 11.15.1 */
export const LOGOUT_SUCCESS = 0;
export const LOGOUT_NO_CID = 1;
export const LOGOUT_NO_RECOVERY = 2;
