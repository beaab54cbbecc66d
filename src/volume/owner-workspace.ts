// @hot
// What the owners of one reactor share: per request, per entry of a volume's order, and pieces. A
// piece is a part of a change that lies in one slab: it has its own sequence and 64 KiB of private
// memory, into which the guest's bytes are copied once; that copy serves all replicas.
//
//   guest's slot --> entry (its place in the order) --> pieces --> replicas
//
// Invariants:
//  - a piece's memory is not used again while any replica still has it;
//  - pieces are bounded: an entry that finds none waits, in the order of arrival;
//  - an entry outlives its request's answer where a replica under resync is still at work on it.

import { assert, type RequestOwner, type RequestTable, type SegmentCopier } from "../base/index.ts";
import type { Memory } from "../ports/index.ts";

export const SLAB_BYTES = 65536;
export const BLOCKS_PER_SLAB = 16;
export const NONE = -1;

/** 16 MiB in all, resident only once used. */
const PIECE_COUNT_DEFAULT = 256;
/** Slabs held by resyncs and repairs of all volumes: who finds none free asks again later. */
const LOCK_ENTRIES = 64;
/** See change-order.ts, which has the other kinds. */
export const ENTRY_LOCK = 1;

export interface OwnerWorkspaceOptions {
  readonly pieceCount?: number;
}

export interface OwnerWorkspaceModules {
  readonly requests: RequestTable;
  readonly memory: Memory;
  readonly copier: SegmentCopier;
}

/** A volume that uses the workspace. */
export interface WorkspaceClient {
  readDone(slot: number, result: number): void;
  /** Pieces have come free: go on with the entry. */
  pieceFreed(entry: number): void;
}

export class OwnerWorkspace implements RequestOwner {
  readonly requests: RequestTable;
  readonly memory: Memory;
  readonly copier: SegmentCopier;
  private readonly ownerIndex: number;

  // Per request -----------------------------------------------------------------------------------

  private readonly clients: (WorkspaceClient | null)[];
  private readonly ownerBefore: Uint16Array;
  /** The member that carries the read out; NONE before the first. */
  readonly readMember: Int16Array;
  /** Members that failed it, and those that failed it because of damage. */
  readonly triedMask: Uint8Array;
  readonly damagedMask: Uint8Array;
  readonly slotNext: Int32Array;

  // Per entry -------------------------------------------------------------------------------------

  readonly entryKind: Uint8Array;
  /** NONE once answered. */
  readonly entrySlot: Int32Array;
  readonly entryFirst: Float64Array;
  readonly entryEnd: Float64Array;
  readonly entryPrevious: Int32Array;
  readonly entryNext: Int32Array;
  readonly entryBlockers: Int32Array;
  /** The first block that has no piece yet. */
  readonly entryAt: Float64Array;
  readonly entryUnanswered: Int32Array;
  readonly entryUnfinished: Int32Array;
  readonly entryResult: Int32Array;
  readonly entryReadyNext: Int32Array;
  private readonly entryClient: (WorkspaceClient | null)[];
  private readonly freeEntries: Int32Array;
  private freeEntryCount: number;
  private lockCount = 0;

  // Per piece -------------------------------------------------------------------------------------

  readonly pieceCount: number;
  readonly pieceEntry: Int32Array;
  readonly pieceOp: Uint8Array;
  readonly pieceFirst: Float64Array;
  readonly pieceBlocks: Int32Array;
  readonly pieceAddress: Float64Array;
  readonly pieceSequence: Float64Array;
  readonly pieceStartedUs: Float64Array;
  /** Members that have not confirmed it, and members that have not yet completed a call. */
  readonly awaitedMask: Uint8Array;
  readonly outstandingMask: Uint8Array;
  readonly pieceAnswered: Uint8Array;
  readonly pieceFinished: Uint8Array;
  readonly piecePrevious: Int32Array;
  readonly pieceNext: Int32Array;
  private readonly freePieces: Int32Array;
  private freePieceCount: number;
  private waitingHead = NONE;
  private waitingTail = NONE;
  private readonly waitingNext: Int32Array;
  private isGranting = false;

