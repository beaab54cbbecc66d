// The volumes of a store and the extents they own, all of it in memory, in the very words that the
// pages hold: 96 bytes per volume, 16 bytes per extent of 256 MiB.
//
// The words say what durable records say; `extents` of an open volume already knows the extents
// that a write under way has taken. Of a replica's entry three facts come from elsewhere: the
// committed stamp from RECORD_COMMIT, the newest stamp from the writes themselves, the base
// generation from checkpoints (see stamp-history.ts); a RECORD_VOLUME leaves them as they are.
//
// Invariants: an extent belongs to at most one volume; committed and newest never go back.

import { assert, high32, join64, low32 } from "../base/index.ts";
import type { Geometry } from "./geometry.ts";
import {
  EXTENT_BYTES,
  EXTENT_ENTRY,
  EXTENTS_PER_PAGE,
  PAGE_PAYLOAD_WORDS,
  VOLUME_DELETING,
  VOLUME_ENTRY,
  VOLUME_LIVE,
  VOLUME_NONE,
  VOLUME_NOTE,
  VOLUME_REPLICA,
  VOLUMES_PER_PAGE,
} from "./layouts.ts";
import {
  extentOf,
  freedOf,
  locationOf,
  RECORD_HEAD_WORDS,
  stampHighOf,
  stampLowOf,
} from "./records.ts";
import { isNewer } from "./stamps.ts";

const VOLUME_WORDS: number = VOLUME_ENTRY.BYTES / 4;
const EXTENT_WORDS: number = EXTENT_ENTRY.BYTES / 4;
export const EXTENT_NONE = -1;

export interface VolumeEntry {
  readonly state: number;
  readonly epoch: number;
  readonly uuid: Uint8Array;
  readonly sizeBytes: number;
  readonly createdAtMs: number;
  readonly flags: number;
  readonly membershipVersion: number;
  readonly clusterGeneration: number;
  readonly noteVersion: number;
}

/** Words of an entry that a RECORD_VOLUME does not carry. */
const BASE: number = VOLUME_ENTRY.baseGeneration / 4;
const COMMITTED: number = VOLUME_ENTRY.committedLow / 4;
const NEWEST: number = VOLUME_ENTRY.newestLow / 4;
const RUNNING_FIRST: number = BASE;
const RUNNING_END: number = NEWEST + 2;

export class VolumeTable {
  readonly capacity: number;
  readonly words: Uint32Array;
  readonly dirtyPages: Uint8Array;
  private readonly bytes: Uint8Array;
  /** Promised to a creation that is not durable yet. */
  private readonly promised: Uint8Array;

  constructor(geometry: Geometry) {
    this.capacity = geometry.volumeCount;
    this.words = new Uint32Array(geometry.volumePageCount * PAGE_PAYLOAD_WORDS);
    this.bytes = new Uint8Array(this.words.buffer);
    this.dirtyPages = new Uint8Array(geometry.volumePageCount);
    this.promised = new Uint8Array(this.capacity);
  }

  stateOf(volume: number): number {
    return this.words[this.wordOf(volume) + (VOLUME_ENTRY.state >>> 2)] as number;
  }

  entry(volume: number): VolumeEntry {
    return decodeEntry(this.words, this.bytes, this.wordOf(volume));
  }

  /** Index of the volume with this uuid, or -1. */
  find(uuid: Uint8Array): number {
    for (let volume = 0; volume < this.capacity; volume++) {
      const state = this.stateOf(volume);
      if (state === VOLUME_NONE || state === VOLUME_NOTE) continue;
      const at = this.wordOf(volume) * 4 + VOLUME_ENTRY.uuid;
      if (uuid.every((byte, index) => this.bytes[at + index] === byte)) return volume;
    }
    return -1;
  }

  promiseFree(): number {
    for (let volume = 0; volume < this.capacity; volume++) {
      if (this.stateOf(volume) !== VOLUME_NONE || this.promised[volume] === 1) continue;
      this.promised[volume] = 1;
      return volume;
    }
    return -1;
  }

  *live(): Generator<readonly [volume: number, entry: VolumeEntry]> {
    for (let volume = 0; volume < this.capacity; volume++) {
      if (this.stateOf(volume) === VOLUME_LIVE) yield [volume, this.entry(volume)];
    }
  }

  /** Every note's place, with its words. */
  *notes(): Generator<readonly [slot: number, words: Uint32Array]> {
    for (let slot = 0; slot < this.capacity; slot++) {
      if (this.stateOf(slot) !== VOLUME_NOTE) continue;
      const at = this.wordOf(slot);
      yield [slot, this.words.slice(at, at + VOLUME_WORDS)];
    }
  }

  /** The first volume not in `except` whose space is still to be given back, or -1. */
  firstDeleting(except: ReadonlySet<number>): number {
    for (let volume = 0; volume < this.capacity; volume++) {
      if (this.stateOf(volume) === VOLUME_DELETING && !except.has(volume)) return volume;
    }
    return -1;
  }

