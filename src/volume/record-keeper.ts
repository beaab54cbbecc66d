// The owner's hand on its record: one change at a time, each followed up until it is known.
//
//   change --> swap --> applied                               --> done
//               ^   '-> conflict, still ours: on what is there now, again
//               |   '-> conflict, another's:                  --> deposed
//               '------ unknown: read again after a while
//
// Invariants: only the owner named in the record changes membership under its epoch, so a record
// that is ours and has the membership version and state we asked for is the one we asked for. While
// a change is under way nothing else is asked, and nobody is told anything of it.

import type {
  OwnedRecord,
  ReactorPort,
  RecordEntry,
  RecordSwap,
  VolumeRecords,
} from "../ports/index.ts";

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
  private readonly reactor: ReactorPort;
  private readonly records: VolumeRecords;
  private readonly owner: string;
  private readonly trustUnknown: boolean;
  private readonly waiting: Change[] = [];
  private current: Change | null = null;
  private wanted: OwnedRecord | null = null;
  private isStopped = false;

  constructor(owner: string, trustUnknown: boolean, modules: RecordKeeperModules) {
    this.owner = owner;
    this.trustUnknown = trustUnknown;
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

  /** Makes the next epoch ours. "deposed": somebody else took the volume meanwhile. */
  claim(done: (outcome: RecordOutcome) => void): void {
    this.records.read((entry) => {
      if (this.isStopped) return;
      if (entry === null) {
        this.later(() => this.claim(done));
        return;
      }
      this.entry = entry;
      this.predecessor = entry.record.owner;
      const epoch = entry.record.epoch + 1;
      this.start({
        make: (record) => ({ ...record, epoch, owner: this.owner, state: "open" }),
        done,
      });
    });
  }

  change(make: (record: OwnedRecord) => OwnedRecord, done: (outcome: RecordOutcome) => void): void {
    this.waiting.push({ make, done });
    this.next();
  }

  private next(): void {
    if (this.current !== null || this.isStopped) return;
    const change = this.waiting.shift();
    if (change !== undefined) this.start(change);
  }

  private start(change: Change): void {
    this.current = change;
    this.wanted = change.make(this.record);
    this.send();
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
    } else if (this.trustUnknown) {
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
      else if (entry.revision === (this.entry as RecordEntry).revision) this.send();
      else this.found(entry);
    });
  }

  /** The record has changed since we last knew it. */
  private found(found: RecordEntry): void {
    const wanted = this.wanted as OwnedRecord;
    const before = this.record;
    const { record } = found;
    if (record.owner === wanted.owner && record.epoch === wanted.epoch) {
      const isIt =
        record.membershipVersion === wanted.membershipVersion && record.state === wanted.state;
      this.entry = found;
      if (isIt) this.end("applied");
      else this.again();
    } else if (record.epoch === before.epoch && record.owner === before.owner) {
      // A change that is not about owners: the same wish, on what is there now.
      this.entry = found;
      this.again();
    } else {
      this.entry = found;
      this.end("deposed");
    }
  }

  private again(): void {
    this.wanted = (this.current as Change).make(this.record);
    this.send();
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
