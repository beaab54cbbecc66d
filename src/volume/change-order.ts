// @hot
// The order of one volume's changes: at most one change of a block is under way, in the order of
// arrival. A held slab (resync, repair) is a change like any other here; a read has a place only
// where it has to wait for changes, and nobody waits for it.
//
// Invariants: an entry waits for the changes and held slabs before it that overlap it, and for
// nothing else; what has nothing left to wait for is started from run(), never from within the
// end of another, and not at all while the volume does not serve.

import {
  BLOCKS_PER_SLAB,
  ENTRY_LOCK,
  NONE,
  type OwnerWorkspace,
  type WorkspaceClient,
} from "./owner-workspace.ts";

export const ENTRY_CHANGE = 0;
/** Reads that wait before they begin, and that wait to be answered. */
export const ENTRY_READ = 2;
export const ENTRY_READ_END = 3;

/** Whose order it is: starts what need not wait any more. */
export interface OrderClient extends WorkspaceClient {
  start(entry: number): void;
}

export class ChangeOrder {
  first: number = NONE;
  private last: number = NONE;
  count = 0;
  /** Entries start only while the volume serves. */
  isOpen = false;
  private readyHead: number = NONE;
  private readyTail: number = NONE;
  private isRunning = false;
  private readonly shared: OwnerWorkspace;
  private readonly client: OrderClient;
  private readonly noOrder: boolean;

  constructor(shared: OwnerWorkspace, client: OrderClient, noOrder: boolean) {
    this.shared = shared;
    this.client = client;
    this.noOrder = noOrder;
  }

  /** Is a change of these blocks under way or waiting? */
  isBusy(first: number, end: number): boolean {
    const { entryKind, entryFirst, entryEnd, entryNext } = this.shared;
    let at = this.first;
    while (at !== NONE) {
      if (
        entryKind[at] === ENTRY_CHANGE &&
        (entryFirst[at] as number) < end &&
        first < (entryEnd[at] as number)
      ) {
        return true;
      }
      at = entryNext[at] as number;
    }
    return false;
  }

  add(kind: number, slot: number, first: number, end: number): number {
    const { shared } = this;
    const entry = shared.takeEntry(this.client, kind, slot);
    shared.entryFirst[entry] = first;
    shared.entryEnd[entry] = end;
    let blockers = 0;
    let at = this.first;
    while (at !== NONE) {
      if (this.blocks(at, entry)) blockers += 1;
      at = shared.entryNext[at] as number;
    }
    shared.entryBlockers[entry] = blockers;
    shared.entryPrevious[entry] = this.last;
    shared.entryNext[entry] = NONE;
    if (this.last === NONE) this.first = entry;
    else shared.entryNext[this.last] = entry;
    this.last = entry;
    this.count += 1;
    if (blockers === 0) this.makeReady(entry);
    return entry;
  }

  // @cold
  get canLock(): boolean {
    return this.shared.hasFreeLock;
  }

  /**
   * Holds a whole slab: the client's start() is called when nothing else is at work on it. NONE:
   * as many are held as may be, by whichever volume; ask again later.
   */
  // @cold
  lockSlab(slabIndex: number): number {
    if (!this.shared.hasFreeLock) return NONE;
    const first = slabIndex * BLOCKS_PER_SLAB;
    return this.add(ENTRY_LOCK, NONE, first, first + BLOCKS_PER_SLAB);
  }

  private blocks(earlier: number, later: number): boolean {
    const { entryKind, entryFirst, entryEnd } = this.shared;
    const kind = entryKind[earlier] as number;
    if (kind > ENTRY_LOCK) return false;
    // A held slab is only copied; who reads it need not wait.
    if (kind === ENTRY_LOCK && (entryKind[later] as number) > ENTRY_LOCK) return false;
    if (this.noOrder && kind === ENTRY_CHANGE && entryKind[later] === ENTRY_CHANGE) return false;
    return (
      (entryFirst[earlier] as number) < (entryEnd[later] as number) &&
      (entryFirst[later] as number) < (entryEnd[earlier] as number)
    );
  }

  private makeReady(entry: number): void {
    this.shared.entryReadyNext[entry] = NONE;
    if (this.readyTail === NONE) this.readyHead = entry;
    else this.shared.entryReadyNext[this.readyTail] = entry;
    this.readyTail = entry;
  }

  /** Takes the entry out and frees it. run() has to be called after. */
  end(entry: number): void {
    const { shared } = this;
    const before = shared.entryPrevious[entry] as number;
    const after = shared.entryNext[entry] as number;
    if (before === NONE) this.first = after;
    else shared.entryNext[before] = after;
    if (after === NONE) this.last = before;
    else shared.entryPrevious[after] = before;
    this.count -= 1;
    let at = after;
    while (at !== NONE) {
      if (this.blocks(entry, at)) {
        shared.entryBlockers[at] = (shared.entryBlockers[at] as number) - 1;
        if (shared.entryBlockers[at] === 0) this.makeReady(at);
      }
      at = shared.entryNext[at] as number;
    }
    shared.releaseEntry(entry);
  }

  run(): void {
    if (this.isRunning) return;
    this.isRunning = true;
    while (this.isOpen && this.readyHead !== NONE) {
      const entry = this.readyHead;
      this.readyHead = this.shared.entryReadyNext[entry] as number;
      if (this.readyHead === NONE) this.readyTail = NONE;
      this.client.start(entry);
    }
    this.isRunning = false;
  }

  /** Forgets everything that waits to be started. */
  // @cold
  forgetReady(): void {
    this.readyHead = NONE;
    this.readyTail = NONE;
  }
}