  /** A durable RECORD_VOLUME at word `at`. */
  apply(words: Uint32Array, at: number): void {
    const volume = extentOf(words, at);
    assert(volume < this.capacity, "a record of a volume that cannot be");
    const to = this.wordOf(volume);
    const from = at + RECORD_HEAD_WORDS;
    // What a deleted volume knew is not the next one's, even under the same name.
    const isLive = words[from + (VOLUME_ENTRY.state >>> 2)] === VOLUME_LIVE;
    const isAnother = !isLive || !this.isSameUuid(to, words, from);
    for (let word = 0; word < VOLUME_WORDS; word++) {
      if (word < RUNNING_FIRST || word >= RUNNING_END) {
        this.words[to + word] = words[from + word] as number;
      } else if (isAnother) {
        this.words[to + word] = 0;
      }
    }
    this.promised[volume] = 0;
    this.touch(volume);
  }

  private isSameUuid(to: number, words: Uint32Array, from: number): boolean {
    const uuid = VOLUME_ENTRY.uuid >>> 2;
    for (let word = uuid; word < uuid + 4; word++) {
      if (this.words[to + word] !== words[from + word]) return false;
    }
    return true;
  }

  private touch(volume: number): void {
    this.dirtyPages[Math.floor(volume / VOLUMES_PER_PAGE)] = 1;
  }

  // --- replicas --------------------------------------------------------------------------------

  isReplica(volume: number): boolean {
    const flags = this.words[this.wordOf(volume) + (VOLUME_ENTRY.flags >>> 2)] as number;
    return (flags & VOLUME_REPLICA) !== 0;
  }

  committedLow(volume: number): number {
    return this.words[this.wordOf(volume) + COMMITTED] as number;
  }

  committedHigh(volume: number): number {
    return this.words[this.wordOf(volume) + COMMITTED + 1] as number;
  }

  newestLow(volume: number): number {
    return this.words[this.wordOf(volume) + NEWEST] as number;
  }

  newestHigh(volume: number): number {
    return this.words[this.wordOf(volume) + NEWEST + 1] as number;
  }

  baseGeneration(volume: number): number {
    return this.words[this.wordOf(volume) + BASE] as number;
  }

  setBaseGeneration(volume: number, generation: number): void {
    this.words[this.wordOf(volume) + BASE] = generation;
    this.touch(volume);
  }

  /** Everything up to this stamp is durable on every member. False when that was known. */
  noteCommitted(volume: number, low: number, high: number): boolean {
    return this.raise(volume, COMMITTED, low, high);
  }

  /** A write with this stamp was applied. */
  noteNewest(volume: number, low: number, high: number): void {
    this.raise(volume, NEWEST, low, high);
  }

  private raise(volume: number, field: number, low: number, high: number): boolean {
    const word = this.wordOf(volume) + field;
    const { words } = this;
    if (!isNewer(low, high, words[word] as number, words[word + 1] as number)) return false;
    words[word] = low;
    words[word + 1] = high;
    this.touch(volume);
    return true;
  }

  /** A durable RECORD_COMMIT at word `at`. */
  applyCommit(words: Uint32Array, at: number): void {
    const volume = extentOf(words, at);
    assert(volume < this.capacity, "a record of a volume that cannot be");
    this.noteCommitted(volume, stampLowOf(words, at), stampHighOf(words, at));
  }

  private wordOf(volume: number): number {
    const page = Math.floor(volume / VOLUMES_PER_PAGE);
    return page * PAGE_PAYLOAD_WORDS + (volume % VOLUMES_PER_PAGE) * VOLUME_WORDS;
  }
}

function decodeEntry(words: Uint32Array, bytes: Uint8Array, at: number): VolumeEntry {
  const u64 = (offset: number): number => {
    const word = at + (offset >>> 2);
    return join64(words[word] as number, words[word + 1] as number);
  };
  return {
    state: words[at + (VOLUME_ENTRY.state >>> 2)] as number,
    epoch: words[at + (VOLUME_ENTRY.epoch >>> 2)] as number,
    uuid: bytes.slice(at * 4 + VOLUME_ENTRY.uuid, at * 4 + VOLUME_ENTRY.uuid + 16),
    sizeBytes: u64(VOLUME_ENTRY.sizeBytes),
    createdAtMs: u64(VOLUME_ENTRY.createdAtMs),
    flags: words[at + (VOLUME_ENTRY.flags >>> 2)] as number,
    membershipVersion: u64(VOLUME_ENTRY.membershipVersion),
    clusterGeneration: u64(VOLUME_ENTRY.clusterGeneration),
    noteVersion: u64(VOLUME_ENTRY.noteVersion),
  };
}

