// The C library, bound once per thread through koffi. Only this room loads koffi, so that it can
// be exchanged for a built-in foreign-function interface later.
//
// Rules of these bindings:
//  - addresses are JS numbers (user addresses stay below 2^47), declared as int64_t, never
//    pointers: koffi would turn those into BigInt, which allocates;
//  - results of calls that can fail are turned into `>= 0` or a negated errno by `ret`.

import koffi from "koffi";

const libc = koffi.load("libc.so.6");

/** A bound C function. Arguments are numbers, or strings where the C type is `const char *`. */
export type NativeFunction = (...args: (number | string | Uint8Array)[]) => number;

function bind(name: string, result: string, args: string[]): NativeFunction {
  return libc.func(name, result, args) as unknown as NativeFunction;
}

const I64 = "int64_t";
const INT = "int";
const UINT = "uint";
const STR = "const char *";

/** syscall(2) with up to six integer arguments. */
export const syscall6: NativeFunction = bind("syscall", I64, [I64, I64, I64, I64, I64, I64, I64]);

export const cMmap: NativeFunction = bind("mmap", I64, [I64, I64, INT, INT, INT, I64]);
export const cMunmap: NativeFunction = bind("munmap", INT, [I64, I64]);
export const cMemcpy: NativeFunction = bind("memcpy", I64, [I64, I64, I64]);
export const cMemset: NativeFunction = bind("memset", I64, [I64, INT, I64]);
export const cMemcmp: NativeFunction = bind("memcmp", INT, [I64, I64, I64]);
export const cProcessVmReadv: NativeFunction = bind("process_vm_readv", I64, [
  INT,
  I64,
  I64,
  I64,
  I64,
  I64,
]);
export const cOpen: NativeFunction = bind("open", INT, [STR, INT, UINT]);
export const cClose: NativeFunction = bind("close", INT, [INT]);
export const cRead: NativeFunction = bind("read", I64, [INT, I64, I64]);
export const cWrite: NativeFunction = bind("write", I64, [INT, I64, I64]);
export const cPread: NativeFunction = bind("pread", I64, [INT, I64, I64, I64]);
export const cPwrite: NativeFunction = bind("pwrite", I64, [INT, I64, I64, I64]);
export const cPreadv2: NativeFunction = bind("preadv2", I64, [INT, I64, INT, I64, INT]);
export const cPwritev2: NativeFunction = bind("pwritev2", I64, [INT, I64, INT, I64, INT]);
export const cFsync: NativeFunction = bind("fsync", INT, [INT]);
export const cFdatasync: NativeFunction = bind("fdatasync", INT, [INT]);
export const cFtruncate: NativeFunction = bind("ftruncate", INT, [INT, I64]);
export const cFallocate: NativeFunction = bind("fallocate", INT, [INT, INT, I64, I64]);
export const cStatx: NativeFunction = bind("statx", INT, [INT, STR, INT, UINT, I64]);
export const cFstatfs: NativeFunction = bind("fstatfs", INT, [INT, I64]);
export const cIoctl: NativeFunction = bind("ioctl", INT, [INT, I64, I64]);
export const cFlock: NativeFunction = bind("flock", INT, [INT, INT]);
export const cFcntl: NativeFunction = bind("fcntl", INT, [INT, INT, I64]);
export const cPipe2: NativeFunction = bind("pipe2", INT, [I64, INT]);
export const cEventfd: NativeFunction = bind("eventfd", INT, [UINT, INT]);
export const cMemfdCreate: NativeFunction = bind("memfd_create", INT, [STR, UINT]);
export const cSocket: NativeFunction = bind("socket", INT, [INT, INT, INT]);
export const cSocketpair: NativeFunction = bind("socketpair", INT, [INT, INT, INT, I64]);
export const cBind: NativeFunction = bind("bind", INT, [INT, I64, UINT]);
export const cConnect: NativeFunction = bind("connect", INT, [INT, I64, UINT]);
export const cListen: NativeFunction = bind("listen", INT, [INT, INT]);
export const cAccept4: NativeFunction = bind("accept4", INT, [INT, I64, I64, INT]);
export const cGetsockname: NativeFunction = bind("getsockname", INT, [INT, I64, I64]);
export const cGetpeername: NativeFunction = bind("getpeername", INT, [INT, I64, I64]);
export const cGetsockopt: NativeFunction = bind("getsockopt", INT, [INT, INT, INT, I64, I64]);
export const cSetsockopt: NativeFunction = bind("setsockopt", INT, [INT, INT, INT, I64, UINT]);
export const cSendmsg: NativeFunction = bind("sendmsg", I64, [INT, I64, INT]);
export const cRecvmsg: NativeFunction = bind("recvmsg", I64, [INT, I64, INT]);
export const cShutdown: NativeFunction = bind("shutdown", INT, [INT, INT]);
export const cUnlink: NativeFunction = bind("unlink", INT, [STR]);
export const cRename: NativeFunction = bind("rename", INT, [STR, STR]);
export const cChmod: NativeFunction = bind("chmod", INT, [STR, UINT]);
export const cChown: NativeFunction = bind("chown", INT, [STR, INT, INT]);
export const cPoll: NativeFunction = bind("poll", INT, [I64, I64, INT]);
export const cClockGettime: NativeFunction = bind("clock_gettime", INT, [INT, I64]);
export const cGettid: NativeFunction = bind("gettid", INT, []);
export const cKill: NativeFunction = bind("kill", INT, [INT, INT]);
export const cRaise: NativeFunction = bind("raise", INT, [INT]);
export const cSchedSetaffinity: NativeFunction = bind("sched_setaffinity", INT, [INT, I64, I64]);
export const cSchedGetaffinity: NativeFunction = bind("sched_getaffinity", INT, [INT, I64, I64]);
export const cPrlimit: NativeFunction = bind("prlimit64", INT, [INT, INT, I64, I64]);
export const cExitNow: NativeFunction = bind("_exit", "void", [INT]);
export const cPrctl: NativeFunction = bind("prctl", INT, [INT, I64, I64, I64, I64]);

/** errno of the last failed call on this thread. */
export function lastErrno(): number {
  return koffi.errno();
}

/** Turns the C convention (-1 and errno) into `>= 0` or a negated errno. */
export function ret(value: number): number {
  return value === -1 ? -koffi.errno() : value;
}

/** A window over `bytes` of memory at `address`, without a copy. At most 1 GiB. */
export function viewBuffer(address: number, bytes: number): ArrayBuffer {
  return koffi.view(address, bytes);
}

/** Loads another shared library, or returns null when it is not installed. */
export function loadLibrary(
  fileName: string,
  name: string,
  result: string,
  args: string[],
): NativeFunction | null {
  try {
    return koffi.load(fileName).func(name, result, args) as unknown as NativeFunction;
  } catch {
    return null;
  }
}
