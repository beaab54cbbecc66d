// Bugs on demand: each flag puts a known hole of replication back, so that the tests can prove that
// they would find it. Nothing but a test ever sets one.

export interface OwnerBugs {
  /** Writes of one block do not wait for each other. */
  readonly noBlockOrder: boolean;
  /** A write is answered though a member that is still in sync lacks it. */
  readonly ackBeforeShrink: boolean;
  /** A read is answered without asking for grants. */
  readonly readsWithoutGrants: boolean;
  /** The new owner does not wait for the grants of the old one. */
  readonly grantsNotWaitedFor: boolean;
  /** A dead predecessor is enough, whatever came before or after it. */
  readonly deadIsBelieved: boolean;
  /** Members that did not answer a takeover stay in the record. */
  readonly serveWithoutExclusion: boolean;
  /** Reads do not wait for writes under way. */
  readonly readUncommitted: boolean;
  /** A takeover leaves slabs above the watermark as they are. */
  readonly noEqualise: boolean;
  /** A takeover leaves slabs alone that have equal stamps everywhere. */
  readonly equalStampsSkipped: boolean;
  /** A takeover serves when no slab is left to be begun, not when all have been written. */
  readonly equaliseEndsEarly: boolean;
  /** A resync copies only what the others have written. */
  readonly resyncForgetsTarget: boolean;
  /** A resync leaves out writes that were under way when it began. */
  readonly resyncForgetsInFlight: boolean;
  /** What a resync kept is taken for good though it was written while the member was away. */
  readonly keptThoughWritten: boolean;
  /** What a resync kept counts up to the last write, whether or not the member confirmed it. */
  readonly keptUnconfirmed: boolean;
  /** A resync copies slabs without holding them. */
  readonly resyncWithoutLock: boolean;
  /** A member is taken in before it has confirmed what was sent to it. */
  readonly reentryBeforeConfirmed: boolean;
  /** A record with the version that was asked for is taken for the one that was asked for. */
  readonly versionIsEnough: boolean;
  /** A swap whose answer is unknown is taken for applied. */
  readonly unknownIsApplied: boolean;
  /** The volume is handed over while writes are under way. */
  readonly surrenderBeforeDrain: boolean;
  /** A record that says "handed over" is believed, though somebody has written in its epoch. */
  readonly handedIsClean: boolean;
  /** An epoch in which somebody else has written is used again. */
  readonly epochTwice: boolean;
}

export const NO_OWNER_BUGS: OwnerBugs = {
  noBlockOrder: false,
  ackBeforeShrink: false,
  readsWithoutGrants: false,
  grantsNotWaitedFor: false,
  deadIsBelieved: false,
  serveWithoutExclusion: false,
  readUncommitted: false,
  noEqualise: false,
  equalStampsSkipped: false,
  equaliseEndsEarly: false,
  resyncForgetsTarget: false,
  resyncForgetsInFlight: false,
  keptThoughWritten: false,
  keptUnconfirmed: false,
  resyncWithoutLock: false,
  reentryBeforeConfirmed: false,
  versionIsEnough: false,
  unknownIsApplied: false,
  surrenderBeforeDrain: false,
  handedIsClean: false,
  epochTwice: false,
};
