// @hot
// A virtio-scsi device as one session's guest sees it: its queues, and the I_T nexus between the
// guest and the controller's target. The transport's side of scsi/task.ts.
//
//   ScsiRequestQueue -> submit -> engine -> [mapDataOut | mapDataIn] -> taskDone -> the answer
//   ScsiControlQueue -> manage -> engine -> taskAborted ... -> the answer
//   unit attentions, units that come and go -> ScsiEventQueue
//
// Invariants:
//  - the nexus begins when the session first runs rings and ends with the session: a guest that is
//    paused, or whose rings stop for a migration, loses nothing that a nexus has;
//  - a guest has at most TASKS_MAX tasks at a time, so that others find some;
//  - the chain of a task is looked at only inside submit(): scsi/ maps data before it waits.

import { assert, OP_READ, OP_WRITE } from "../base/index.ts";
import {
  manage,
  type NexusLink,
  type ScsiEngine,
  type ScsiTransport,
  TMF_I_T_NEXUS_RESET,
} from "../scsi/index.ts";
import { add, COUNTER_COMMAND, COUNTER_OTHER, countCompleted } from "../virtio/index.ts";
import type { GuestDevice, QueueSeams, RingQueue } from "./guest-device.ts";
import {
  COMMAND_REQUEST,
  CONTROL_RING,
  EVENT_RING,
  SCSI_EVT_RESET_REMOVED,
  SCSI_EVT_RESET_RESCAN,
  SCSI_F_CHANGE,
  SCSI_F_HOTPLUG,
  SCSI_S_RESET,
  SCSI_T_PARAM_CHANGE,
  SCSI_T_TRANSPORT_RESET,
} from "./layouts-scsi.ts";
import type { ScsiConfig } from "./scsi-config.ts";
import { ScsiControlQueue } from "./scsi-control.ts";
import { ScsiEventQueue } from "./scsi-events.ts";
import type { ScsiModel } from "./scsi-model.ts";
import { ScsiRequestQueue } from "./scsi-requests.ts";

/** Tasks of one guest at a time; its rings wait for the next. */
const TASKS_MAX = 1024;
/** What a slot's op is for a command that is not a READ or WRITE. */
const OP_NONE = 0xff;
/** ASCQs of "parameters changed" (2Ah) that change what a driver has read: mode, capacity. */
const ASC_PARAMETERS_CHANGED = 0x2a;
const ASCQ_MODE = 0x01;
const ASCQ_CAPACITY = 0x09;
/** INQUIRY DATA HAS CHANGED. */
const INQUIRY_CHANGED = 0x3f03;

export class ScsiGuest implements GuestDevice, ScsiTransport {
  readonly config: ScsiConfig;
  readonly engine: ScsiEngine;
  readonly counters: Float64Array;
  /** By ring index; null where the ring does not run. */
  readonly requestQueues: (ScsiRequestQueue | null)[] = [];
  /** Per task: its tag's two words, whether it is ours, what its abortion is answered with. */
  readonly tagsLow: Uint32Array;
  readonly tagsHigh: Uint32Array;
  readonly isOwn: Uint8Array;
  readonly abortResponses: Uint8Array;

  private readonly model: ScsiModel;
  private readonly startedUs: Float64Array;
  private events: ScsiEventQueue | null = null;
  private nexusIndex = -1;
  private taskCount = 0;
  /** The task whose chain is the one popped last; -1 outside submit(). */
  private current = -1;

  constructor(model: ScsiModel, config: ScsiConfig) {
    this.model = model;
    this.config = config;
    this.engine = model.engine;
    this.counters = model.meter.counters;
    const { capacity } = this.engine.tasks;
    this.tagsLow = new Uint32Array(capacity);
    this.tagsHigh = new Uint32Array(capacity);
    this.isOwn = new Uint8Array(capacity);
    this.abortResponses = new Uint8Array(capacity);
    this.startedUs = new Float64Array(capacity);
  }

  // GuestDevice -----------------------------------------------------------------------------------

  // @cold
  begin(): void {
    if (this.nexusIndex >= 0) return;
    this.nexusIndex = this.model.addGuest(this);
  }

  /** -1: the engine has no room for another nexus, and every request is refused. */
  get nexus(): number {
    return this.nexusIndex;
  }

  // @cold
  newQueue(index: number, seams: QueueSeams): RingQueue {
    if (index === CONTROL_RING) return new ScsiControlQueue(index, seams, this);
    if (index !== EVENT_RING) return new ScsiRequestQueue(index, seams, this);
    const events = new ScsiEventQueue(index, seams, this);
    this.events = events;
    return events;
  }

  /** As real hardware, a device that is reset loses its nexus and gets it again. */
  // @cold
  reset(): void {
    this.config.forgetSizes();
    if (this.nexusIndex < 0) return;
    const request = {
      nexus: this.nexusIndex,
      lun: new Uint8Array(8),
      management: TMF_I_T_NEXUS_RESET,
      task: -1,
    };
    manage(this.engine, request, { managementDone: (): void => {} }, 0);
  }

  /** A unit's capacity is told by an event, see unitAttention(); the space does not show it. */
  // @cold
  refresh(): boolean {
    return false;
  }

