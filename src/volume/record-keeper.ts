// The owner's hand on its record: one change at a time, each followed up until it is known.
//
//   change --> swap --> applied                               --> done
//               ^   '-> conflict, still ours: on what is there now, again
//               |   '-> conflict, another's, or older:        --> deposed
//               '------ unknown: read again after a while
//
// Invariants: only the owner named in the record puts members out and takes them in; others may add
// a member that is out, or take one away that is. So a change says what it wants of whatever record
// it finds, and is applied when the record is ours and is already as it would make it. While a
// change is under way nothing else is asked, and nobody is told anything of it.

import type {
  OwnedRecord,
  ReactorPort,
  RecordEntry,
  RecordSwap,
  VolumeRecords,
} from "../ports/index.ts";

import type { OwnerBugs } from "./owner-bugs.ts";

const RETRY_MS = 50;

export type RecordOutcome = "applied" | "deposed";

interface Change {
  readonly make: (record: OwnedRecord) => OwnedRecord;
  readonly done: (outcome: RecordOutcome) => void;
}

export interface RecordKeeperModules {
  readonly reactor: ReactorPort;
  readonly records: VolumeRecords;
}

export class RecordKeeper {
  /** As last known; never a guess. */
  entry: RecordEntry | null = null;
  /** Whom the record named when we claimed it. */
  predecessor: string | null = null;
  /**
   * It had let go in good order, by the record that our claim replaced: then nobody has written in
   * this epoch, or in a later one. 0 = it had not.
   */
  cleanBefore = 0;
  private readonly reactor: ReactorPort;
  private readonly records: VolumeRecords;
  private readonly owner: string;
  private readonly bugs: OwnerBugs;
  private readonly waiting: Change[] = [];
  private current: Change | null = null;
  private wanted: OwnedRecord | null = null;
  private isStopped = false;
  /** Told of every record that is newly known, before the change that met it goes on. */
  onRecord: ((record: OwnedRecord) => void) | null = null;

  constructor(owner: string, bugs: OwnerBugs, modules: RecordKeeperModules) {
    this.owner = owner;
    this.bugs = bugs;
    this.reactor = modules.reactor;
    this.records = modules.records;
  }

  get record(): OwnedRecord {
    return (this.entry as RecordEntry).record;
  }

  get isBusy(): boolean {
    return this.current !== null;
  }

  /** Nothing is asked and nobody is told any more. What was asked may still happen. */
  stop(): void {
    this.isStopped = true;
    this.waiting.length = 0;
  }

  /**
   * Makes the next epoch ours. "deposed": somebody else took the volume meanwhile. One that was
   * handed to us is ours in the epoch that it has: `named` is told so before the record says that
   * we have taken it.
   */
  claim(done: (outcome: RecordOutcome) => void, named: () => void): void {
    this.records.read((entry) => {
      if (this.isStopped) return;
      if (entry === null) {
        this.later(() => this.claim(done, named));
        return;
      }
      const { owner, state } = entry.record;
      this.predecessor = owner;
      this.learn(entry);
      const isHanded = state === "handed-over" && owner === this.owner;
      const epoch = entry.record.epoch + (isHanded ? 0 : 1);
      const make = (record: OwnedRecord): OwnedRecord => {
        if (record.owner !== this.owner || record.epoch !== epoch || record.state !== "open") {
          this.cleanBefore = cleanBeforeOf(record);
        }
        return { ...record, epoch, owner: this.owner, state: "open" };
      };
      this.start({ make, done });
      if (isHanded && !this.isStopped) named();
    });
  }

  /** Names the next owner, in the next epoch. Nothing of ours may be under way. */
  handOver(to: string, done: (outcome: RecordOutcome) => void): void {
    const epoch = this.record.epoch + 1;
    // Whoever was named may have taken it already.
    const isDone = (record: OwnedRecord): boolean => record.owner === to && record.epoch === epoch;
    this.change(
      (record) => (isDone(record) ? record : { ...record, epoch, owner: to, state: "handed-over" }),
      done,
    );
  }

  change(make: (record: OwnedRecord) => OwnedRecord, done: (outcome: RecordOutcome) => void): void {
    this.waiting.push({ make, done });
    this.next();
  }

