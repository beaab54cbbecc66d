// The vhost-user message set (docs/interop/vhost-user.rst of QEMU): request numbers, header,
// payload layouts, protocol feature bits, and for every request what it must carry and how it is
// answered. One table for both ends: the back-end session checks requests against it, the
// front-end in load/ builds them from it.
//
// Wire format, host byte order (little-endian here):
//
//   0        4        8        12
//   +--------+--------+--------+------------------------+
//   | request| flags  | size   | payload, `size` bytes  |   descriptors travel as SCM_RIGHTS
//   +--------+--------+--------+------------------------+   with the first byte of the message
//
// Numbers are never reused by the specification; names are the specification's without the
// VHOST_USER_ prefix. Values from the wire are outside input: nothing here trusts them.

import type { Layout } from "../base/index.ts";
import { assert, layout } from "../base/index.ts";

// ---------------------------------------------------------------------------------------------
// Header

export const HEADER: Layout<{
  request: readonly [0, 4];
  flags: readonly [4, 4];
  size: readonly [8, 4];
}> = layout("header", 12, { request: [0, 4], flags: [4, 4], size: [8, 4] });

/** Bits 0-1 of the flags: the protocol version, always 1. */
export const FLAG_VERSION_MASK = 3;
export const FLAG_VERSION = 1;
export const FLAG_REPLY = 4;
export const FLAG_NEED_REPLY = 8;
/** Every other bit must be zero. */
export const FLAG_KNOWN_MASK: number = FLAG_VERSION_MASK | FLAG_REPLY | FLAG_NEED_REPLY;
/** The one value QEMU accepts on a reply: version and REPLY, with NEED_REPLY cleared. */
export const REPLY_FLAGS: number = FLAG_VERSION | FLAG_REPLY;

// ---------------------------------------------------------------------------------------------
// Requests from the front-end

export const GET_FEATURES = 1;
export const SET_FEATURES = 2;
export const SET_OWNER = 3;
export const RESET_OWNER = 4;
export const SET_MEM_TABLE = 5;
export const SET_LOG_BASE = 6;
export const SET_LOG_FD = 7;
export const SET_VRING_NUM = 8;
export const SET_VRING_ADDR = 9;
export const SET_VRING_BASE = 10;
export const GET_VRING_BASE = 11;
export const SET_VRING_KICK = 12;
export const SET_VRING_CALL = 13;
export const SET_VRING_ERR = 14;
export const GET_PROTOCOL_FEATURES = 15;
export const SET_PROTOCOL_FEATURES = 16;
export const GET_QUEUE_NUM = 17;
export const SET_VRING_ENABLE = 18;
export const SEND_RARP = 19;
export const NET_SET_MTU = 20;
export const SET_BACKEND_REQ_FD = 21;
export const IOTLB_MSG = 22;
export const SET_VRING_ENDIAN = 23;
export const GET_CONFIG = 24;
export const SET_CONFIG = 25;
export const CREATE_CRYPTO_SESSION = 26;
export const CLOSE_CRYPTO_SESSION = 27;
export const POSTCOPY_ADVISE = 28;
export const POSTCOPY_LISTEN = 29;
export const POSTCOPY_END = 30;
export const GET_INFLIGHT_FD = 31;
export const SET_INFLIGHT_FD = 32;
export const GPU_SET_SOCKET = 33;
export const RESET_DEVICE = 34;
export const VRING_KICK = 35;
export const GET_MAX_MEM_SLOTS = 36;
export const ADD_MEM_REG = 37;
export const REM_MEM_REG = 38;
export const SET_STATUS = 39;
export const GET_STATUS = 40;
export const GET_SHARED_OBJECT = 41;
export const SET_DEVICE_STATE_FD = 42;
export const CHECK_DEVICE_STATE = 43;
export const GET_SHMEM_CONFIG = 44;
/** One past the greatest request number this file knows. */
export const REQUEST_LIMIT = 45;

// Requests from the back-end, on the channel of SET_BACKEND_REQ_FD.

