// The records of the volumes that this reactor owns, asked of the main thread: a question goes out
// as a message, its answer comes back as a command. The reactor waits for no promise.
//
// Invariant: every question is answered once, or never; whoever asked may be gone by then and looks
// for itself whether it still wants to know.

import type { OwnedRecord, RecordEntry, RecordSwap, VolumeRecords } from "../ports/index.ts";
import type { ReactorMessage } from "./reactor-protocol.ts";

type Answered = (answer: RecordEntry | RecordSwap | null) => void;

export class ReactorRecords {
  private readonly send: (message: ReactorMessage) => void;
  private readonly asked: Map<number, Answered> = new Map();
  private nextAsk = 1;

  constructor(send: (message: ReactorMessage) => void) {
    this.send = send;
  }

  /** The port of one volume's owner. */
  of(volumeId: string): VolumeRecords {
    return {
      read: (done) => {
        const askId = this.note((answer) => done(answer as RecordEntry | null));
        this.send({ kind: "record", askId, volumeId, swap: null });
      },
      swap: (revision: number, record: OwnedRecord, done) => {
        const askId = this.note((answer) => done(answer as RecordSwap));
        this.send({ kind: "record", askId, volumeId, swap: { revision, record } });
      },
    };
  }

  private note(answered: Answered): number {
    const askId = this.nextAsk;
    this.nextAsk += 1;
    this.asked.set(askId, answered);
    return askId;
  }

  answered(askId: number, answer: RecordEntry | RecordSwap | null): void {
    const told = this.asked.get(askId);
    this.asked.delete(askId);
    told?.(answer);
  }
}
