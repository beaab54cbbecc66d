// What a packed queue's inflight region says about the life of the queue that ended. Pure: works on
// a copy of the region, changes nothing, believes nothing (inflight-packed.ts has the layout).
//
// How far the last batch had come:
//
//   free_head = old_free_head   all of it is done; used_idx counts, old_used_idx perhaps not yet
//   used_idx = old_used_idx     a batch had begun, or a take: nothing of either counts
//   otherwise                   the descriptor at old_used_idx tells whether the driver could see
//                               the batch. Its USED bit equals the wrap counter from the moment it
//                               was shown, also after the driver has made that descriptor available
//                               again for the next lap; before, it does not.
// Specification: vhost-user, "Inflight I/O tracking", packed virtqueue.

import type { RingArea } from "../ports/index.ts";
import { PACKED_F_USED } from "../virtio/index.ts";
import { PACKED_ENTRY, PACKED_HEADER } from "./inflight.ts";

/** A chain in flight: its buffer id and the entries that hold its descriptors. */
export interface PackedChain {
  readonly id: number;
  readonly entries: readonly number[];
}

export interface PackedRecovery {
  /** In the order in which they were taken. */
  readonly chains: readonly PackedChain[];
  /** Their buffer ids. */
  readonly heads: readonly number[];
  /** As SET_VRING_BASE would give it: both indices with their wrap counters. */
  readonly base: number;
  /** The greatest counter used. */
  readonly counter: number;
  /** Entries marked in flight whose batch the driver has seen. */
  readonly done: readonly number[];
}

class RegionCopy {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  private readonly u32: Uint32Array;

  constructor(bytes: Uint8Array) {
    this.u8 = bytes;
    this.u16 = new Uint16Array(bytes.buffer);
    this.u32 = new Uint32Array(bytes.buffer);
  }

  half(offset: number): number {
    return this.u16[offset >>> 1] as number;
  }

  /** A field of two bytes of an entry. */
  field(entry: number, offset: number): number {
    return this.half(PACKED_HEADER.BYTES + entry * PACKED_ENTRY.BYTES + offset);
  }

  isInflight(entry: number): boolean {
    return this.u8[PACKED_HEADER.BYTES + entry * PACKED_ENTRY.BYTES] !== 0;
  }

  counter(entry: number): number {
    const at = (PACKED_HEADER.BYTES + entry * PACKED_ENTRY.BYTES + PACKED_ENTRY.counter) >>> 2;
    return (this.u32[at + 1] as number) * 4294967296 + (this.u32[at] as number);
  }
}

/** `bytes`: a copy of the queue's part of the region, version 1. A string says what is wrong. */
export function recoverPacked(
  bytes: Uint8Array,
  descriptors: RingArea,
  ringSize: number,
  regionSize: number,
): PackedRecovery | string {
  const copy = new RegionCopy(bytes);
  if (copy.half(PACKED_HEADER.desc_num) !== regionSize) return "inflight desc_num changed";
  const used = settle(copy, descriptors, ringSize, regionSize);
  if (typeof used === "string") return used;
  const chains: PackedChain[] = [];
  const counters = new Map<PackedChain, number>();
  const owner = new Uint8Array(regionSize);
  const ids = new Set<number>();
  let slots = 0;
  for (let entry = 0; entry < regionSize; entry++) {
    if (used.done.has(entry) || !copy.isInflight(entry)) continue;
    const entries = chainFrom(copy, entry, regionSize);
    if (typeof entries === "string") return entries;
    for (const one of entries) {
      if (owner[one] === 1) return `inflight entry ${one} belongs to two chains`;
      owner[one] = 1;
    }
    const id = copy.field(entries[entries.length - 1] as number, PACKED_ENTRY.id);
    if (id >= ringSize) return `inflight buffer id ${id} in a ring of ${ringSize}`;
    if (ids.has(id)) return `inflight buffer id ${id} appears twice`;
    ids.add(id);
    slots += entries.length;
    const chain = { id, entries };
    counters.set(chain, copy.counter(entry));
    chains.push(chain);
  }
  if (slots > ringSize) return `inflight chains of ${slots} descriptors in a ring of ${ringSize}`;
  chains.sort((a, b) => (counters.get(a) as number) - (counters.get(b) as number));
  return {
    chains,
    heads: chains.map(({ id }) => id),
    base: baseOf(used.index, used.wrap, slots, ringSize),
    counter: Math.max(0, ...counters.values()),
    done: [...used.done],
  };
}

interface Used {
  readonly index: number;
  readonly wrap: number;
  /** Entries whose inflight mark does not count any more. */
  readonly done: ReadonlySet<number>;
}

/** Decides what had become of the last batch. */
function settle(
  copy: RegionCopy,
  descriptors: RingArea,
  ringSize: number,
  regionSize: number,
): Used | string {
  const index = copy.half(PACKED_HEADER.used_idx);
  const oldIndex = copy.half(PACKED_HEADER.old_used_idx);
  const wrap = (copy.u8[PACKED_HEADER.used_wrap] as number) & 1;
  const oldWrap = (copy.u8[PACKED_HEADER.old_used_wrap] as number) & 1;
  if (index >= ringSize || oldIndex >= ringSize) return "inflight used_idx beyond the ring";
  const end = copy.half(PACKED_HEADER.old_free_head);
  let entry = copy.half(PACKED_HEADER.free_head);
  if (entry === end) return { index, wrap, done: new Set() };
  const old: Used = { index: oldIndex, wrap: oldWrap, done: new Set() };
  if (index === oldIndex && wrap === oldWrap) return old;
  const at = oldIndex * 16 + 14;
  if (!descriptors.pull(at, 2)) return "the ring could not be read";
  const flags = descriptors.u16[at >>> 1] as number;
  const shown = ((flags & PACKED_F_USED) !== 0 ? 1 : 0) === oldWrap;
  if (!shown) return old;
  const done = new Set<number>();
  while (entry !== end) {
    if (entry >= regionSize || done.has(entry)) return "inflight free list is broken";
    done.add(entry);
    const last = copy.field(entry, PACKED_ENTRY.last);
    if (last >= regionSize) return "inflight chain ends beyond the region";
    entry = copy.field(last, PACKED_ENTRY.next);
  }
  return { index, wrap, done };
}

/** The entries of the chain that begins at `entry`, or what is wrong with it. */
function chainFrom(copy: RegionCopy, entry: number, regionSize: number): number[] | string {
  const count = copy.field(entry, PACKED_ENTRY.num);
  if (count < 1 || count > regionSize) return `an inflight chain of ${count} descriptors`;
  const entries = [entry];
  while (entries.length < count) {
    const next = copy.field(entries[entries.length - 1] as number, PACKED_ENTRY.next);
    if (next >= regionSize) return "an inflight chain leaves the region";
    entries.push(next);
  }
  const last = copy.field(entry, PACKED_ENTRY.last);
  if (entries[entries.length - 1] !== last) {
    return "an inflight chain does not end at its last entry";
  }
  return entries;
}

function baseOf(usedIndex: number, usedWrap: number, slots: number, ringSize: number): number {
  const isNextLap = usedIndex + slots >= ringSize;
  const availWrap = isNextLap ? usedWrap ^ 1 : usedWrap;
  const availIndex = (usedIndex + slots) % ringSize;
  return (availIndex | (availWrap << 15) | (usedIndex << 16) | (usedWrap << 31)) >>> 0;
}