export const BACKEND_IOTLB_MSG = 1;
export const BACKEND_CONFIG_CHANGE_MSG = 2;
export const BACKEND_VRING_HOST_NOTIFIER_MSG = 3;
export const BACKEND_VRING_CALL = 4;
export const BACKEND_VRING_ERR = 5;
export const BACKEND_SHARED_OBJECT_ADD = 6;
export const BACKEND_SHARED_OBJECT_REMOVE = 7;
export const BACKEND_SHARED_OBJECT_LOOKUP = 8;
export const BACKEND_SHMEM_MAP = 9;
export const BACKEND_SHMEM_UNMAP = 10;

// ---------------------------------------------------------------------------------------------
// Feature bits. Device feature bits that belong to vhost, not to virtio, are here too.

/** Device feature bit: dirty-page logging for live migration. */
export const VHOST_F_LOG_ALL = 26;
/** Device feature bit: GET/SET_PROTOCOL_FEATURES exist; if acked, rings start disabled. */
export const VHOST_USER_F_PROTOCOL_FEATURES = 30;

// Protocol feature bits (positions in the u64 of GET_PROTOCOL_FEATURES).

export const PROTOCOL_F_MQ = 0;
export const PROTOCOL_F_LOG_SHMFD = 1;
export const PROTOCOL_F_RARP = 2;
export const PROTOCOL_F_REPLY_ACK = 3;
export const PROTOCOL_F_NET_MTU = 4;
export const PROTOCOL_F_BACKEND_REQ = 5;
export const PROTOCOL_F_CROSS_ENDIAN = 6;
export const PROTOCOL_F_CRYPTO_SESSION = 7;
export const PROTOCOL_F_PAGEFAULT = 8;
export const PROTOCOL_F_CONFIG = 9;
export const PROTOCOL_F_BACKEND_SEND_FD = 10;
export const PROTOCOL_F_HOST_NOTIFIER = 11;
export const PROTOCOL_F_INFLIGHT_SHMFD = 12;
export const PROTOCOL_F_RESET_DEVICE = 13;
/** Never offered by us: QEMU takes the bit and does not implement it. */
export const PROTOCOL_F_INBAND_NOTIFICATIONS = 14;
export const PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15;
export const PROTOCOL_F_STATUS = 16;
/** Never offered by us, for the same reason. */
export const PROTOCOL_F_XEN_MMAP = 17;
export const PROTOCOL_F_SHARED_OBJECT = 18;
export const PROTOCOL_F_DEVICE_STATE = 19;
/** GET_VRING_BASE may park requests in the inflight region instead of finishing them. */
export const PROTOCOL_F_GET_VRING_BASE_INFLIGHT = 20;
export const PROTOCOL_F_GPA_ADDRESSES = 21;
export const PROTOCOL_F_SHMEM = 22;

const PROTOCOL_FEATURE_NAMES: readonly string[] = [
  "MQ",
  "LOG_SHMFD",
  "RARP",
  "REPLY_ACK",
  "NET_MTU",
  "BACKEND_REQ",
  "CROSS_ENDIAN",
  "CRYPTO_SESSION",
  "PAGEFAULT",
  "CONFIG",
  "BACKEND_SEND_FD",
  "HOST_NOTIFIER",
  "INFLIGHT_SHMFD",
  "RESET_DEVICE",
  "INBAND_NOTIFICATIONS",
  "CONFIGURE_MEM_SLOTS",
  "STATUS",
  "XEN_MMAP",
  "SHARED_OBJECT",
  "DEVICE_STATE",
  "GET_VRING_BASE_INFLIGHT",
  "GPA_ADDRESSES",
  "SHMEM",
];

/** `(1 << 0) | (1 << 3)` -> `"MQ REPLY_ACK"`; for logs and error messages. */
export function protocolFeatureNames(bits: number): string {
  const names: string[] = [];
  for (let bit = 0; bit < 53; bit++) {
    if (Math.floor(bits / 2 ** bit) % 2 === 1) {
      names.push(PROTOCOL_FEATURE_NAMES[bit] ?? `bit ${bit}`);
    }
  }
  return names.join(" ");
}

// ---------------------------------------------------------------------------------------------
// Payload layouts

