// How many kick, call and err descriptors the sessions of one device may hold together. The limit
// of open files is the process's, so that nobody may use it up.

import { assert } from "../base/index.ts";

/** Kick, call and err of every ring, for two sessions at a time (a live migration). */
const DESCRIPTORS_PER_QUEUE = 6;

export class DescriptorBudget {
  private readonly max: number;
  private count = 0;

  constructor(queueCountMax: number) {
    this.max = queueCountMax * DESCRIPTORS_PER_QUEUE;
  }

  /** Reserves one; a string says why it cannot be had. */
  take(): string | null {
    if (this.count >= this.max) return `more than ${this.max} ring descriptors for one device`;
    this.count += 1;
    return null;
  }

  give(): void {
    assert(this.count > 0, "a descriptor given back that was not taken");
    this.count -= 1;
  }
}
