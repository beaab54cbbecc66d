// @hot
// One io_uring, driven through typed arrays over its mapped memory. A submission is a few u32
// stores; a completion is three u32 loads. Nothing here interprets data.
//
//   sqes  [ s0 | s1 | s2 | ... ]  64 bytes each: we fill s[tail & mask], then tail += 1
//   cqes  [ c0 | c1 | ... ]       16 bytes each: the kernel fills, we read from head to tail
//
// Invariants:
//  - user_data = tag (low half) and handler index (high half): a completion finds its handler
//    without a lookup table of requests; tags are the handler's own slots;
//  - the kernel sees new entries only in enter(): the SQ never overflows, because a full SQ is
//    submitted first; the CQ cannot lose entries (FEAT_NODROP);
//  - under DEFER_TASKRUN completions appear only inside enter(GETEVENTS), so whoever wants them
//    while polling asks needsEnter(), which the kernel raises through SQ_TASKRUN;
//  - handlers run from reap(), never inside a submit.
// Specification: the kernel's uapi header linux/io_uring.h and io_uring_enter(2).

import { assert, EAGAIN, EBUSY, EINTR, ETIME } from "../base/index.ts";
import type { Address, Arena, Memory } from "../ports/index.ts";
import { close, munmap, syscall6 } from "../sys/index.ts";
import { lastErrno } from "../sys/libc.ts";
import {
  CQ_ENTRIES_MAX,
  CQE_F_MORE,
  ENTER_EXT_ARG,
  ENTER_GETEVENTS,
  FSYNC_DATASYNC,
  IOSQE_ASYNC,
  IOSQE_FIXED_FILE,
  OP_ACCEPT,
  OP_ASYNC_CANCEL,
  OP_CONNECT,
  OP_FALLOCATE,
  OP_FSYNC,
  OP_NOP,
  OP_POLL_ADD,
  OP_READ,
  OP_READV,
  OP_RECV,
  OP_SENDMSG,
  OP_WRITE,
  OP_WRITEV,
  POLL_ADD_MULTI,
  REGISTER_FILES_UPDATE,
  SQ_CQ_OVERFLOW,
  SQ_ENTRIES_MAX,
  SQ_TASKRUN,
  SYS_IO_URING_ENTER,
  SYS_IO_URING_REGISTER,
} from "./layouts.ts";
import { type RingMapping, setupRing } from "./setup.ts";

/** Hears of completions. `result` as the kernel gave it, `flags` = CQE flags. */
export interface CompletionHandler {
  completed(tag: number, result: number, flags: number): void;
}

export interface RingOptions {
  /** Submissions that fit before a system call; power of two. */
  readonly entries: number;
  readonly cqEntries: number;
  readonly fixedFiles: number;
}

/** A descriptor as submissions name it: registered (index) or plain (fd). */
export interface RingFile {
  readonly fd: number;
  readonly sqeFd: number;
  readonly sqeFlags: number;
}

const SQE_WORDS = 16;
const CQE_WORDS = 4;
const SUBMIT_ATTEMPTS = 10000;
/** IORING_RECVSEND_POLL_FIRST, a bit of ioprio, which stands above the flags. */
const RECV_POLL_FIRST = 1 << 8;

export class Ring {
  /** Submissions, system calls and completions since the start, for telemetry. */
  submittedCount = 0;
  enterCount = 0;
  reapedCount = 0;
  /** Operations the kernel holds or will hold: submitted or prepared, not yet completed. */
  inflightCount = 0;

  private readonly memory: Memory;
  private readonly map: RingMapping;
  private readonly rings: Uint32Array;
  private readonly ringsSigned: Int32Array;
  private readonly sqes: Uint32Array;
  private readonly sqMask: number;
  private readonly cqMask: number;
  private readonly handlers: (CompletionHandler | null)[] = [];
  private readonly timeoutArg: Arena;
  private readonly registerArg: Arena;
  private readonly fixedUsed: Uint8Array;
  private sqTail: number;
  private cqHead: number;
  private pending = 0;