/** GET/SET_VRING_BASE, SET_VRING_NUM, SET_VRING_ENABLE, SET_VRING_ENDIAN, VRING_KICK. */
export const VRING_STATE: Layout<{ index: readonly [0, 4]; num: readonly [4, 4] }> = layout(
  "vring_state",
  8,
  { index: [0, 4], num: [4, 4] },
);

/** SET_VRING_ADDR. Note the order: used before avail. No `size` field, whatever the text says. */
export const VRING_ADDR: Layout<{
  index: readonly [0, 4];
  flags: readonly [4, 4];
  descriptor: readonly [8, 8];
  used: readonly [16, 8];
  available: readonly [24, 8];
  log: readonly [32, 8];
}> = layout("vring_addr", 40, {
  index: [0, 4],
  flags: [4, 4],
  descriptor: [8, 8],
  used: [16, 8],
  available: [24, 8],
  log: [32, 8],
});

/** Bit 0 of VRING_ADDR.flags: writes to the used ring are logged at `log`. */
export const VRING_ADDR_F_LOG = 1;

export const MEMORY_REGION: Layout<{
  guestAddress: readonly [0, 8];
  memorySize: readonly [8, 8];
  userAddress: readonly [16, 8];
  mmapOffset: readonly [24, 8];
}> = layout("memory_region", 32, {
  guestAddress: [0, 8],
  memorySize: [8, 8],
  userAddress: [16, 8],
  mmapOffset: [24, 8],
});

/** SET_MEM_TABLE: the count, then up to 8 regions from `regions`; a short body is legal. */
export const MEM_TABLE: Layout<{
  regionCount: readonly [0, 4];
  padding: readonly [4, 4];
  regions: readonly [8, 256];
}> = layout("mem_table", 264, { regionCount: [0, 4], padding: [4, 4], regions: [8, 256] });

/** ADD_MEM_REG, REM_MEM_REG: one region behind eight bytes of padding. */
export const SINGLE_REGION: Layout<{ padding: readonly [0, 8]; region: readonly [8, 32] }> = layout(
  "single_region",
  40,
  { padding: [0, 8], region: [8, 32] },
);

/** SET_LOG_BASE. */
export const LOG: Layout<{ mmapSize: readonly [0, 8]; mmapOffset: readonly [8, 8] }> = layout(
  "log",
  16,
  { mmapSize: [0, 8], mmapOffset: [8, 8] },
);

/** GET_INFLIGHT_FD, SET_INFLIGHT_FD. */
export const INFLIGHT: Layout<{
  mmapSize: readonly [0, 8];
  mmapOffset: readonly [8, 8];
  queueCount: readonly [16, 2];
  queueSize: readonly [18, 2];
  padding: readonly [20, 4];
}> = layout("inflight", 24, {
  mmapSize: [0, 8],
  mmapOffset: [8, 8],
  queueCount: [16, 2],
  queueSize: [18, 2],
  padding: [20, 4],
});

/** GET_CONFIG, SET_CONFIG: this header, then `size` bytes of configuration space. */
export const CONFIG_HEADER: Layout<{
  offset: readonly [0, 4];
  size: readonly [4, 4];
  flags: readonly [8, 4];
}> = layout("config", 12, { offset: [0, 4], size: [4, 4], flags: [8, 4] });

/** SET_CONFIG flags: 0 = the guest wrote, 1 = state restored by a live migration. */
export const CONFIG_FLAG_MIGRATION = 1;

export const IOTLB: Layout<{
  iova: readonly [0, 8];
  size: readonly [8, 8];
  userAddress: readonly [16, 8];
  permission: readonly [24, 1];
  type: readonly [25, 1];
}> = layout("iotlb", 32, {
  iova: [0, 8],
  size: [8, 8],
  userAddress: [16, 8],
  permission: [24, 1],
  type: [25, 1],
});

/** SET_DEVICE_STATE_FD: direction 0 save, 1 load; phase 0 stopped. */
export const DEVICE_STATE: Layout<{ direction: readonly [0, 4]; phase: readonly [4, 4] }> = layout(
  "device_state",
  8,
  { direction: [0, 4], phase: [4, 4] },
);

