// @hot
// A queue of task slots, linked through an array of its own; a slot stands in it once.

import { assert } from "../base/index.ts";
import { TASKS_MAX } from "./limits.ts";

export class SlotQueue {
  private readonly next: Int16Array = new Int16Array(TASKS_MAX);
  private readonly isIn: Uint8Array = new Uint8Array(TASKS_MAX);
  private head = -1;
  private tail = -1;

  /** The oldest, or -1. */
  get first(): number {
    return this.head;
  }

  has(slot: number): boolean {
    return this.isIn[slot] === 1;
  }

  push(slot: number): void {
    assert(this.isIn[slot] === 0, "a slot queued twice");
    this.isIn[slot] = 1;
    this.next[slot] = -1;
    if (this.head < 0) this.head = slot;
    else this.next[this.tail] = slot;
    this.tail = slot;
  }

  /** Takes the oldest away. */
  shift(): void {
    const slot = this.head;
    assert(slot >= 0, "an empty queue");
    this.head = this.next[slot];
    this.isIn[slot] = 0;
  }

  /** Takes a slot out, wherever it stands; nothing where it is not in. */
  remove(slot: number): void {
    if (this.isIn[slot] === 0) return;
    this.isIn[slot] = 0;
    let before = -1;
    let at = this.head;
    while (at !== slot) {
      before = at;
      at = this.next[at];
    }
    if (before < 0) this.head = this.next[slot];
    else this.next[before] = this.next[slot];
    if (this.tail === slot) this.tail = before;
  }
}
