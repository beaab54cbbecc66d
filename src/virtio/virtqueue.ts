// What a device needs of a virtqueue, whichever layout its ring has. `SplitQueue` and
// `PackedQueue` implement it with the same shape, so that a call site sees two classes at most and
// the compiler can inline both.
//
// A ring that breaks the rules is *broken*: pop() answers with the reason from then on, what was
// taken before still completes, other rings never notice.

import type { GuestMemory, RingArea } from "../ports/index.ts";
import type { Chain } from "./chain.ts";

/** pop(): nothing is available. */
export const NONE = -1;

// Reasons for a broken ring. Rows refer to the hostile input checklist in TESTING.md.
/** avail->idx is further ahead than the ring is long (row 1). */
export const BROKEN_AVAIL_INDEX = -2;
/** An avail ring entry is no descriptor index (row 2). */
export const BROKEN_HEAD_RANGE = -3;
/** `next` leaves the descriptor table (row 3). */
export const BROKEN_NEXT_RANGE = -4;
/** A chain visits more descriptors than its table has (row 4). */
export const BROKEN_CHAIN_LOOP = -5;
/** A head or buffer id was made available while in flight (rows 5, 36). */
export const BROKEN_HEAD_IN_FLIGHT = -6;
/** More buffers are outstanding than the ring has room for (row 6). */
export const BROKEN_TOO_MANY_IN_FLIGHT = -7;
/** INDIRECT without the feature (row 7). */
export const BROKEN_INDIRECT_NOT_NEGOTIATED = -8;
/** INDIRECT inside an indirect table (row 8). */
export const BROKEN_INDIRECT_NESTED = -9;
/** INDIRECT together with NEXT (row 9). */
export const BROKEN_INDIRECT_NEXT = -10;
/** An indirect table of no whole number of descriptors (row 10). */
export const BROKEN_INDIRECT_BYTES = -11;
/** An indirect table of more descriptors than a chain may have (row 11). */
export const BROKEN_INDIRECT_TOO_LONG = -12;
/** An indirect table outside guest memory. */
export const BROKEN_INDIRECT_UNREACHABLE = -13;
/** More descriptors in one chain than CHAIN_DESCRIPTORS_MAX. */
export const BROKEN_CHAIN_TOO_LONG = -14;
/** Packed: buffer id >= queue size (row 36). */
export const BROKEN_BUFFER_ID = -15;
/** Packed: a chain runs into descriptors that are not available (row 36). */
export const BROKEN_CHAIN_UNAVAILABLE = -16;
/** The ring's own memory could not be read or written. */
export const BROKEN_RING_MEMORY = -17;
/** The ring was started at an index it does not have. */
export const BROKEN_RING_BASE = -18;
/** A request without a writable byte: nowhere to report (row 21). */
export const BROKEN_NO_STATUS = -19;
/** The status byte lies outside guest memory (rows 13, 16). */
export const BROKEN_STATUS_UNREACHABLE = -20;
/** The inflight region names a head or a chain that the ring cannot have (row 54). */
export const BROKEN_INFLIGHT = -21;

const BROKEN_NAMES: ReadonlyMap<number, string> = new Map([
  [BROKEN_AVAIL_INDEX, "AVAIL_INDEX"],
  [BROKEN_HEAD_RANGE, "HEAD_RANGE"],
  [BROKEN_NEXT_RANGE, "NEXT_RANGE"],
  [BROKEN_CHAIN_LOOP, "CHAIN_LOOP"],
  [BROKEN_HEAD_IN_FLIGHT, "HEAD_IN_FLIGHT"],
  [BROKEN_TOO_MANY_IN_FLIGHT, "TOO_MANY_IN_FLIGHT"],
  [BROKEN_INDIRECT_NOT_NEGOTIATED, "INDIRECT_NOT_NEGOTIATED"],
  [BROKEN_INDIRECT_NESTED, "INDIRECT_NESTED"],
  [BROKEN_INDIRECT_NEXT, "INDIRECT_NEXT"],
  [BROKEN_INDIRECT_BYTES, "INDIRECT_BYTES"],
  [BROKEN_INDIRECT_TOO_LONG, "INDIRECT_TOO_LONG"],
  [BROKEN_INDIRECT_UNREACHABLE, "INDIRECT_UNREACHABLE"],
  [BROKEN_CHAIN_TOO_LONG, "CHAIN_TOO_LONG"],
  [BROKEN_BUFFER_ID, "BUFFER_ID"],
  [BROKEN_CHAIN_UNAVAILABLE, "CHAIN_UNAVAILABLE"],
  [BROKEN_RING_MEMORY, "RING_MEMORY"],
  [BROKEN_RING_BASE, "RING_BASE"],
  [BROKEN_NO_STATUS, "NO_STATUS"],
  [BROKEN_STATUS_UNREACHABLE, "STATUS_UNREACHABLE"],
  [BROKEN_INFLIGHT, "INFLIGHT"],
]);