  constructor(memory: Memory, options: RingOptions) {
    assert(options.entries <= SQ_ENTRIES_MAX, "more submissions than io_uring allows");
    assert(options.cqEntries <= CQ_ENTRIES_MAX, "more completions than io_uring allows");
    this.memory = memory;
    this.map = setupRing(memory, options.entries, options.cqEntries, options.fixedFiles);
    this.rings = this.map.rings.u32;
    this.ringsSigned = new Int32Array(this.rings.buffer);
    this.sqes = this.map.sqes.u32;
    this.sqMask = this.map.sqEntries - 1;
    this.cqMask = this.map.cqEntries - 1;
    this.sqTail = this.rings[this.map.sqTail] as number;
    this.cqHead = this.rings[this.map.cqHead] as number;
    this.timeoutArg = memory.allocate(4096);
    this.registerArg = memory.allocate(4096);
    this.fixedUsed = new Uint8Array(this.map.fixedFiles);
    // struct io_uring_getevents_arg at 0 (sigmask, size, min_wait, ts) pointing to timespec at 32.
    const tsAt = this.timeoutArg.address + 32;
    this.timeoutArg.u32[4] = tsAt >>> 0;
    this.timeoutArg.u32[5] = Math.floor(tsAt / 4294967296);
  }

  get fd(): number {
    return this.map.fd;
  }

  get deferred(): boolean {
    return this.map.deferred;
  }

  /** Registers a handler; its index goes into submissions. */
  addHandler(handler: CompletionHandler): number {
    const free = this.handlers.indexOf(null);
    if (free >= 0) {
      this.handlers[free] = handler;
      return free;
    }
    this.handlers.push(handler);
    return this.handlers.length - 1;
  }

  /** Forgets a handler. Nothing submitted with its index may be in flight. */
  removeHandler(index: number): void {
    assert(this.handlers[index] !== null, "handler removed twice");
    this.handlers[index] = null;
  }

  /** Registers `fd` in the ring's file table where there is room: saves a lookup per operation. */
  // @cold
  registerFile(fd: number): RingFile {
    const index = this.fixedUsed.indexOf(0);
    if (index < 0) return { fd, sqeFd: fd, sqeFlags: 0 };
    if (this.updateFile(index, fd) < 0) return { fd, sqeFd: fd, sqeFlags: 0 };
    this.fixedUsed[index] = 1;
    return { fd, sqeFd: index, sqeFlags: IOSQE_FIXED_FILE };
  }

  /** Drops the ring's reference, so that closing `file.fd` really ends the open description. */
  unregisterFile(file: RingFile): void {
    if (file.sqeFlags === 0) return;
    assert(this.fixedUsed[file.sqeFd] === 1, "file was not registered");
    const result = this.updateFile(file.sqeFd, -1);
    assert(result >= 0, "unregistering a file failed");
    this.fixedUsed[file.sqeFd] = 0;
  }

  private updateFile(index: number, fd: number): number {
    const words = this.registerArg.u32;
    const at = this.registerArg.address;
    // struct io_uring_files_update: offset 0, resv 4, fds pointer 8; the descriptor at 64.
    words[0] = index;
    words[1] = 0;
    words[2] = (at + 64) >>> 0;
    words[3] = Math.floor((at + 64) / 4294967296);
    words[16] = fd;
    return syscall6(SYS_IO_URING_REGISTER, this.map.fd, REGISTER_FILES_UPDATE, at, 1, 0, 0);
  }

  /** Fills the next SQE. `offset`, `address` < 2^53; `words` 10.. are left 0. */
  private prepare(
    opcode: number,
    file: number,
    fileFlags: number,
    offset: number,
    address: number,
    length: number,
    opFlags: number,
    handler: number,
    tag: number,
  ): void {
    if (this.pending > this.sqMask) this.makeRoom();
    const words = this.sqes;
    const at = (this.sqTail & this.sqMask) * SQE_WORDS;
    words[at] = opcode | (fileFlags << 8);
    words[at + 1] = file;
    words[at + 2] = offset >>> 0;
    words[at + 3] = Math.floor(offset / 4294967296);
    words[at + 4] = address >>> 0;
    words[at + 5] = Math.floor(address / 4294967296);
    words[at + 6] = length;
    words[at + 7] = opFlags;
    words[at + 8] = tag;
    words[at + 9] = handler;
    words[at + 10] = 0;
    words[at + 11] = 0;
    words[at + 12] = 0;
    words[at + 13] = 0;
    this.sqTail = (this.sqTail + 1) >>> 0;
    this.pending += 1;
    this.inflightCount += 1;
  }

  /** Submits a full queue. The kernel refuses only while it is short of memory: try again. */
  private makeRoom(): void {
    for (let attempt = 0; attempt < SUBMIT_ATTEMPTS && this.pending > this.sqMask; attempt++) {
      this.submit();
    }
    assert(this.pending <= this.sqMask, "io_uring takes no submissions: out of kernel memory");
  }

