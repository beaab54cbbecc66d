// Signals an eventfd that somebody else chose, without ever blocking.
//
// write(2) blocks on a full eventfd unless O_NONBLOCK is set; but that flag belongs to the open
// file description, which its owner shares with us and may change at any moment: looking first is
// no help. The kernel's own signal never blocks, and asynchronous I/O (io_submit) asks for it: an
// operation may name an eventfd (IOCB_FLAG_RESFD) that is told when it is done. The operation here
// is a read of nothing from /dev/null, done before io_submit returns. About half a microsecond more
// than a write.
//
// What is no eventfd is refused by the kernel (EINVAL) and left alone.
// Specification: io_submit(2), the kernel's uapi header linux/aio_abi.h.

import { ENOSYS, layout, PAGE_BYTES } from "../base/index.ts";
import type { Address } from "../ports/index.ts";
import { MAP_ANONYMOUS, MAP_PRIVATE, O_RDONLY, PROT_READ, PROT_WRITE } from "./constants.ts";
import { open } from "./files.ts";
import { lastErrno, syscall6 } from "./libc.ts";
import { arenaOver, mmap, windowOver } from "./memory.ts";
import { putU64 } from "./scratch.ts";

const IOCB = layout("iocb", 64, {
  data: [0, 8],
  key: [8, 4],
  rwFlags: [12, 4],
  opcode: [16, 2],
  priority: [18, 2],
  fildes: [20, 4],
  buffer: [24, 8],
  bytes: [32, 8],
  offset: [40, 8],
  flags: [56, 4],
  eventFd: [60, 4],
});
const IOCB_FLAG_RESFD = 1;
/** The completion ring that io_setup maps: only its two positions matter here. */
const RING_HEAD_WORD = 2;
const RING_TAIL_WORD = 3;

const isArm = process.arch === "arm64";
const SYS_IO_SETUP = isArm ? 0 : 206;
const SYS_IO_SUBMIT = isArm ? 2 : 209;
/** One at a time is in use. */
const EVENTS = 16;
const CONTEXT_AT = 64;
const LIST_AT = 72;

interface Signaller {
  readonly context: number;
  readonly listAddress: Address;
  readonly eventFdCell: Uint32Array;
  readonly ring: Uint32Array;
}

let signaller: Signaller | null | undefined;

function setUp(): Signaller | null {
  const address = mmap(PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address < 0) return null;
  const words = arenaOver(address, PAGE_BYTES).u32;
  if (syscall6(SYS_IO_SETUP, EVENTS, address + CONTEXT_AT, 0, 0, 0, 0) < 0) return null;
  const nowhere = open("/dev/null", O_RDONLY);
  if (nowhere < 0) return null;
  const context =
    (words[(CONTEXT_AT >>> 2) + 1] as number) * 4294967296 + (words[CONTEXT_AT >>> 2] as number);
  // The opcode of a read is 0; nothing is read, into the page itself.
  words[IOCB.fildes >>> 2] = nowhere;
  putU64(words, IOCB.buffer, address);
  words[IOCB.flags >>> 2] = IOCB_FLAG_RESFD;
  putU64(words, LIST_AT, address);
  return {
    context,
    listAddress: address + LIST_AT,
    eventFdCell: new Uint32Array(words.buffer, words.byteOffset + IOCB.eventFd, 1),
    // The context is the address where the kernel mapped the completion ring.
    ring: new Uint32Array(windowOver(context, 16)),
  };
}

/** True where signalReceived() works; asked once per thread, at set-up. */
export function canSignalReceived(): boolean {
  if (signaller === undefined) signaller = setUp();
  return signaller !== null;
}

/** Adds 1 to an eventfd, full or not, whatever its flags. 1 or a negated errno. Never blocks. */
export function signalReceived(fd: number): number {
  const using = signaller;
  if (using === null || using === undefined) return -ENOSYS;
  using.eventFdCell[0] = fd;
  const result = syscall6(SYS_IO_SUBMIT, using.context, 1, using.listAddress, 0, 0, 0);
  // The completion has said all it has to say.
  using.ring[RING_HEAD_WORD] = using.ring[RING_TAIL_WORD] as number;
  return result === -1 ? -lastErrno() : result;
}