  /** Reads what others may have changed. */
  look(done: (outcome: RecordOutcome) => void): void {
    this.change((record) => record, done);
  }

  private learn(entry: RecordEntry): void {
    this.entry = entry;
    this.onRecord?.(entry.record);
  }

  private next(): void {
    if (this.current !== null || this.isStopped) return;
    const change = this.waiting.shift();
    if (change !== undefined) this.start(change);
  }

  private start(change: Change): void {
    this.current = change;
    this.wanted = change.make(this.record);
    if (this.wanted === this.record) this.readAgain();
    else this.send();
  }

  private send(): void {
    const { entry, wanted } = this;
    if (entry === null || wanted === null) return;
    this.records.swap(entry.revision, wanted, (answer) => this.answered(answer, wanted));
  }

  private answered(answer: RecordSwap, wanted: OwnedRecord): void {
    if (this.isStopped || this.wanted !== wanted) return;
    if (answer.outcome === "applied") {
      this.entry = { record: wanted, revision: answer.revision };
      this.end("applied");
    } else if (answer.outcome === "conflict") {
      this.found(answer.found);
    } else if (this.bugs.unknownIsApplied) {
      this.entry = { record: wanted, revision: (this.entry as RecordEntry).revision + 1 };
      this.end("applied");
    } else {
      this.later(() => this.readAgain());
    }
  }

  private readAgain(): void {
    const { wanted } = this;
    this.records.read((entry) => {
      if (this.isStopped || this.wanted !== wanted) return;
      if (entry === null) this.later(() => this.readAgain());
      else if (entry.revision !== (this.entry as RecordEntry).revision) this.found(entry);
      else if (wanted === this.record) this.end("applied");
      else this.send();
    });
  }

  /** The record has changed since we last knew it. */
  private found(found: RecordEntry): void {
    const wanted = this.wanted as OwnedRecord;
    const before = this.record;
    const { record } = found;
    const isOurs = record.owner === wanted.owner && record.epoch === wanted.epoch;
    // Or nobody has claimed it meanwhile: a change that is not about owners.
    const isAsBefore = record.epoch === before.epoch && record.owner === before.owner;
    if (isNewerThan(before, record) || record.epoch < before.epoch) {
      // Records do not go back: this one comes from a backup, and we know better than it does.
      this.reactor.log.log("error", "volume-metadata-older", { epoch: before.epoch });
      this.end("deposed");
      return;
    }
    this.learn(found);
    if (this.isStopped) return;
    if (isOurs && this.bugs.versionIsEnough && isSame(wanted, record)) this.end("applied");
    else if (isOurs || isAsBefore) this.again();
    else this.end("deposed");
  }

  /** The same wish, on what is there now. */
  private again(): void {
    this.wanted = (this.current as Change).make(this.record);
    if (isSame(this.wanted, this.record)) this.end("applied");
    else this.send();
  }

  private end(outcome: RecordOutcome): void {
    const change = this.current as Change;
    this.current = null;
    this.wanted = null;
    if (outcome === "deposed") this.waiting.length = 0;
    change.done(outcome);
    this.next();
  }

  private later(action: () => void): void {
    const fired = (): void => {
      if (!this.isStopped) action();
    };
    this.reactor.setTimer(RETRY_MS, { timerFired: fired }, 0);
  }
}

/** Who lets go has written in its epoch; who is named has not in the one that it was given. */
function cleanBeforeOf({ state, epoch }: OwnedRecord): number {
  if (state === "open") return 0;
  return state === "clean" ? epoch + 1 : epoch;
}

/** The list of members is: generations of the cluster first. */
export function isNewerThan(a: OwnedRecord, b: OwnedRecord): boolean {
  if (a.clusterGeneration !== b.clusterGeneration) return a.clusterGeneration > b.clusterGeneration;
  return a.membershipVersion > b.membershipVersion;
}

/** A change that finds its wish fulfilled leaves the version of the list as it is. */
function isSame(a: OwnedRecord, b: OwnedRecord): boolean {
  const isOwner = a.owner === b.owner && a.epoch === b.epoch && a.state === b.state;
  return isOwner && a.membershipVersion === b.membershipVersion;
}