  nop(handler: number, tag: number): void {
    this.prepare(OP_NOP, -1, 0, 0, 0, 0, 0, handler, tag);
  }

  read(
    file: RingFile,
    offsetBytes: number,
    address: Address,
    bytes: number,
    handler: number,
    tag: number,
  ): void {
    this.prepare(OP_READ, file.sqeFd, file.sqeFlags, offsetBytes, address, bytes, 0, handler, tag);
  }

  write(
    file: RingFile,
    offsetBytes: number,
    address: Address,
    bytes: number,
    rwFlags: number,
    handler: number,
    tag: number,
  ): void {
    const { sqeFd, sqeFlags } = file;
    this.prepare(OP_WRITE, sqeFd, sqeFlags, offsetBytes, address, bytes, rwFlags, handler, tag);
  }

  /** A write that a kernel thread does from the start: for descriptors whose write may block. */
  writeAsync(fd: number, address: Address, bytes: number, handler: number, tag: number): void {
    this.prepare(OP_WRITE, fd, IOSQE_ASYNC, 0, address, bytes, 0, handler, tag);
  }

  readv(
    file: RingFile,
    offsetBytes: number,
    iovecs: Address,
    count: number,
    handler: number,
    tag: number,
  ): void {
    this.prepare(OP_READV, file.sqeFd, file.sqeFlags, offsetBytes, iovecs, count, 0, handler, tag);
  }

  writev(
    file: RingFile,
    offsetBytes: number,
    iovecs: Address,
    count: number,
    rwFlags: number,
    handler: number,
    tag: number,
  ): void {
    const { sqeFd, sqeFlags } = file;
    this.prepare(OP_WRITEV, sqeFd, sqeFlags, offsetBytes, iovecs, count, rwFlags, handler, tag);
  }

  fdatasync(file: RingFile, handler: number, tag: number): void {
    this.prepare(OP_FSYNC, file.sqeFd, file.sqeFlags, 0, 0, 0, FSYNC_DATASYNC, handler, tag);
  }

  fallocate(
    file: RingFile,
    mode: number,
    offsetBytes: number,
    bytes: number,
    handler: number,
    tag: number,
  ): void {
    // The kernel takes the length from addr and the mode from len.
    const { sqeFd, sqeFlags } = file;
    this.prepare(OP_FALLOCATE, sqeFd, sqeFlags, offsetBytes, bytes, mode, 0, handler, tag);
  }

  /** `message` is the address of a struct msghdr; it and all it names stay until completion. */
  sendmsg(file: RingFile, message: Address, flags: number, handler: number, tag: number): void {
    this.prepare(OP_SENDMSG, file.sqeFd, file.sqeFlags, 0, message, 1, flags, handler, tag);
  }

  /** Looks for data only when the socket says that there is some: none is there as a rule. */
  recv(file: RingFile, address: Address, bytes: number, handler: number, tag: number): void {
    const flags = file.sqeFlags | RECV_POLL_FIRST;
    this.prepare(OP_RECV, file.sqeFd, flags, 0, address, bytes, 0, handler, tag);
  }

  /** Completes with a descriptor. `flags` as accept4 takes them. */
  accept(fd: number, flags: number, handler: number, tag: number): void {
    this.prepare(OP_ACCEPT, fd, 0, 0, 0, 0, flags, handler, tag);
  }

  connect(
    file: RingFile,
    address: Address,
    addressBytes: number,
    handler: number,
    tag: number,
  ): void {
    this.prepare(OP_CONNECT, file.sqeFd, file.sqeFlags, addressBytes, address, 0, 0, handler, tag);
  }

  /** Reports `events` on `fd` again and again until cancelled (CQE_F_MORE unset = it ended). */
  pollMultishot(fd: number, events: number, handler: number, tag: number): void {
    this.prepare(OP_POLL_ADD, fd, 0, 0, 0, POLL_ADD_MULTI, events, handler, tag);
  }

  /**
   * Asks the kernel to cancel the operation submitted with (handler, tag), which then completes
   * with -ECANCELED or as it would have. Completes with 0, -ENOENT (it has ended) or -EALREADY.
   * Also for polls: POLL_REMOVE leaves one in place whose event is just being delivered.
   */
  cancel(targetHandler: number, targetTag: number, handler: number, tag: number): void {
    const target = targetHandler * 4294967296 + targetTag;
    this.prepare(OP_ASYNC_CANCEL, -1, 0, 0, target, 0, 0, handler, tag);
  }

