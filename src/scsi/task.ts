// @hot
// The seam between a transport (iSCSI, virtio-scsi) and the SCSI device server: the table of tasks
// and what each side calls on the other (SAM-5 clauses 5 and 7: Execute Command and task
// management as procedure calls).
//
//   transport                                     ScsiEngine (engine.ts)
//   ---------                                     ----------------------
//   task = tasks.acquire()
//   fills cdb, lun, nexus, attribute,
//   dataOutBytes, dataInBytes
//   engine.submit(task)            ------------>  decodes and checks the command
//             [data-out wanted]    <------------  transport.fetchDataOut(task, bytes)
//   engine.dataOutReady(task)      ------------>
//   adds segments to the slot      <------------  transport.mapDataOut / mapDataIn(task, slot, n)
//   sends data, status, sense      <------------  transport.taskDone(task) | taskAborted(task)
//                                                 the engine releases slot and task
//
// Invariants:
//  - Each submitted task ends with exactly one taskDone or taskAborted. Both may come from inside
//    submit or dataOutReady. When the call returns, task and slot belong to the engine again.
//  - Data moves between the device and the segments the transport gave; nothing is moved past the
//    `bytes` it was asked for, which never exceed dataOutBytes or dataInBytes of the task.
//  - A request slot is taken only when the data-out is there: a peer that does not send holds a
//    task, which its transport counts, and nothing that others need.
//  - Without a free request slot the task ends with TASK SET FULL. Transports that can hold a
//    command back look at requests.freeSlots before they submit.

import { assert } from "../base/index.ts";

/** SAM-5 5.3: status codes. */
export const STATUS_GOOD = 0x00;
export const STATUS_CHECK_CONDITION = 0x02;
export const STATUS_CONDITION_MET = 0x04;
export const STATUS_BUSY = 0x08;
export const STATUS_RESERVATION_CONFLICT = 0x18;
export const STATUS_TASK_SET_FULL = 0x28;

/** Task attributes (SAM-5 8.7), numbered as virtio-scsi does. ACA is refused: NORMACA is 0. */
export const ATTRIBUTE_SIMPLE = 0;
export const ATTRIBUTE_ORDERED = 1;
export const ATTRIBUTE_HEAD_OF_QUEUE = 2;
export const ATTRIBUTE_ACA = 3;

/** What mapDataOut and mapDataIn answer. */
export const MAP_OK = 0;
/** The memory is not there: the task ends with ABORTED COMMAND. */
export const MAP_FAULT = 1;
/** No buffer just now: the task ends with BUSY. */
export const MAP_BUSY = 2;

/** Task management functions (SAM-5 clause 7). */
export const TMF_ABORT_TASK = 0;
export const TMF_ABORT_TASK_SET = 1;
export const TMF_CLEAR_TASK_SET = 2;
export const TMF_LOGICAL_UNIT_RESET = 3;
/** All logical units of the target, for iSCSI's target warm and cold reset. */
export const TMF_TARGET_RESET = 4;
export const TMF_I_T_NEXUS_RESET = 5;
export const TMF_QUERY_TASK = 6;
export const TMF_QUERY_TASK_SET = 7;
export const TMF_CLEAR_ACA = 8;

/** Service responses of task management. */
export const TMF_COMPLETE = 0;
/** QUERY TASK and QUERY TASK SET: there is such a task. */
export const TMF_SUCCEEDED = 1;
export const TMF_REJECTED = 2;
export const TMF_INCORRECT_LUN = 3;

/** Longest CDB that is looked at; virtio-scsi's cdb_size, iSCSI's without extended headers. */
export const CDB_BYTES_MAX = 32;
/** Room for sense data per task: all descriptors that are ever made fit (virtio's sense_size). */
export const SENSE_BYTES_MAX = 96;
export const LUN_BYTES = 8;

/** Life of a task. */
const TASK_FREE = 0;
/** Acquired; the transport fills it. */
const TASK_FILLING = 1;
/** The engine has it. */
export const TASK_SUBMITTED = 2;

/** What the engine calls. One object per I_T nexus, given to ScsiTarget.addNexus. */
export interface ScsiTransport {
  /**
   * The command goes on once the first `bytes` of its data-out (1 <= bytes <= dataOutBytes) have
   * arrived: fetch them and call engine.dataOutReady(task), at once if they are there. Bytes of
   * dataOutBytes beyond are not wanted: discard what comes of them.
   */
  fetchDataOut(task: number, bytes: number): void;
  /**
   * Adds segments for the first `bytes` of the task's data-out to the request slot (addSegment,
   * and FLAG_FAULTABLE where the memory is). Returns MAP_OK, MAP_FAULT or MAP_BUSY. The memory
   * stays until taskDone or taskAborted. Called at most once per task, from inside submit or
   * dataOutReady.
   */
  mapDataOut(task: number, slot: number, bytes: number): number;
  /** The same for data-in: at most dataInBytes; where the data is to be put. */
  mapDataIn(task: number, slot: number, bytes: number): number;
  /**
   * The task has ended: status, sense, movedBytes and residualBytes() are set. tasks.slot[task]
   * is the request slot with the transport's segments, still whole, or -1: data-in lies in its
   * first movedBytes bytes (after an error a part beyond may have been written, too).
   */
  taskDone(task: number): void;
  /**
   * The task was stopped by task management or with its nexus, and touches nothing any more. No
   * status is sent for it (TAS is 0); virtio-scsi completes it with a response code.
   */
  taskAborted(task: number): void;
  /**
   * A unit attention was established for this nexus: for transports that can tell (an event of
   * virtio-scsi, an asynchronous message of iSCSI). `code` is ASC * 256 + ASCQ.
   */
  unitAttention(lun: number, code: number): void;
}

