// The structures of a virtio-scsi device (virtio 1.2, section 5.6) as tables, and the numbers that
// the specification gives to their fields.
//
// Invariants:
//  - everything is little-endian, except what SCSI defines (CDBs, LUNs, sense data);
//  - two sizes are the driver's to change: a command request ends with cdb_size bytes of CDB, its
//    response with sense_size bytes of sense data. The tables have the sizes of a reset device.

import { type Layout, layout } from "../base/index.ts";

/** Rings of a device: control, event, then the request queues (5.6.2). */
export const CONTROL_RING = 0;
export const EVENT_RING = 1;
export const FIRST_REQUEST_RING = 2;

// Feature bits (5.6.3).
/** A request may have data in both directions. Not offered. */
export const SCSI_F_INOUT = 0;
/** The device tells of logical units that come and go. */
export const SCSI_F_HOTPLUG = 1;
/** The device tells of parameters that change. */
export const SCSI_F_CHANGE = 2;
/** Protection information. Not offered. */
export const SCSI_F_T10_PI = 3;

// Configuration space (5.6.4) ---------------------------------------------------------------------

const SCSI_CONFIG_FIELDS = {
  num_queues: [0, 4],
  seg_max: [4, 4],
  max_sectors: [8, 4],
  cmd_per_lun: [12, 4],
  event_info_size: [16, 4],
  sense_size: [20, 4],
  cdb_size: [24, 4],
  max_channel: [28, 2],
  max_target: [30, 2],
  max_lun: [32, 4],
} as const;
export const SCSI_CONFIG: Layout<typeof SCSI_CONFIG_FIELDS> = layout(
  "virtio_scsi_config",
  36,
  SCSI_CONFIG_FIELDS,
);

/** What sense_size and cdb_size are after a reset. */
export const SENSE_SIZE_DEFAULT = 96;
export const CDB_SIZE_DEFAULT = 32;

// Request queues (5.6.6.1) ------------------------------------------------------------------------

const COMMAND_REQUEST_FIELDS = {
  lun: [0, 8],
  id: [8, 8],
  task_attr: [16, 1],
  prio: [17, 1],
  crn: [18, 1],
  cdb: [19, 32],
} as const;
/** The beginning of the readable part; data-out follows. */
export const COMMAND_REQUEST: Layout<typeof COMMAND_REQUEST_FIELDS> = layout(
  "virtio_scsi_req_cmd (readable)",
  51,
  COMMAND_REQUEST_FIELDS,
);

const COMMAND_RESPONSE_FIELDS = {
  sense_len: [0, 4],
  residual: [4, 4],
  status_qualifier: [8, 2],
  status: [10, 1],
  response: [11, 1],
  sense: [12, 96],
} as const;
/** The beginning of the writable part; data-in follows. */
export const COMMAND_RESPONSE: Layout<typeof COMMAND_RESPONSE_FIELDS> = layout(
  "virtio_scsi_req_cmd (writable)",
  108,
  COMMAND_RESPONSE_FIELDS,
);

// Control queue (5.6.6.2) -------------------------------------------------------------------------

const TMF_REQUEST_FIELDS = {
  type: [0, 4],
  subtype: [4, 4],
  lun: [8, 8],
  id: [16, 8],
} as const;
export const TMF_REQUEST: Layout<typeof TMF_REQUEST_FIELDS> = layout(
  "virtio_scsi_ctrl_tmf (readable)",
  24,
  TMF_REQUEST_FIELDS,
);

const TMF_RESPONSE_FIELDS = { response: [0, 1] } as const;
export const TMF_RESPONSE: Layout<typeof TMF_RESPONSE_FIELDS> = layout(
  "virtio_scsi_ctrl_tmf (writable)",
  1,
  TMF_RESPONSE_FIELDS,
);

const AN_REQUEST_FIELDS = { type: [0, 4], lun: [4, 8], event_requested: [12, 4] } as const;
/** Asynchronous notification, query and subscription. */
export const AN_REQUEST: Layout<typeof AN_REQUEST_FIELDS> = layout(
  "virtio_scsi_ctrl_an (readable)",
  16,
  AN_REQUEST_FIELDS,
  { packed: true },
);

const AN_RESPONSE_FIELDS = { event_actual: [0, 4], response: [4, 1] } as const;
export const AN_RESPONSE: Layout<typeof AN_RESPONSE_FIELDS> = layout(
  "virtio_scsi_ctrl_an (writable)",
  5,
  AN_RESPONSE_FIELDS,
);

export const SCSI_T_TMF = 0;
export const SCSI_T_AN_QUERY = 1;
export const SCSI_T_AN_SUBSCRIBE = 2;

/** Subtypes of a TMF; the numbers are not those of scsi/. */
export const SCSI_T_TMF_ABORT_TASK = 0;
export const SCSI_T_TMF_ABORT_TASK_SET = 1;
export const SCSI_T_TMF_CLEAR_ACA = 2;
export const SCSI_T_TMF_CLEAR_TASK_SET = 3;
export const SCSI_T_TMF_I_T_NEXUS_RESET = 4;
export const SCSI_T_TMF_LOGICAL_UNIT_RESET = 5;
export const SCSI_T_TMF_QUERY_TASK = 6;
export const SCSI_T_TMF_QUERY_TASK_SET = 7;

// Response codes, of requests and of control requests.
export const SCSI_S_OK = 0;
/** A TMF was performed, or a query found no task. */
export const SCSI_S_FUNCTION_COMPLETE = 0;
export const SCSI_S_OVERRUN = 1;
export const SCSI_S_ABORTED = 2;
export const SCSI_S_BAD_TARGET = 3;
export const SCSI_S_RESET = 4;
export const SCSI_S_FAILURE = 9;
/** A query found the task. */
export const SCSI_S_FUNCTION_SUCCEEDED = 10;
export const SCSI_S_FUNCTION_REJECTED = 11;
export const SCSI_S_INCORRECT_LUN = 12;

// Event queue (5.6.6.3) ---------------------------------------------------------------------------

const EVENT_FIELDS = { event: [0, 4], lun: [4, 8], reason: [12, 4] } as const;
export const EVENT: Layout<typeof EVENT_FIELDS> = layout("virtio_scsi_event", 16, EVENT_FIELDS, {
  packed: true,
});

export const SCSI_T_NO_EVENT = 0;
export const SCSI_T_TRANSPORT_RESET = 1;
export const SCSI_T_PARAM_CHANGE = 3;
/** Set in `event`: others were lost, for want of a buffer. */
export const SCSI_T_EVENTS_MISSED = 0x80000000;

/** Reasons of TRANSPORT_RESET. */
export const SCSI_EVT_RESET_RESCAN = 1;
export const SCSI_EVT_RESET_REMOVED = 2;