  constructor(options: OwnerWorkspaceOptions, modules: OwnerWorkspaceModules) {
    const { requests, memory, copier } = modules;
    const { pieceCount = PIECE_COUNT_DEFAULT } = options;
    const { capacity } = requests;
    const entryCount = capacity + pieceCount + LOCK_ENTRIES;
    this.requests = requests;
    this.memory = memory;
    this.copier = copier;
    this.ownerIndex = requests.addOwner(this);
    this.clients = new Array<WorkspaceClient | null>(capacity).fill(null);
    this.ownerBefore = new Uint16Array(capacity);
    this.readMember = new Int16Array(capacity).fill(NONE);
    this.triedMask = new Uint8Array(capacity);
    this.damagedMask = new Uint8Array(capacity);
    this.slotNext = new Int32Array(capacity).fill(NONE);
    this.entryKind = new Uint8Array(entryCount);
    this.entrySlot = new Int32Array(entryCount).fill(NONE);
    this.entryFirst = new Float64Array(entryCount);
    this.entryEnd = new Float64Array(entryCount);
    this.entryPrevious = new Int32Array(entryCount).fill(NONE);
    this.entryNext = new Int32Array(entryCount).fill(NONE);
    this.entryBlockers = new Int32Array(entryCount);
    this.entryAt = new Float64Array(entryCount);
    this.entryUnanswered = new Int32Array(entryCount);
    this.entryUnfinished = new Int32Array(entryCount);
    this.entryResult = new Int32Array(entryCount);
    this.entryReadyNext = new Int32Array(entryCount).fill(NONE);
    this.waitingNext = new Int32Array(entryCount).fill(NONE);
    this.entryClient = new Array<WorkspaceClient | null>(entryCount).fill(null);
    this.freeEntries = new Int32Array(entryCount);
    this.freeEntryCount = entryCount;
    for (let at = 0; at < entryCount; at++) this.freeEntries[at] = entryCount - 1 - at;
    this.pieceCount = pieceCount;
    this.pieceEntry = new Int32Array(pieceCount).fill(NONE);
    this.pieceOp = new Uint8Array(pieceCount);
    this.pieceFirst = new Float64Array(pieceCount);
    this.pieceBlocks = new Int32Array(pieceCount);
    this.pieceAddress = new Float64Array(pieceCount);
    this.pieceSequence = new Float64Array(pieceCount);
    this.pieceStartedUs = new Float64Array(pieceCount);
    this.awaitedMask = new Uint8Array(pieceCount);
    this.outstandingMask = new Uint8Array(pieceCount);
    this.pieceAnswered = new Uint8Array(pieceCount);
    this.pieceFinished = new Uint8Array(pieceCount);
    this.piecePrevious = new Int32Array(pieceCount).fill(NONE);
    this.pieceNext = new Int32Array(pieceCount).fill(NONE);
    this.freePieces = new Int32Array(pieceCount);
    this.freePieceCount = pieceCount;
    const { address } = memory.allocate(pieceCount * SLAB_BYTES);
    for (let piece = 0; piece < pieceCount; piece++) {
      this.freePieces[piece] = pieceCount - 1 - piece;
      this.pieceAddress[piece] = address + piece * SLAB_BYTES;
    }
  }

  // Requests --------------------------------------------------------------------------------------

  /** The slot's completion comes to `client` from now on. */
  adopt(slot: number, client: WorkspaceClient): void {
    this.ownerBefore[slot] = this.requests.handOver(slot, this.ownerIndex);
    this.clients[slot] = client;
  }

  /** Answers a request that was adopted. */
  answerAdopted(slot: number, result: number): void {
    this.requests.handOver(slot, this.ownerBefore[slot] as number);
    this.clients[slot] = null;
    this.requests.complete(slot, result);
  }

  isAdopted(slot: number): boolean {
    return this.clients[slot] !== null;
  }

  requestCompleted(slot: number, result: number): void {
    (this.clients[slot] as WorkspaceClient).readDone(slot, result);
  }

  // Entries ---------------------------------------------------------------------------------------

  /** One more slab can be held. */
  get hasFreeLock(): boolean {
    return this.lockCount < LOCK_ENTRIES;
  }

  takeEntry(client: WorkspaceClient, kind: number, slot: number): number {
    assert(this.freeEntryCount > 0, "more entries than requests, pieces and locks");
    if (kind === ENTRY_LOCK) {
      assert(this.lockCount < LOCK_ENTRIES, "more slabs held than there are locks");
      this.lockCount += 1;
    }
    this.freeEntryCount -= 1;
    const entry = this.freeEntries[this.freeEntryCount] as number;
    this.entryClient[entry] = client;
    this.entryKind[entry] = kind;
    this.entrySlot[entry] = slot;
    this.entryUnanswered[entry] = 0;
    this.entryUnfinished[entry] = 0;
    this.entryResult[entry] = 0;
    return entry;
  }

  releaseEntry(entry: number): void {
    assert(this.entryClient[entry] !== null, "entry released twice");
    if (this.entryKind[entry] === ENTRY_LOCK) this.lockCount -= 1;
    this.entryClient[entry] = null;
    this.freeEntries[this.freeEntryCount] = entry;
    this.freeEntryCount += 1;
  }

  // Pieces ----------------------------------------------------------------------------------------

  /** NONE: there is none, or others wait for one. The entry is called when its turn comes. */
  takePiece(entry: number): number {
    const isFirst = this.waitingHead === NONE || this.isGranting;
    if (this.freePieceCount === 0 || !isFirst) {
      this.waitingNext[entry] = NONE;
      if (this.waitingTail === NONE) this.waitingHead = entry;
      else this.waitingNext[this.waitingTail] = entry;
      this.waitingTail = entry;
      return NONE;
    }
    this.freePieceCount -= 1;
    const piece = this.freePieces[this.freePieceCount] as number;
    this.pieceEntry[piece] = entry;
    return piece;
  }

  releasePiece(piece: number): void {
    assert(this.pieceEntry[piece] !== NONE, "piece released twice");
    this.pieceEntry[piece] = NONE;
    this.freePieces[this.freePieceCount] = piece;
    this.freePieceCount += 1;
    if (this.isGranting) return;
    this.isGranting = true;
    while (this.waitingHead !== NONE && this.freePieceCount > 0) {
      const entry = this.waitingHead;
      this.waitingHead = this.waitingNext[entry] as number;
      if (this.waitingHead === NONE) this.waitingTail = NONE;
      (this.entryClient[entry] as WorkspaceClient).pieceFreed(entry);
    }
    this.isGranting = false;
  }

  /** An entry that ends while it waits. */
  // @cold
  stopWaiting(entry: number): void {
    let before = NONE;
    for (let at = this.waitingHead; at !== NONE; at = this.waitingNext[at] as number) {
      if (at === entry) {
        const after = this.waitingNext[at] as number;
        if (before === NONE) this.waitingHead = after;
        else this.waitingNext[before] = after;
        if (after === NONE) this.waitingTail = before;
        return;
      }
      before = at;
    }
  }
}