/** Hears the answer to ScsiEngine.manage: every task it concerned has really ended by then. */
export interface ManagementHandler {
  managementDone(tag: number, response: number): void;
}

/** Who an I_T nexus is: the same initiator port at the same target port has the same. */
export interface NexusIdentity {
  /**
   * TransportID of the initiator port (SPC-4 7.6.4), a multiple of 4 bytes, as READ FULL STATUS
   * shows it: for iSCSI with the ISID, "iqn...,i,0x..." (see iscsiTransportId).
   */
  readonly transportId: Uint8Array;
  /** RELATIVE TARGET PORT IDENTIFIER of the target port, 1 to 65535. */
  readonly relativePort: number;
  /** SCSI name string of the target port, for VPD page 83h: for iSCSI "iqn...,t,0x0001". */
  readonly portName?: string;
}

/** Tasks of one reactor: integers into typed arrays, like request slots. */
export class ScsiTaskTable {
  readonly capacity: number;

  // Filled by the transport.
  /** CDB_BYTES_MAX bytes per task; acquire() clears them. */
  readonly cdb: Uint8Array;
  /** The logical unit number as the transport carries it, LUN_BYTES per task (SAM-5 4.7). */
  readonly lun: Uint8Array;
  /** Index given by ScsiTarget.addNexus. */
  readonly nexus: Uint16Array;
  /** An ATTRIBUTE_... */
  readonly attribute: Uint8Array;
  /** Data the initiator has for the device server (iSCSI: Expected Data Transfer Length). */
  readonly dataOutBytes: Uint32Array;
  /** Room the initiator has for data. */
  readonly dataInBytes: Uint32Array;
  /** Free for the transport. */
  readonly transportTagA: Uint32Array;
  readonly transportTagB: Uint32Array;

  // Results.
  /** A STATUS_... */
  readonly status: Uint8Array;
  /** SENSE_BYTES_MAX bytes per task, senseBytes of them valid. */
  readonly sense: Uint8Array;
  readonly senseBytes: Uint8Array;
  /** Bytes that were moved out of or into the transport's segments. */
  readonly movedBytes: Uint32Array;
  /** Bytes that the command asked to move, whatever room there was. */
  readonly wantedBytes: Float64Array;
  /** Request slot with the transport's segments, or -1. */
  readonly slot: Int32Array;

  private readonly state: Uint8Array;
  private readonly freeStack: Int32Array;
  private freeCount: number;

  constructor(capacity: number) {
    assert(capacity > 0 && capacity <= 65536, "a task must fit in 16 bits");
    this.capacity = capacity;
    this.cdb = new Uint8Array(capacity * CDB_BYTES_MAX);
    this.lun = new Uint8Array(capacity * LUN_BYTES);
    this.nexus = new Uint16Array(capacity);
    this.attribute = new Uint8Array(capacity);
    this.dataOutBytes = new Uint32Array(capacity);
    this.dataInBytes = new Uint32Array(capacity);
    this.transportTagA = new Uint32Array(capacity);
    this.transportTagB = new Uint32Array(capacity);
    this.status = new Uint8Array(capacity);
    this.sense = new Uint8Array(capacity * SENSE_BYTES_MAX);
    this.senseBytes = new Uint8Array(capacity);
    this.movedBytes = new Uint32Array(capacity);
    this.wantedBytes = new Float64Array(capacity);
    this.slot = new Int32Array(capacity).fill(-1);
    this.state = new Uint8Array(capacity);
    this.freeStack = new Int32Array(capacity);
    for (let index = 0; index < capacity; index++) this.freeStack[index] = capacity - 1 - index;
    this.freeCount = capacity;
  }

  get freeTasks(): number {
    return this.freeCount;
  }

  /** Takes a task with everything zero, or returns -1 when all are in use. */
  acquire(): number {
    if (this.freeCount === 0) return -1;
    this.freeCount -= 1;
    const task = this.freeStack[this.freeCount];
    assert(this.state[task] === TASK_FREE, "free task is in use");
    this.state[task] = TASK_FILLING;
    this.cdb.fill(0, task * CDB_BYTES_MAX, (task + 1) * CDB_BYTES_MAX);
    this.lun.fill(0, task * LUN_BYTES, (task + 1) * LUN_BYTES);
    this.attribute[task] = ATTRIBUTE_SIMPLE;
    this.dataOutBytes[task] = 0;
    this.dataInBytes[task] = 0;
    this.status[task] = STATUS_GOOD;
    this.senseBytes[task] = 0;
    this.movedBytes[task] = 0;
    this.wantedBytes[task] = 0;
    this.slot[task] = -1;
    return task;
  }

  /** Gives back a task that was never submitted. */
  discard(task: number): void {
    assert(this.state[task] === TASK_FILLING, "only a task that was not submitted is discarded");
    this.release(task);
  }

  /** For the engine: from here on the task ends by taskDone or taskAborted. */
  markSubmitted(task: number): void {
    assert(this.state[task] === TASK_FILLING, "a task is submitted once");
    this.state[task] = TASK_SUBMITTED;
  }

  /** For the engine, after the end of a task. */
  release(task: number): void {
    assert(this.state[task] !== TASK_FREE, "task released twice");
    this.state[task] = TASK_FREE;
    this.freeStack[this.freeCount] = task;
    this.freeCount += 1;
  }

  isSubmitted(task: number): boolean {
    return this.state[task] === TASK_SUBMITTED;
  }

  /**
   * Expected less wanted: positive is an underflow (the initiator expected more), negative an
   * overflow (the command had more to move), as iSCSI's residual count and its U and O bits.
   */
  residualBytes(task: number): number {
    return this.dataOutBytes[task] + this.dataInBytes[task] - this.wantedBytes[task];
  }
}