/** The words of an entry, as a RECORD_VOLUME carries them: without what runs beside it. */
export function encodeEntry(entry: VolumeEntry): Uint32Array {
  const words = new Uint32Array(VOLUME_WORDS);
  new Uint8Array(words.buffer).set(entry.uuid, VOLUME_ENTRY.uuid);
  words[VOLUME_ENTRY.state >>> 2] = entry.state;
  words[VOLUME_ENTRY.epoch >>> 2] = entry.epoch;
  const put = (offset: number, value: number): void => {
    words[offset >>> 2] = low32(value);
    words[(offset >>> 2) + 1] = high32(value);
  };
  put(VOLUME_ENTRY.sizeBytes, entry.sizeBytes);
  put(VOLUME_ENTRY.createdAtMs, entry.createdAtMs);
  words[VOLUME_ENTRY.flags >>> 2] = entry.flags;
  put(VOLUME_ENTRY.membershipVersion, entry.membershipVersion);
  put(VOLUME_ENTRY.clusterGeneration, entry.clusterGeneration);
  put(VOLUME_ENTRY.noteVersion, entry.noteVersion);
  return words;
}

const DOUBTFUL: number = EXTENT_ENTRY.doubtful / 4;

/** A map as mapOf() makes it, with room for `sizeBytes`. */
export function grownMap(map: Int32Array, sizeBytes: number): Int32Array {
  const extentCount = Math.ceil(sizeBytes / EXTENT_BYTES);
  if (extentCount <= map.length) return map;
  const grown = new Int32Array(extentCount).fill(EXTENT_NONE);
  grown.set(map);
  return grown;
}

export class ExtentTable {
  readonly capacity: number;
  readonly words: Uint32Array;
  readonly dirtyPages: Uint8Array;
  /** Taken by a write whose record is not durable yet. */
  private readonly promised: Uint8Array;
  private cursor = 0;

  constructor(geometry: Geometry) {
    const pageCount = geometry.bitmapPageStart - geometry.extentPageStart;
    this.capacity = geometry.extentCount;
    this.words = new Uint32Array(pageCount * PAGE_PAYLOAD_WORDS);
    this.dirtyPages = new Uint8Array(pageCount);
    this.promised = new Uint8Array(this.capacity);
  }

  /** Volume + 1 that owns the extent, 0 = free. */
  ownerOf(extent: number): number {
    return this.words[this.wordOf(extent) + (EXTENT_ENTRY.volume >>> 2)] as number;
  }

  indexOf(extent: number): number {
    return this.words[this.wordOf(extent) + (EXTENT_ENTRY.index >>> 2)] as number;
  }

  /** A free extent, promised from now on; EXTENT_NONE when there is none. */
  promise(): number {
    for (let looked = 0; looked < this.capacity; looked++) {
      const extent = this.cursor;
      this.cursor = extent + 1 < this.capacity ? extent + 1 : 0;
      if (this.ownerOf(extent) !== 0 || this.promised[extent] === 1) continue;
      this.promised[extent] = 1;
      return extent;
    }
    return EXTENT_NONE;
  }

  unpromise(extent: number): void {
    this.promised[extent] = 0;
  }

  /** Which extent holds each part of the volume; EXTENT_NONE where nothing was ever written. */
  mapOf(volume: number, sizeBytes: number): Int32Array {
    const map = new Int32Array(Math.ceil(sizeBytes / EXTENT_BYTES)).fill(EXTENT_NONE);
    for (let extent = 0; extent < this.capacity; extent++) {
      if (this.ownerOf(extent) !== volume + 1) continue;
      const index = this.indexOf(extent);
      if (index < map.length) map[index] = extent;
    }
    return map;
  }

  /** A durable RECORD_EXTENT at word `at`. */
  apply(words: Uint32Array, at: number): void {
    const extent = extentOf(words, at);
    assert(extent < this.capacity, "a record of an extent that cannot be");
    const to = this.wordOf(extent);
    this.words[to + (EXTENT_ENTRY.volume >>> 2)] = locationOf(words, at);
    this.words[to + (EXTENT_ENTRY.index >>> 2)] = freedOf(words, at);
    this.words[to + DOUBTFUL] = 0;
    this.promised[extent] = 0;
    this.dirtyPages[Math.floor(extent / EXTENTS_PER_PAGE)] = 1;
  }

  /** May one of the extent's leaf pages have doubts? */
  isDoubtful(extent: number): boolean {
    return this.words[this.wordOf(extent) + DOUBTFUL] !== 0;
  }

  setDoubtful(extent: number, isDoubtful: boolean): void {
    const word = this.wordOf(extent) + DOUBTFUL;
    const value = isDoubtful ? 1 : 0;
    if (this.words[word] === value) return;
    this.words[word] = value;
    this.dirtyPages[Math.floor(extent / EXTENTS_PER_PAGE)] = 1;
  }

  private wordOf(extent: number): number {
    const page = Math.floor(extent / EXTENTS_PER_PAGE);
    return page * PAGE_PAYLOAD_WORDS + (extent % EXTENTS_PER_PAGE) * EXTENT_WORDS;
  }
}