/** The u64 of SET_VRING_KICK/CALL/ERR: bits 0-7 the ring, bit 8 = no descriptor comes along. */
export const VRING_FD_INDEX_MASK = 0xff;
export const VRING_FD_NONE = 0x100;

export const U64_BYTES = 8;

// ---------------------------------------------------------------------------------------------
// Limits

/** Regions in one SET_MEM_TABLE, and so descriptors in one message: fixed by the specification. */
export const MEM_TABLE_REGIONS_MAX = 8;
/** Bytes of device configuration space that can be addressed (VHOST_USER_MAX_CONFIG_SIZE). */
export const CONFIG_BYTES_MAX = 256;
/** The greatest payload of any request in the table below: CONFIG_HEADER and a whole config. */
export const PAYLOAD_BYTES_MAX: number = CONFIG_HEADER.BYTES + CONFIG_BYTES_MAX;
export const MESSAGE_BYTES_MAX: number = HEADER.BYTES + PAYLOAD_BYTES_MAX;
/** Rings a KICK, CALL or ERR message can name: its index has eight bits. */
export const VRING_INDEX_LIMIT = 256;
/** The greatest queue size virtio allows. */
export const QUEUE_SIZE_MAX = 32768;

assert(
  MEM_TABLE.BYTES === 8 + MEM_TABLE_REGIONS_MAX * MEMORY_REGION.BYTES,
  "mem_table holds exactly its regions",
);
assert(MEM_TABLE.BYTES <= PAYLOAD_BYTES_MAX, "mem_table fits in the greatest payload");
assert(SINGLE_REGION.BYTES === 8 + MEMORY_REGION.BYTES, "single_region is one region");
assert(VRING_ADDR.used < VRING_ADDR.available, "used comes before avail in vring_addr");

// ---------------------------------------------------------------------------------------------
// What each request carries

/** Answered only by an ack, and that only with REPLY_ACK negotiated and NEED_REPLY set. */
export const ANSWER_ACK = 0;
/** Has a reply of its own, always; NEED_REPLY adds nothing. */
export const ANSWER_REPLY = 1;
/** As ANSWER_REPLY once LOG_SHMFD is negotiated, ANSWER_ACK before (SET_LOG_BASE). */
export const ANSWER_REPLY_IF_LOG_SHMFD = 2;

/** No protocol feature has to be negotiated first. */
export const GATE_NONE = -1;

export interface RequestInfo {
  readonly number: number;
  readonly name: string;
  /** Payload bytes that must be there. */
  readonly payloadBytesMin: number;
  /** Payload bytes that may be there: front-ends send fixed-size bodies with unused tails. */
  readonly payloadBytesMax: number;
  /** Descriptors that may come along; how many must is a matter of the payload. */
  readonly fdCountMax: number;
  readonly answer: number;
  /** Protocol feature bit without which the request must not be sent, or GATE_NONE. */
  readonly gate: number;
}

const U64 = U64_BYTES;
const STATE = VRING_STATE.BYTES;
const REGION = SINGLE_REGION.BYTES;
const CONFIG = CONFIG_HEADER.BYTES;
const ACK = ANSWER_ACK;
const REPLY = ANSWER_REPLY;
const REPLY_IF_LOG = ANSWER_REPLY_IF_LOG_SHMFD;
const SLOTS = PROTOCOL_F_CONFIGURE_MEM_SLOTS;
const INFLIGHT_FD = PROTOCOL_F_INFLIGHT_SHMFD;

type Row = readonly [
  number: number,
  name: string,
  payloadBytesMin: number,
  payloadBytesMax: number,
  fdCountMax: number,
  answer: number,
  gate: number,
];

