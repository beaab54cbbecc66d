// Event descriptors, clocks, processes and threads.

import type { Address, Clock } from "../ports/index.ts";
import { CLOCK_MONOTONIC, EFD_CLOEXEC, EFD_NONBLOCK } from "./constants.ts";
import {
  cClockGettime,
  cEventfd,
  cGettid,
  cKill,
  cPoll,
  cRaise,
  cRead,
  cSchedGetaffinity,
  cSchedSetaffinity,
  cWrite,
  ret,
} from "./libc.ts";
import { arenaOver } from "./memory.ts";
import { scratch } from "./scratch.ts";

/** A non-blocking, close-on-exec eventfd, or a negated errno. */
export function eventfd(initial = 0): number {
  return ret(cEventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK));
}

// The value 1 that eventfd writes add, in memory of its own so that signalling never allocates.
const EVENT_ONE_OFFSET = scratch.bytes - 16;
const EVENT_READ_OFFSET = scratch.bytes - 8;
scratch.u32[EVENT_ONE_OFFSET >>> 2] = 1;
const eventOneAddress: Address = scratch.address + EVENT_ONE_OFFSET;
const eventReadAddress: Address = scratch.address + EVENT_READ_OFFSET;

/**
 * Adds 1 to an eventfd. Returns 8 or a negated errno: a full or closed descriptor is the peer's
 * affair. The descriptor must be non-blocking where the peer chose it.
 */
export function eventSignal(fd: number): number {
  return ret(cWrite(fd, eventOneAddress, 8));
}

/** Takes and clears an eventfd's count; -EAGAIN when it was 0. */
export function eventClear(fd: number): number {
  return ret(cRead(fd, eventReadAddress, 8));
}

/** poll(2) on one descriptor: revents, 0 on timeout, or a negated errno. */
export function pollOne(fd: number, events: number, timeoutMs: number): number {
  scratch.u32[0] = fd;
  scratch.u32[1] = events;
  const result = ret(cPoll(scratch.address, 1, timeoutMs));
  return result <= 0 ? result : (scratch.u32[1] as number) >>> 16;
}

/**
 * poll(2) on two descriptors. Bit 0: the first has events, bit 1: the second has; 0 on timeout, or
 * a negated errno.
 */
export function pollTwo(
  firstFd: number,
  firstEvents: number,
  secondFd: number,
  secondEvents: number,
  timeoutMs: number,
): number {
  const words = scratch.u32;
  words[0] = firstFd;
  words[1] = firstEvents;
  words[2] = secondFd;
  words[3] = secondEvents;
  const result = ret(cPoll(scratch.address, 2, timeoutMs));
  if (result <= 0) return result;
  return ((words[1] as number) >>> 16 !== 0 ? 1 : 0) | ((words[3] as number) >>> 16 !== 0 ? 2 : 0);
}

// A constant of the module, like the addresses above: read from a field, the number would become a
// new heap object at every call.
const clockAddress: Address = scratch.address + scratch.bytes - 32;
const clockWords: Uint32Array = arenaOver(clockAddress, 16).u32;
const clockCell: Float64Array = new Float64Array(1);

/** CLOCK_MONOTONIC through the vDSO, about 50 ns a call, no allocation. */
export class SystemClock implements Clock {
  nowUs(): number {
    this.storeNowUs(clockCell);
    return clockCell[0] as number;
  }

  storeNowUs(cell: Float64Array): void {
    cClockGettime(CLOCK_MONOTONIC, clockAddress);
    const seconds = (clockWords[1] as number) * 4294967296 + (clockWords[0] as number);
    cell[0] = seconds * 1e6 + (clockWords[2] as number) / 1000;
  }
}

export function gettid(): number {
  return cGettid();
}

/** Sends a signal; 0 or a negated errno. */
export function kill(pid: number, signal: number): number {
  return ret(cKill(pid, signal));
}

/** Sends a signal to the calling thread: it has arrived when this returns. */
export function raise(signal: number): number {
  return ret(cRaise(signal));
}

const AFFINITY_BYTES = 128;

/** CPUs this thread may run on. */
export function affinity(): number[] {
  scratch.u8.fill(0, 0, AFFINITY_BYTES);
  const result = ret(cSchedGetaffinity(0, AFFINITY_BYTES, scratch.address));
  const cpus: number[] = [];
  if (result < 0) return cpus;
  for (let cpu = 0; cpu < AFFINITY_BYTES * 8; cpu++) {
    if (((scratch.u8[cpu >>> 3] as number) >>> (cpu & 7)) & 1) cpus.push(cpu);
  }
  return cpus;
}

/** Pins the calling thread to `cpus`; 0 or a negated errno. */
export function setAffinity(cpus: readonly number[]): number {
  scratch.u8.fill(0, 0, AFFINITY_BYTES);
  for (const cpu of cpus) {
    const at = cpu >>> 3;
    scratch.u8[at] = (scratch.u8[at] as number) | (1 << (cpu & 7));
  }
  return ret(cSchedSetaffinity(0, AFFINITY_BYTES, scratch.address));
}