/** For logs: `BROKEN_NEXT_RANGE` -> `"NEXT_RANGE"`. */
export function brokenName(code: number): string {
  return BROKEN_NAMES.get(code) ?? `unknown reason ${code}`;
}

/**
 * Records what is in flight where a successor of this process finds it (vhost-user's inflight
 * region). Order of calls, which is the order of effects the specification asks for:
 *
 *   taken(head)              before the request has any effect
 *   completing(head)...      for each element of a batch, in the order of the used ring
 *   (used->idx is stored)
 *   published(usedIndex)     the driver can see the batch
 */
export interface InflightTracker {
  /** `words` holds the ring's raw descriptors for a packed queue; `descriptorCount` 0 for split. */
  taken(head: number, words: Uint32Array, descriptorCount: number): void;
  completing(head: number): void;
  published(usedIndex: number): void;
}

/** What a packed ring needs on top: used descriptors overwrite the ring, so chains are saved. */
export interface PackedInflightTracker extends InflightTracker {
  /** Called before the flags that make a batch visible are stored. */
  publishing(usedIndex: number, usedWrap: number): void;
  /** Copies the saved descriptors of a buffer id into `words`, 4 words each; returns how many. */
  restore(id: number, words: Uint32Array): number;
}

/** Told of every write into the ring itself, for the migration log. */
export interface RingLog {
  /** Bytes of the used ring (split) or of the device event area (packed). */
  usedRingWritten(offsetBytes: number, bytes: number): void;
  /** Bytes of the descriptor ring of a packed queue, which the device writes too. */
  descriptorRingWritten(offsetBytes: number, bytes: number): void;
}

export interface VirtqueueStart {
  /** Descriptors in the ring. A power of two for a split ring. */
  readonly size: number;
  readonly descriptors: RingArea;
  /** Avail ring, or driver event area. */
  readonly driver: RingArea;
  /** Used ring, or device event area. */
  readonly device: RingArea;
  /**
   * As SET_VRING_BASE gives it: the next avail index of a split ring; for a packed ring bits 0-14
   * avail index, 15 its wrap counter, 16-30 used index, 31 its wrap counter.
   */
  readonly base: number;
  /** Negotiated feature bits 0-31 and 32-63. */
  readonly featuresLow: number;
  readonly featuresHigh: number;
  readonly memory: GuestMemory;
  /** Split: InflightTracker; packed: PackedInflightTracker. */
  readonly tracker: InflightTracker | PackedInflightTracker | null;
  readonly ringLog: RingLog | null;
}

export interface Virtqueue {
  readonly size: number;
  /** 0, or the reason (BROKEN_...) why nothing is taken from the ring any more. */
  readonly broken: number;
  /** Popped and not yet pushed. */
  readonly inflightCount: number;
  /** What GET_VRING_BASE answers; stays valid after stop(). */
  readonly base: number;

  /** Returns 0, or the reason why the ring cannot be started. */
  start(options: VirtqueueStart): number;
  /** Forgets the ring. Nothing may be in flight, unless it was handed to a tracker. */
  stop(): void;
  setMemory(memory: GuestMemory): void;
  setRingLog(ringLog: RingLog | null): void;

  /** Fills `chain` and returns its head (or buffer id) >= 0, or NONE, or the BROKEN_... reason. */
  pop(chain: Chain): number;
  /**
   * At start: `head` is in flight from an earlier life of the ring; call before any pop(). False
   * when the ring has no such head or it is listed already.
   */
  markInflight(head: number): boolean;
  /** Reads the chain of a head given to markInflight(); like pop(), but not through the ring. */
  resubmit(head: number, chain: Chain): number;
  /** Gives up a popped head that can never be answered; the ring is about to be broken. */
  abandon(head: number): void;
  /** Breaks the ring for a reason the device found. */
  breakRing(reason: number): void;

  /** Adds a used element; invisible to the driver until publish(). */
  push(head: number, usedBytes: number): void;
  /** Makes all pushed elements visible at once. A full fence follows the store. */
  publish(): void;
  /** After publish(): must the driver be interrupted? */
  needsNotification(): boolean;
  /**
   * With everything published: does the driver wait for an interrupt that it has not had? With
   * EVENT_IDX it says so exactly; otherwise true means that it may. Changes nothing.
   */
  owesNotification(): boolean;
  /** The driver has been interrupted although needsNotification() was false. */
  notified(): void;

  /** Asks for kicks, then looks once more: true when work is there already. */
  enableNotifications(): boolean;
  disableNotifications(): void;
}