const ROWS: readonly Row[] = [
  [GET_FEATURES, "GET_FEATURES", 0, 0, 0, REPLY, GATE_NONE],
  [SET_FEATURES, "SET_FEATURES", U64, U64, 0, ACK, GATE_NONE],
  [SET_OWNER, "SET_OWNER", 0, 0, 0, ACK, GATE_NONE],
  [RESET_OWNER, "RESET_OWNER", 0, 0, 0, ACK, GATE_NONE],
  [
    SET_MEM_TABLE,
    "SET_MEM_TABLE",
    8 + MEMORY_REGION.BYTES,
    MEM_TABLE.BYTES,
    MEM_TABLE_REGIONS_MAX,
    ACK,
    GATE_NONE,
  ],
  [SET_LOG_BASE, "SET_LOG_BASE", U64, LOG.BYTES, 1, REPLY_IF_LOG, GATE_NONE],
  [SET_LOG_FD, "SET_LOG_FD", 0, U64, 1, ACK, GATE_NONE],
  [SET_VRING_NUM, "SET_VRING_NUM", STATE, STATE, 0, ACK, GATE_NONE],
  [SET_VRING_ADDR, "SET_VRING_ADDR", VRING_ADDR.BYTES, VRING_ADDR.BYTES, 0, ACK, GATE_NONE],
  [SET_VRING_BASE, "SET_VRING_BASE", STATE, STATE, 0, ACK, GATE_NONE],
  [GET_VRING_BASE, "GET_VRING_BASE", STATE, STATE, 0, REPLY, GATE_NONE],
  [SET_VRING_KICK, "SET_VRING_KICK", U64, U64, 1, ACK, GATE_NONE],
  [SET_VRING_CALL, "SET_VRING_CALL", U64, U64, 1, ACK, GATE_NONE],
  [SET_VRING_ERR, "SET_VRING_ERR", U64, U64, 1, ACK, GATE_NONE],
  [GET_PROTOCOL_FEATURES, "GET_PROTOCOL_FEATURES", 0, 0, 0, REPLY, GATE_NONE],
  [SET_PROTOCOL_FEATURES, "SET_PROTOCOL_FEATURES", U64, U64, 0, ACK, GATE_NONE],
  [GET_QUEUE_NUM, "GET_QUEUE_NUM", 0, 0, 0, REPLY, PROTOCOL_F_MQ],
  [SET_VRING_ENABLE, "SET_VRING_ENABLE", STATE, STATE, 0, ACK, GATE_NONE],
  [SEND_RARP, "SEND_RARP", U64, U64, 0, ACK, PROTOCOL_F_RARP],
  [NET_SET_MTU, "NET_SET_MTU", U64, U64, 0, ACK, PROTOCOL_F_NET_MTU],
  [SET_BACKEND_REQ_FD, "SET_BACKEND_REQ_FD", 0, U64, 1, ACK, PROTOCOL_F_BACKEND_REQ],
  [IOTLB_MSG, "IOTLB_MSG", IOTLB.BYTES, IOTLB.BYTES, 0, REPLY, GATE_NONE],
  [SET_VRING_ENDIAN, "SET_VRING_ENDIAN", STATE, STATE, 0, ACK, PROTOCOL_F_CROSS_ENDIAN],
  [GET_CONFIG, "GET_CONFIG", CONFIG, PAYLOAD_BYTES_MAX, 0, REPLY, PROTOCOL_F_CONFIG],
  [SET_CONFIG, "SET_CONFIG", CONFIG, PAYLOAD_BYTES_MAX, 0, ACK, PROTOCOL_F_CONFIG],
  [GET_INFLIGHT_FD, "GET_INFLIGHT_FD", INFLIGHT.BYTES, INFLIGHT.BYTES, 0, REPLY, INFLIGHT_FD],
  [SET_INFLIGHT_FD, "SET_INFLIGHT_FD", INFLIGHT.BYTES, INFLIGHT.BYTES, 1, ACK, INFLIGHT_FD],
  [RESET_DEVICE, "RESET_DEVICE", 0, 0, 0, ACK, PROTOCOL_F_RESET_DEVICE],
  [VRING_KICK, "VRING_KICK", STATE, STATE, 0, ACK, PROTOCOL_F_INBAND_NOTIFICATIONS],
  [GET_MAX_MEM_SLOTS, "GET_MAX_MEM_SLOTS", 0, 0, 0, REPLY, SLOTS],
  [ADD_MEM_REG, "ADD_MEM_REG", REGION, REGION, 1, ACK, SLOTS],
  // The descriptor is not part of the message, but front-ends have sent one: close it.
  [REM_MEM_REG, "REM_MEM_REG", REGION, REGION, 1, ACK, SLOTS],
  [SET_STATUS, "SET_STATUS", U64, U64, 0, ACK, PROTOCOL_F_STATUS],
  [GET_STATUS, "GET_STATUS", 0, 0, 0, REPLY, PROTOCOL_F_STATUS],
  // Never offered by us; listed so that logs can name them and so that nothing leaks with them.
  [CREATE_CRYPTO_SESSION, "CREATE_CRYPTO_SESSION", 0, PAYLOAD_BYTES_MAX, 0, REPLY, 7],
  [CLOSE_CRYPTO_SESSION, "CLOSE_CRYPTO_SESSION", U64, U64, 0, ACK, 7],
  [POSTCOPY_ADVISE, "POSTCOPY_ADVISE", 0, 0, 0, REPLY, PROTOCOL_F_PAGEFAULT],
  [POSTCOPY_LISTEN, "POSTCOPY_LISTEN", 0, 0, 0, ACK, PROTOCOL_F_PAGEFAULT],
  [POSTCOPY_END, "POSTCOPY_END", 0, 0, 0, REPLY, PROTOCOL_F_PAGEFAULT],
  [GPU_SET_SOCKET, "GPU_SET_SOCKET", 0, 0, 1, ACK, GATE_NONE],
  [GET_SHARED_OBJECT, "GET_SHARED_OBJECT", 16, 16, 0, REPLY, PROTOCOL_F_SHARED_OBJECT],
  [
    SET_DEVICE_STATE_FD,
    "SET_DEVICE_STATE_FD",
    DEVICE_STATE.BYTES,
    DEVICE_STATE.BYTES,
    1,
    REPLY,
    PROTOCOL_F_DEVICE_STATE,
  ],
  [CHECK_DEVICE_STATE, "CHECK_DEVICE_STATE", 0, 0, 0, REPLY, PROTOCOL_F_DEVICE_STATE],
  [GET_SHMEM_CONFIG, "GET_SHMEM_CONFIG", 0, 0, 0, REPLY, PROTOCOL_F_SHMEM],
];