  /** True when prepared entries wait for a system call. */
  get hasPending(): boolean {
    return this.pending > 0;
  }

  /** True when the kernel has completions it can only deliver inside enter(GETEVENTS). */
  needsEnter(): boolean {
    return (Atomics.load(this.rings, this.map.sqFlags) & (SQ_TASKRUN | SQ_CQ_OVERFLOW)) !== 0;
  }

  /** Hands the prepared entries to the kernel, and lets it deliver completions. Never sleeps. */
  submit(): void {
    this.enter(0, 0, 0);
  }

  /** As submit(), and nothing prepared is left behind: a descriptor named in it may be closed. */
  submitAll(): void {
    for (let attempt = 0; attempt < SUBMIT_ATTEMPTS && this.pending > 0; attempt++) this.submit();
    assert(this.pending === 0, "io_uring takes no submissions: out of kernel memory");
  }

  /**
   * Submits, then sleeps until at least one completion is there or `timeoutUs` has passed
   * (Infinity = no limit).
   */
  submitAndWait(timeoutUs: number): void {
    if (timeoutUs === Infinity) {
      this.enter(1, 0, 0);
      return;
    }
    const words = this.timeoutArg.u32;
    const seconds = Math.floor(timeoutUs / 1e6);
    words[8] = seconds;
    words[9] = 0;
    words[10] = Math.floor((timeoutUs - seconds * 1e6) * 1000);
    words[11] = 0;
    this.enter(1, this.timeoutArg.address, 24);
  }

  private enter(minComplete: number, argument: Address, argumentBytes: number): void {
    Atomics.store(this.rings, this.map.sqTail, this.sqTail);
    const flags = argumentBytes > 0 ? ENTER_GETEVENTS | ENTER_EXT_ARG : ENTER_GETEVENTS;
    const fd = this.map.fd;
    this.enterCount += 1;
    const taken = syscall6(
      SYS_IO_URING_ENTER,
      fd,
      this.pending,
      minComplete,
      flags,
      argument,
      argumentBytes,
    );
    if (taken >= 0) {
      this.pending -= taken;
      this.submittedCount += taken;
      return;
    }
    const errno = lastErrno();
    // EBUSY: the CQ is full, reap first. EAGAIN: the kernel is short of memory, try again later.
    // EINTR, ETIME: woken or timed out; what was submitted counts as taken only if >= 0 came back.
    assert(
      errno === EINTR || errno === ETIME || errno === EBUSY || errno === EAGAIN,
      "io_uring_enter failed",
    );
  }

  /** True when completions can be reaped without a system call. */
  hasCompletions(): boolean {
    return Atomics.load(this.rings, this.map.cqTail) !== this.cqHead;
  }

  /** Runs the handlers of up to `countMax` completions. Returns how many. */
  reap(countMax: number): number {
    const tail = Atomics.load(this.rings, this.map.cqTail);
    const rings = this.rings;
    const signed = this.ringsSigned;
    let count = 0;
    let head = this.cqHead;
    while (head !== tail && count < countMax) {
      const at = this.map.cqes + (head & this.cqMask) * CQE_WORDS;
      const tag = rings[at] as number;
      const handler = rings[at + 1] as number;
      const result = signed[at + 2] as number;
      const flags = rings[at + 3] as number;
      head = (head + 1) >>> 0;
      // The entry is free for the kernel before the handler runs: it may submit and enter again.
      this.cqHead = head;
      Atomics.store(rings, this.map.cqHead, head);
      if ((flags & CQE_F_MORE) === 0) this.inflightCount -= 1;
      count += 1;
      this.dispatch(handler, tag, result, flags);
    }
    this.reapedCount += count;
    return count;
  }

  private dispatch(handler: number, tag: number, result: number, flags: number): void {
    (this.handlers[handler] as CompletionHandler).completed(tag, result, flags);
  }

  /**
   * Closes and unmaps the ring; nothing of it may be used afterwards. The caller has seen
   * inflightCount reach 0, or the process is ending.
   */
  close(): void {
    close(this.map.fd);
    munmap(this.map.rings.address, this.map.rings.bytes);
    munmap(this.map.sqes.address, this.map.sqes.bytes);
    this.memory.free(this.timeoutArg);
    this.memory.free(this.registerArg);
  }
}
