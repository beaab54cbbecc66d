// The state of the protocol model as bytes, and what a model is made of: its bounds and the holes
// that are planted in it.
//
//   | record, budgets, writes | owner 0 | owner 1 | replica | replica | replica |
//
// Everything that belongs to one replica lies in its column, also what an owner thinks of it and
// which messages are on their way to it: so replicas are interchangeable, and a state is made
// canonical by sorting columns.
//
// A stamp is a byte: the epoch in the upper half, the sequence in the lower one. A value is 0, what
// the block held at first, or 1 + the number of the write that it comes from.

export const REPLICAS = 3;
export const OWNERS = 2;
const WRITES = 3;

// The record in the metadata store, and the model's own book-keeping.
export const REVISION = 0;
export const RECORD_EPOCH = 1;
export const BROKEN = 2;
export const OWNER_CRASHES = 3;
export const REPLICA_CRASHES = 4;
export const BREAKS = 5;
export const WRITE_COUNT = 6;
/** Whose the record is: 1 + the owner's slot. */
export const RECORD_OWNER = 7;
/** Per block: the newest value that a client has been told of, by an answer to a write or a read. */
export const SETTLED = 8;

/** Members that may still be added to the record, and taken away. */
export const ADDITIONS = 10;
export const REMOVALS = 11;

// A write, from its issue on.
const WRITE_BASE = 12;
const WRITE_BYTES = 4;
export const STAMP = 0;
export const BLOCK = 1;
/** 1: answered. */
export const ACKED = 2;
/** The watermark that travels with it. */
export const CARRIED = 3;
/** Per write: 1 when it was issued after a newer owner had begun to serve. */
export const LATE: number = WRITE_BASE + WRITES * WRITE_BYTES;

// Of the record, where volumes are handed over: its state, and whose node the volume is attached to.
export const RECORD_STATE = 27;
export const ATTACHED = 28;
/** Where the guest runs: 1 + the owner's slot; 0: it waits for the volume. */
export const GUEST = 29;

// Where the metadata may go back: how often still, the version of the record's list of members, and
// a bit for each epoch that anybody has served in.
export const RESTORES = 30;
export const VERSION = 31;
export const SERVED = 32;
/** Per write, there: 1 + the slot of its owner, since two may then ask for one epoch. */
export const WRITER = 33;

export const STATE_OPEN = 0;
export const STATE_HANDED = 1;

// An owner: a slot in which one incarnation after another may live.
const OWNER_BASE: number = WRITER + WRITES;
const OWNER_BYTES = 23;
export const PHASE = 0;
export const EPOCH = 1;
export const NEXT_SEQUENCE = 2;
/** The watermark: a stamp. */
export const COMMITTED = 3;
/** 0 none, 1 + block. */
export const READ = 4;
/** 0: has begun; 1: has its value. */
export const READ_HAS_VALUE = 5;
/** Until it has its value: what a client had been told when it began. */
export const READ_FLOOR = 6;
/** Then: is the value older than that? */
export const READ_IS_OLD = 7;
export const READ_VALUE = 8;
/** Under `grantsAtStart`: the grants were there when the read began. */
export const READ_GRANTED = 9;
export const CAS_KIND = 10;
export const CAS_STAGE = 11;
export const CAS_REVISION = 12;
export const CAS_SINCE = 13;
/** A swap whose sender is gone, still on its way. */
export const FLOATING_KIND = 14;
export const FLOATING_REVISION = 15;
export const FLOATING_SINCE = 16;
/** A slab's image in the owner's memory: 0 none, else its stamp; then its blocks. */
export const IMAGE_STAMP = 17;
export const IMAGE = 18;
/** Of the record, as the owner last knew it. */
export const KNOWN_REVISION = 20;
export const KNOWN_VERSION = 21;
/**
 * 0, or: nothing was under way when the owner before let go, and this is the first epoch in which
 * nobody can have written by the record that was claimed.
 */
export const CLEAN_BEFORE = 22;

export const PHASE_NONE = 0;
export const PHASE_CLAIMING = 1;
export const PHASE_FENCING = 2;
export const PHASE_EQUALISING = 3;
export const PHASE_SERVING = 4;

export const CAS_TAKEOVER = 1;
export const CAS_EXCLUDE = 2;
export const CAS_REENTER = 3;
/** Names the other slot as the owner of the next epoch. */
export const CAS_HAND_OVER = 4;
/** By whom is named: it has taken it. */
export const CAS_TAKE = 5;

export const STAGE_SENT = 1;
/** The store has decided. Its answer travels, or is lost. */
export const STAGE_DECIDED = 2;
/** Under holes of unknown answers: given up before the store decided; the swap still travels. */
export const STAGE_GIVEN_UP = 3;