const REQUESTS: readonly (RequestInfo | undefined)[] = (() => {
  const table = new Array<RequestInfo | undefined>(REQUEST_LIMIT).fill(undefined);
  for (const [number, name, payloadBytesMin, payloadBytesMax, fdCountMax, answer, gate] of ROWS) {
    assert(table[number] === undefined, "a request number is listed twice");
    assert(payloadBytesMin <= payloadBytesMax, "payload minimum above its maximum");
    table[number] = { number, name, payloadBytesMin, payloadBytesMax, fdCountMax, answer, gate };
  }
  for (let number = 1; number < REQUEST_LIMIT; number++) {
    assert(table[number] !== undefined, "a request number is missing from the table");
  }
  return table;
})();

/** What request `number` carries, or undefined when the specification has no such request. */
export function requestInfo(number: number): RequestInfo | undefined {
  return number < REQUEST_LIMIT ? REQUESTS[number] : undefined;
}

/** For logs: `"SET_MEM_TABLE"`, or `"request 99"` for a number nobody knows. */
export function requestName(number: number): string {
  return requestInfo(number)?.name ?? `request ${number}`;
}

const BACKEND_REQUEST_NAMES: readonly string[] = [
  "",
  "IOTLB_MSG",
  "CONFIG_CHANGE_MSG",
  "VRING_HOST_NOTIFIER_MSG",
  "VRING_CALL",
  "VRING_ERR",
  "SHARED_OBJECT_ADD",
  "SHARED_OBJECT_REMOVE",
  "SHARED_OBJECT_LOOKUP",
  "SHMEM_MAP",
  "SHMEM_UNMAP",
];

/** As requestName, for the back-end's own requests. */
export function backendRequestName(number: number): string {
  const name = BACKEND_REQUEST_NAMES[number];
  return name === undefined || name === "" ? `back-end request ${number}` : name;
}
