// io_uring's shared structures and constants, from the kernel's uapi header linux/io_uring.h.

import { type Layout, layout } from "../base/index.ts";

export const SYS_IO_URING_SETUP = 425;
export const SYS_IO_URING_ENTER = 426;
export const SYS_IO_URING_REGISTER = 427;

const PARAMS_FIELDS = {
  sqEntries: [0, 4],
  cqEntries: [4, 4],
  flags: [8, 4],
  sqThreadCpu: [12, 4],
  sqThreadIdle: [16, 4],
  features: [20, 4],
  wqFd: [24, 4],
  sqHead: [40, 4],
  sqTail: [44, 4],
  sqRingMask: [48, 4],
  sqRingEntries: [52, 4],
  sqFlags: [56, 4],
  sqDropped: [60, 4],
  sqArray: [64, 4],
  cqHead: [80, 4],
  cqTail: [84, 4],
  cqRingMask: [88, 4],
  cqRingEntries: [92, 4],
  cqOverflow: [96, 4],
  cqCqes: [100, 4],
  cqFlags: [104, 4],
} as const;
export const PARAMS: Layout<typeof PARAMS_FIELDS> = layout("io_uring_params", 120, PARAMS_FIELDS);

const SQE_FIELDS = {
  opcode: [0, 1],
  flags: [1, 1],
  ioprio: [2, 2],
  fd: [4, 4],
  off: [8, 8],
  addr: [16, 8],
  len: [24, 4],
  opFlags: [28, 4],
  userData: [32, 8],
  bufIndex: [40, 2],
  personality: [42, 2],
  fileIndex: [44, 4],
  addr3: [48, 8],
  pad: [56, 8],
} as const;
export const SQE: Layout<typeof SQE_FIELDS> = layout("io_uring_sqe", 64, SQE_FIELDS);

const CQE_FIELDS = { userData: [0, 8], res: [8, 4], flags: [12, 4] } as const;
export const CQE: Layout<typeof CQE_FIELDS> = layout("io_uring_cqe", 16, CQE_FIELDS);

export const OFF_SQ_RING = 0;
export const OFF_CQ_RING = 0x8000000;
export const OFF_SQES = 0x10000000;

/** The kernel's limits on a ring (IORING_MAX_ENTRIES, IORING_MAX_CQ_ENTRIES). */
export const SQ_ENTRIES_MAX = 32768;
export const CQ_ENTRIES_MAX: number = 2 * SQ_ENTRIES_MAX;

export const SETUP_CQSIZE: number = 1 << 3;
export const SETUP_SUBMIT_ALL: number = 1 << 7;
export const SETUP_COOP_TASKRUN: number = 1 << 8;
export const SETUP_TASKRUN_FLAG: number = 1 << 9;
export const SETUP_SINGLE_ISSUER: number = 1 << 12;
export const SETUP_DEFER_TASKRUN: number = 1 << 13;

export const FEAT_SINGLE_MMAP: number = 1 << 0;
export const FEAT_NODROP: number = 1 << 1;
export const FEAT_RW_CUR_POS: number = 1 << 3;
export const FEAT_EXT_ARG: number = 1 << 8;

export const ENTER_GETEVENTS = 1;
export const ENTER_EXT_ARG = 8;

export const SQ_CQ_OVERFLOW = 2;
export const SQ_TASKRUN = 4;

export const REGISTER_PROBE = 8;
export const REGISTER_FILES2 = 13;
export const REGISTER_FILES_UPDATE = 6;
export const RSRC_REGISTER_SPARSE = 1;

export const IOSQE_FIXED_FILE = 1;
export const IOSQE_ASYNC = 16;

export const OP_NOP = 0;
export const OP_READV = 1;
export const OP_WRITEV = 2;
export const OP_FSYNC = 3;
export const OP_POLL_ADD = 6;
export const OP_SENDMSG = 9;
export const OP_TIMEOUT = 11;
export const OP_ACCEPT = 13;
export const OP_ASYNC_CANCEL = 14;
export const OP_CONNECT = 16;
export const OP_FALLOCATE = 17;
export const OP_READ = 22;
export const OP_WRITE = 23;
export const OP_RECV = 27;

export const FSYNC_DATASYNC = 1;
export const POLL_ADD_MULTI = 1;
export const CQE_F_MORE = 2;

/** Names for error messages: which kernel feature is missing. */
export const OP_NAMES: ReadonlyMap<number, string> = new Map([
  [OP_NOP, "NOP"],
  [OP_READV, "READV"],
  [OP_WRITEV, "WRITEV"],
  [OP_FSYNC, "FSYNC"],
  [OP_POLL_ADD, "POLL_ADD"],
  [OP_SENDMSG, "SENDMSG"],
  [OP_ACCEPT, "ACCEPT"],
  [OP_ASYNC_CANCEL, "ASYNC_CANCEL"],
  [OP_CONNECT, "CONNECT"],
  [OP_FALLOCATE, "FALLOCATE"],
  [OP_READ, "READ"],
  [OP_WRITE, "WRITE"],
  [OP_RECV, "RECV"],
]);
