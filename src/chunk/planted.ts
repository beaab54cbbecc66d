// Bugs on demand: each flag puts a known hole back, so that the tests can prove that they would
// find it. Nothing but a test ever sets one; all are false in NO_BUGS, which everybody else uses.

export interface PlantedBugs {
  /** A block whose checksum does not match is taken for a torn write and given a new checksum. */
  readonly launderMismatch: boolean;
  /** Writes to one block do not wait for each other. */
  readonly noBlockOrder: boolean;
  /** Data is taken from the caller's memory twice: for the checksum and for the disk. */
  readonly noPrivateCopy: boolean;
  /** A completed write is taken for a durable one, whatever the device's cache. */
  readonly trustCompletion: boolean;
  /** A group is acknowledged though one before it is not durable. */
  readonly ackOutOfOrder: boolean;
  /** Recovery takes a damaged group in the middle for the end of the ring. */
  readonly cutAnywhere: boolean;
  /** A freed slab is used again at once. */
  readonly noQuarantine: boolean;
  /** A discard is acknowledged and not carried out. */
  readonly discardKeepsData: boolean;
  /** A page of any generation is accepted: the other slot's, or one that a lost write left. */
  readonly acceptAnyPage: boolean;
  /** Ring space is reused before what it held is in the log. */
  readonly freeBeforeSettled: boolean;
  /** Records are applied to pages before their group is durable. */
  readonly applyEarly: boolean;
  /** A checkpoint writes the superblock before its pages are durable. */
  readonly superblockFirst: boolean;
  /** Replay accepts groups of an older opening behind newer ones, and follows no chain of CRCs. */
  readonly ignoreIncarnation: boolean;
  /** Recovered fresh and redirected data is believed without being read. */
  readonly trustTail: boolean;
  /** Write-back does not wait for reads of the block from the disk. */
  readonly writeBackEarly: boolean;
  /** What recovery dropped is not made gone for good before new groups follow. */
  readonly keepUncertain: boolean;
  /** The log says that groups are settled before their write-back is durable. */
  readonly logBeforeFlush: boolean;
  /** Groups are marked complete when they are durable, wherever their data is. */
  readonly markUnfinished: boolean;
  /** Replay does not give back the slabs that records freed. */
  readonly replayLeaks: boolean;
  /** Copies of the superblock are written in a fixed order, whichever are good. */
  readonly superblockFixedOrder: boolean;
  /** A fence answers while writes of an older epoch are on their way. */
  readonly fenceWithoutDrain: boolean;
  /** A fence tells nobody who wrote before. */
  readonly silentFence: boolean;
  /** A fence answers before its epoch is durable. */
  readonly epochInMemory: boolean;
  /** A replica takes its own durable writes for committed. */
  readonly commitAlone: boolean;
  /** Recovery tells no owner of the replica's writes that it dropped. */
  readonly forgetUncertain: boolean;
  /** A slab has the stamp of the write that was applied last, not of the newest. */
  readonly lastStampWins: boolean;
}

export const NO_BUGS: PlantedBugs = {
  launderMismatch: false,
  noBlockOrder: false,
  noPrivateCopy: false,
  trustCompletion: false,
  ackOutOfOrder: false,
  cutAnywhere: false,
  noQuarantine: false,
  discardKeepsData: false,
  acceptAnyPage: false,
  freeBeforeSettled: false,
  applyEarly: false,
  superblockFirst: false,
  ignoreIncarnation: false,
  trustTail: false,
  writeBackEarly: false,
  keepUncertain: false,
  logBeforeFlush: false,
  markUnfinished: false,
  replayLeaks: false,
  superblockFixedOrder: false,
  fenceWithoutDrain: false,
  silentFence: false,
  epochInMemory: false,
  commitAlone: false,
  forgetUncertain: false,
  lastStampWins: false,
};
