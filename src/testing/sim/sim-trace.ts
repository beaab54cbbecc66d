// A record of everything a device was asked and did, from which the medium can be built as it could
// be found after a crash at any moment.
//
// Invariant: replaying all events over the trace's base gives the very state the device is in. Marks
// are the test's own (what was acknowledged to whom), so that it knows what must hold at a prefix.

import { assert } from "../../base/index.ts";
import type { BlockStore, Fragment } from "./sim-blocks.ts";
import type { OperationKind, Persist, WriteHistory } from "./write-history.ts";

export type SimTraceEvent =
  | {
      readonly type: "submit";
      readonly operation: number;
      readonly kind: OperationKind;
      readonly offsetBytes: number;
      readonly bytes: number;
      readonly durable: boolean;
      readonly persist: Persist;
    }
  /** Bytes of a write have reached the device. */
  | { readonly type: "data"; readonly operation: number; readonly fragment: Fragment }
  | { readonly type: "complete"; readonly operation: number; readonly result: number }
  | { readonly type: "mark"; readonly value: unknown };

/** What a trace has to know of a medium. */
export interface TracedMedia {
  readonly history: WriteHistory;
  readonly capacityBytes: number;
  readonly volatileCache: boolean;
}

export class SimTrace {
  readonly events: SimTraceEvent[] = [];
  /** The medium when the trace began. */
  readonly base: BlockStore;
  readonly capacityBytes: number;
  readonly volatileCache: boolean;

  constructor(media: TracedMedia) {
    const { pending, inFlightCount } = media.history;
    assert(pending.length === 0 && inFlightCount === 0, "a trace begins amid writes");
    this.base = media.history.durable.fork();
    this.capacityBytes = media.capacityBytes;
    this.volatileCache = media.volatileCache;
  }

  mark(value: unknown): void {
    this.events.push({ type: "mark", value });
  }

  /** The values of all marks among the first `count` events. */
  marks(count: number = this.events.length): unknown[] {
    const values: unknown[] = [];
    for (const event of this.events.slice(0, count)) {
      if (event.type === "mark") values.push(event.value);
    }
    return values;
  }

  /** One line per event, for people and for comparing runs. */
  lines(): string[] {
    return this.events.map((event) => {
      if (event.type === "submit") {
        const { operation, kind, offsetBytes, bytes, durable } = event;
        return `${operation} ${kind} ${offsetBytes}+${bytes}${durable ? " durable" : ""}`;
      }
      if (event.type === "data") {
        const { firstBlock, masks } = event.fragment;
        return `${event.operation} data ${firstBlock} ${Buffer.from(masks).toString("hex")}`;
      }
      if (event.type === "complete") return `${event.operation} complete ${event.result}`;
      return `mark ${JSON.stringify(event.value)}`;
    });
  }
}
