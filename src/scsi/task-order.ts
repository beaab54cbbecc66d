// @hot
// The task sets: which tasks a logical unit has, in the order they came, and which of them may
// touch the medium now (SAM-5 8.6 task attributes; SBC-3 4.7 for commands that are atomic).
//
//  - ORDERED: after all earlier tasks of its nexus, before all later ones. SIMPLE tasks go when
//    they like, HEAD OF QUEUE tasks wait for nothing.
//  - exclusive (COMPARE AND WRITE, ORWRITE, WRITE ATOMIC ...): alone in their range of bytes.
//
// Invariants:
//  - a task waits for tasks that have entered, or that wait and came before it; who has entered
//    waits for nobody's range. So somebody always goes on;
//  - without ORDERED or exclusive tasks nothing is looked at.

import type { LogicalUnit } from "./logical-unit.ts";
import { ATTRIBUTE_HEAD_OF_QUEUE, ATTRIBUTE_ORDERED, type ScsiTaskTable } from "./task.ts";

export const PHASE_NONE = 0;
/** The transport fetches data-out. */
export const PHASE_FETCH = 1;
/** Waits for its turn at the medium. */
const PHASE_GATE = 2;
/** A request is at the device. */
export const PHASE_DEVICE = 3;
/** Waits for a scratch buffer. */
export const PHASE_SCRATCH = 4;
/** Waits for something outside that cannot be called off. */
export const PHASE_OUTSIDE = 5;

export class TaskOrder {
  readonly phase: Uint8Array;
  /** Bytes of the medium that the task touches, [from, to). */
  readonly from: Float64Array;
  readonly to: Float64Array;
  readonly exclusive: Uint8Array;
  readonly entered: Uint8Array;
  private readonly tasks: ScsiTaskTable;
  private readonly next: Int32Array;
  private readonly previous: Int32Array;

  constructor(tasks: ScsiTaskTable) {
    const { capacity } = tasks;
    this.tasks = tasks;
    this.phase = new Uint8Array(capacity);
    this.from = new Float64Array(capacity);
    this.to = new Float64Array(capacity);
    this.exclusive = new Uint8Array(capacity);
    this.entered = new Uint8Array(capacity);
    this.next = new Int32Array(capacity).fill(-1);
    this.previous = new Int32Array(capacity).fill(-1);
  }

  add(unit: LogicalUnit, task: number): void {
    this.phase[task] = PHASE_NONE;
    this.from[task] = 0;
    this.to[task] = 0;
    this.exclusive[task] = 0;
    this.entered[task] = 0;
    this.previous[task] = unit.lastTask;
    this.next[task] = -1;
    if (unit.lastTask >= 0) this.next[unit.lastTask] = task;
    else unit.firstTask = task;
    unit.lastTask = task;
    if (this.tasks.attribute[task] === ATTRIBUTE_ORDERED) unit.orderedCount += 1;
  }

  remove(unit: LogicalUnit, task: number): void {
    const next = this.next[task];
    const previous = this.previous[task];
    if (next >= 0) this.previous[next] = previous;
    else unit.lastTask = previous;
    if (previous >= 0) this.next[previous] = next;
    else unit.firstTask = next;
    if (this.tasks.attribute[task] === ATTRIBUTE_ORDERED) unit.orderedCount -= 1;
    if (this.exclusive[task] === 1) unit.exclusiveCount -= 1;
    if (this.phase[task] === PHASE_GATE) unit.blockedCount -= 1;
    this.phase[task] = PHASE_NONE;
    this.entered[task] = 0;
  }

  /** The task after `task` in its unit, or -1. */
  after(task: number): number {
    return this.next[task];
  }

  /** Says which bytes the task is going to touch, before enter(). */
  claim(unit: LogicalUnit, task: number, from: number, to: number, isExclusive: boolean): void {
    this.from[task] = from;
    this.to[task] = to;
    if (isExclusive && this.exclusive[task] === 0) {
      this.exclusive[task] = 1;
      unit.exclusiveCount += 1;
    }
  }

  /** True: the task may go on. False: it waits, and ready() names it when its turn has come. */
  enter(unit: LogicalUnit, task: number): boolean {
    if (unit.orderedCount !== 0 || unit.exclusiveCount !== 0) {
      if (this.isBlocked(unit, task)) {
        if (this.phase[task] !== PHASE_GATE) unit.blockedCount += 1;
        this.phase[task] = PHASE_GATE;
        return false;
      }
    }
    if (this.phase[task] === PHASE_GATE) unit.blockedCount -= 1;
    this.phase[task] = PHASE_NONE;
    this.entered[task] = 1;
    return true;
  }

  /** A waiting task whose turn has come, entered now; or -1. */
  ready(unit: LogicalUnit): number {
    if (unit.blockedCount === 0) return -1;
    for (let task = unit.firstTask; task >= 0; task = this.next[task]) {
      if (this.phase[task] === PHASE_GATE && this.enter(unit, task)) return task;
    }
    return -1;
  }

  private isBlocked(unit: LogicalUnit, task: number): boolean {
    const { attribute, nexus } = this.tasks;
    const isOrdered = attribute[task] === ATTRIBUTE_ORDERED;
    const isHead = attribute[task] === ATTRIBUTE_HEAD_OF_QUEUE;
    let isEarlier = true;
    for (let other = unit.firstTask; other >= 0; other = this.next[other]) {
      if (other === task) {
        isEarlier = false;
        continue;
      }
      if (isEarlier && !isHead && nexus[other] === nexus[task]) {
        if (isOrdered || attribute[other] === ATTRIBUTE_ORDERED) return true;
      }
      const counts = this.entered[other] === 1 || (isEarlier && this.phase[other] === PHASE_GATE);
      if (!counts || (this.exclusive[other] | this.exclusive[task]) === 0) continue;
      if (this.from[task] < this.to[other] && this.from[other] < this.to[task]) return true;
    }
    return false;
  }
}