// A replica's column.
const COLUMN_BASE: number = OWNER_BASE + OWNERS * OWNER_BYTES;
export const COLUMN_BYTES = 37;
export const UP = 0;
export const REPLICA_EPOCH = 1;
export const DATA = 2;
export const SLAB_STAMP = 4;
export const KNOWN_COMMITTED = 5;
/** In the record: 0 in sync, 1 out, or not named at all; out since which stamp. */
export const OUT = 6;
export const SINCE = 7;
export const NOT_NAMED = 2;
/** The value of a block that a new disk holds: less than what was there at first. */
export const EMPTY = 15;

/** Where the metadata may go back: the newest version of the record's list that the disk has seen. */
export const SEEN = 8;
/** And who has fenced it in the epoch that it has: 1 + the owner's slot, 0 one that is gone. */
export const EPOCH_OF = 9;

// In a column, per owner.
const VIEW_BASE = 10;
const VIEW_BYTES = 9;
export const VIEW = 0;
export const ANSWERED = 1;
export const CONNECTED = 2;
/** The replica still counts a grant that it gave to this owner. */
export const GRANT_COUNTED = 3;
/** The owner holds it. */
export const GRANT_HELD = 4;
/** What the swap under way, or the floating one, is about. */
export const IN_CAS = 5;
export const IN_FLOATING = 6;
/** Equalised, or copied by the resync. */
export const DONE = 7;
/**
 * Under `keeps`. Of a replica that is out: up to which stamp the slab that an earlier resync copied is
 * good, 0 = none did. Under resync: 1 = it has been copied, in this or an earlier one.
 */
export const KEPT = 8;

export const VIEW_OUT = 0;
export const VIEW_COUNTED = 1;
export const VIEW_RESYNCING = 2;
/** The swap that takes it in may have been applied. */
export const VIEW_ENTERING = 3;

// In a column, per write.
const COPY_BASE = VIEW_BASE + OWNERS * VIEW_BYTES;
const COPY_BYTES = 3;
/** What the owner knows: 0 not sent, 1 waiting for the answer, 2 durable there. */
export const ANSWER = 0;
/** The copy in the present session, and the one that a broken session left behind. */
export const COPY = 1;
export const OLD_COPY = 2;

export const TRAVELLING = 1;
/** Past the gate, not yet durable. */
export const QUEUED = 2;

export const STATE_BYTES: number = Math.ceil((COLUMN_BASE + REPLICAS * COLUMN_BYTES) / 4) * 4;

/** Holes that may be planted, each named by what the protocol then does not do, or does wrongly. */
export type Hole =
  | "readsWithoutGrants"
  | "grantsNotWaitedFor"
  | "restartForgetsGrants"
  | "excludedNotAsked"
  | "enteringNotAsked"
  | "fenceWithoutDrain"
  | "serveWithoutExclusion"
  | "readUncommitted"
  | "readOvertaken"
  | "noEqualise"
  | "equalStampsSkipped"
  | "watermarkBeforeAck"
  | "overlappingWrites"
  | "ackBeforeShrink"
  | "oldSessionNotFenced"
  | "unknownIsApplied"
  | "unknownIsRefused"
  | "recordWithoutOwner"
  | "resyncForgetsTarget"
  | "resyncForgetsInFlight"
  | "resyncWithoutLock"
  | "keptThoughWritten"
  | "keptUnconfirmed"
  | "reentryBeforeConfirmed"
  | "reentryCountsLater"
  | "newIsInSync"
  | "newSinceNow"
  | "inSyncTakenAway"
  | "versionIsEnough"
  | "handedBeforeDrain"
  | "servesBeforeOpen"
  | "cancelGoesOn"
  | "attachmentLater"
  | "handedIsTaken"
  | "handedIsClean"
  | "olderVersionServed"
  | "refusedIsPutOut"
  | "epochTwice"
  | "nothingNoted";

/** Another way to do it, that turns out to do no harm. */
export type Variant = "grantsAtStart";