  // @cold
  end(): void {
    assert(this.taskCount === 0, "a guest ends with tasks under way");
    if (this.nexusIndex >= 0) this.model.removeGuest(this);
    this.nexusIndex = -1;
    this.events = null;
  }

  // Tasks -----------------------------------------------------------------------------------------

  hasTaskRoom(): boolean {
    const { engine } = this;
    return (
      this.taskCount < TASKS_MAX && engine.tasks.freeTasks !== 0 && engine.requests.freeSlots !== 0
    );
  }

  /** Hands over a task whose fields are filled; `request` is the command request it came in. */
  submit(task: number, request: Uint8Array): void {
    const at = COMMAND_REQUEST.id;
    this.tagsLow[task] = word(request, at);
    this.tagsHigh[task] = word(request, at + 4);
    this.isOwn[task] = 1;
    this.abortResponses[task] = SCSI_S_RESET;
    this.startedUs[task] = this.model.reactor.loopTimeUs;
    this.engine.tasks.nexus[task] = this.nexusIndex;
    this.taskCount += 1;
    this.current = task;
    this.engine.submit(task);
    this.current = -1;
  }

  refused(): void {
    add(this.counters, COUNTER_OTHER, 1);
  }

  private queueOf(task: number): ScsiRequestQueue {
    return this.requestQueues[this.engine.tasks.transportTagB[task]] as ScsiRequestQueue;
  }

  private leave(task: number): void {
    this.isOwn[task] = 0;
    this.taskCount -= 1;
  }

  private count(task: number): void {
    const { engine } = this;
    const link = engine.links[task] as NexusLink;
    const slot = engine.tasks.slot[task];
    const op = slot < 0 ? OP_NONE : engine.requests.op[slot];
    const meter = this.model.meterOf(link);
    add(meter.counters, COUNTER_COMMAND, 1);
    // A unit with a meter of its own counts there what it asks of its device.
    if (link.unit.meter !== null) return;
    if (op !== OP_READ && op !== OP_WRITE) {
      add(meter.counters, COUNTER_OTHER, 1);
      return;
    }
    countCompleted(meter.counters, op, engine.tasks.movedBytes[task]);
    meter.recordLatency(op, this.model.reactor.loopTimeUs - this.startedUs[task]);
  }

  // ScsiTransport ---------------------------------------------------------------------------------

  /** Data-out lies in guest memory from the beginning. */
  fetchDataOut(task: number, _bytes: number): void {
    this.engine.dataOutReady(task);
  }

  mapDataOut(task: number, slot: number, bytes: number): number {
    assert(task === this.current, "data-out mapped after a wait");
    this.engine.requests.op[slot] = OP_NONE;
    return this.queueOf(task).mapOut(slot, bytes);
  }

  mapDataIn(task: number, slot: number, bytes: number): number {
    assert(task === this.current, "data-in mapped after a wait");
    this.engine.requests.op[slot] = OP_NONE;
    return this.queueOf(task).mapIn(slot, bytes);
  }

  taskDone(task: number): void {
    this.leave(task);
    this.count(task);
    this.queueOf(task).taskDone(task);
  }

  // @cold
  taskAborted(task: number): void {
    this.leave(task);
    this.queueOf(task).taskAborted(task, this.abortResponses[task]);
  }

  // Task management -------------------------------------------------------------------------------

  /** All request rings have been emptied of what the driver had made available. */
  // @cold
  catchUp(): boolean {
    let isEmpty = true;
    for (const queue of this.requestQueues) {
      if (queue !== null && queue !== undefined && !queue.catchUp()) isEmpty = false;
    }
    return isEmpty;
  }

  /** Shows the driver every answer that has been given. */
  // @cold
  flushRequests(): void {
    for (const queue of this.requestQueues) queue?.flush();
  }

  // Events ----------------------------------------------------------------------------------------

  /** Parameters that a driver has read have changed: it is told, besides the unit attention. */
  // @cold
  unitAttention(lun: number, code: number): void {
    if (lun < 0 || !this.config.accepted(SCSI_F_CHANGE)) return;
    const asc = code >>> 8;
    const ascq = code & 0xff;
    const isParameter = asc === ASC_PARAMETERS_CHANGED;
    if (!(isParameter && (ascq === ASCQ_MODE || ascq === ASCQ_CAPACITY))) {
      if (code !== INQUIRY_CHANGED) return;
    }
    this.events?.send(SCSI_T_PARAM_CHANGE, lun, asc | (ascq << 8));
  }

  // @cold
  unitAdded(lun: number): void {
    if (!this.config.accepted(SCSI_F_HOTPLUG)) return;
    this.events?.send(SCSI_T_TRANSPORT_RESET, lun, SCSI_EVT_RESET_RESCAN);
  }

  // @cold
  unitRemoved(lun: number): void {
    if (!this.config.accepted(SCSI_F_HOTPLUG)) return;
    this.events?.send(SCSI_T_TRANSPORT_RESET, lun, SCSI_EVT_RESET_REMOVED);
  }
}

function word(bytes: Uint8Array, at: number): number {
  const high = (bytes[at + 3] << 24) | (bytes[at + 2] << 16);
  return (high | (bytes[at + 1] << 8) | bytes[at]) >>> 0;
}