/** How large a model is. */
export interface Scope {
  readonly blocks: 1 | 2;
  /** At most 3, over both owners. */
  readonly writes: number;
  /** The highest epoch: 1 + the number of takeovers. */
  readonly epochs: number;
  readonly ownerCrashes: number;
  readonly replicaCrashes: number;
  /** Sessions that break. */
  readonly breaks: number;
  /** Without reads there are no grants either. */
  readonly reads: boolean;
  /** One replica is out, and has been away since before the first write. */
  readonly startsOut?: boolean;
  /**
   * One replica is an empty disk that is not in the record (with startsOut: that has just been
   * added); it may be added, and one taken away.
   */
  readonly replaces?: boolean;
  /** What a resync has copied when it is given up need not be copied by the next one. */
  readonly keeps?: boolean;
  /** The third replica is no member, and never becomes one. */
  readonly members?: 2;
  /** Owners end by handing over to the other slot; a guest follows, or is kept back. */
  readonly handsOver?: boolean;
  /** With handsOver: at first the volume has just been handed to B. */
  readonly startsHanded?: boolean;
  /** The metadata goes back to what it was at first. Not with startsOut, nor with replaces. */
  readonly restores?: 1;
  /** And whoever remembers better may be put out unheard. */
  readonly isUnheard?: boolean;
}

export const ownerAt = (owner: number): number => OWNER_BASE + owner * OWNER_BYTES;
export const writeAt = (write: number): number => WRITE_BASE + write * WRITE_BYTES;
export const columnAt = (replica: number): number => COLUMN_BASE + replica * COLUMN_BYTES;
export const viewAt = (replica: number, owner: number): number =>
  columnAt(replica) + VIEW_BASE + owner * VIEW_BYTES;
export const copyAt = (replica: number, write: number): number =>
  columnAt(replica) + COPY_BASE + write * COPY_BYTES;

export const stampOf = (epoch: number, sequence: number): number => (epoch << 4) | sequence;
export const epochOf = (stamp: number): number => stamp >> 4;

/** Values in the order in which they were written. */
export function versionOf(state: Uint8Array, value: number): number {
  if (value === EMPTY) return -1;
  return value === 0 ? 0 : state[writeAt(value - 1) + STAMP];
}

/** Is the write of the present incarnation of `owner`? An epoch that is only claimed owns nothing. */
export function isOwn(state: Uint8Array, owner: number, write: number): boolean {
  const at = ownerAt(owner);
  if (state[at + PHASE] < PHASE_FENCING) return false;
  const writer = state[WRITER + write];
  if (writer !== 0 && writer !== owner + 1) return false;
  return epochOf(state[writeAt(write) + STAMP]) === state[at + EPOCH];
}

/** Is a write of the present incarnation of `owner` not yet durable on all that it was sent to? */
export function isOpen(state: Uint8Array, owner: number, write: number): boolean {
  if (!isOwn(state, owner, write)) return false;
  if (state[writeAt(write) + ACKED] === 0) return true;
  for (let replica = 0; replica < REPLICAS; replica++) {
    if (state[viewAt(replica, owner) + VIEW] === VIEW_OUT) continue;
    if (state[copyAt(replica, write) + ANSWER] === 1) return true;
  }
  return false;
}

/** The open writes of `owner`; of one block, or of the whole slab (`block` -1). */
export function hasOpen(state: Uint8Array, owner: number, block: number): boolean {
  for (let write = 0; write < state[WRITE_COUNT]; write++) {
    if (block !== -1 && state[writeAt(write) + BLOCK] !== block) continue;
    if (isOpen(state, owner, write)) return true;
  }
  return false;
}

/** May the owner speak to the replica, and does the gate let it in? */
export function isReachable(state: Uint8Array, owner: number, replica: number): boolean {
  const column = columnAt(replica);
  return (
    state[viewAt(replica, owner) + CONNECTED] === 1 &&
    state[column + UP] === 1 &&
    state[column + REPLICA_EPOCH] === state[ownerAt(owner) + EPOCH]
  );
}

/** What a step is given: the state before, a copy to change, and whom to tell of the result. */
export class Step {
  state: Uint8Array = new Uint8Array(STATE_BYTES);
  readonly next: Uint8Array = new Uint8Array(STATE_BYTES);
  readonly scope: Scope;
  readonly holes: ReadonlySet<Hole | Variant>;
  private visit: (next: Uint8Array, action: number) => void = () => {};
  private readonly kinds: readonly string[];

  constructor(scope: Scope, holes: ReadonlySet<Hole | Variant>, kinds: readonly string[]) {
    this.scope = scope;
    this.holes = holes;
    this.kinds = kinds;
  }

  from(state: Uint8Array, visit: (next: Uint8Array, action: number) => void): void {
    this.state = state;
    this.visit = visit;
  }

  begin(): Uint8Array {
    this.next.set(this.state);
    return this.next;
  }

  end(kind: string, owner: number, replica: number, argument: number): void {
    const index = this.kinds.indexOf(kind);
    this.visit(this.next, (index << 6) | (owner << 4) | (replica << 2) | argument);
  }
}
