// @hot
// One request queue of a virtio-scsi device: a chain becomes a task of the device server, the end
// of the task an answer (virtio 1.2, 5.6.6.1).
//
//   readable  [ command request: lun, id, attributes, CDB ][ data-out ]
//   writable  [ command response: status, residual, sense ][ data-in  ]
//
// Invariants:
//  - a request that cannot be a command is answered with a response code and never reaches scsi/;
//    without room for a response code, or with descriptors out of order, the ring is broken;
//  - READ and WRITE move between the device and the guest's buffers, which are only ever mapped
//    while the chain is the one popped last: from inside submit (see ScsiTransport);
//  - a response is written whole: what is not sense data is zeroes.
// Rows are those of the hostile input checklist in TESTING.md.

import { assert, type RequestTable } from "../base/index.ts";
import {
  ATTRIBUTE_ACA,
  CDB_BYTES_MAX,
  LUN_BYTES,
  MAP_FAULT,
  MAP_OK,
  type ScsiTaskTable,
  SENSE_BYTES_MAX,
} from "../scsi/index.ts";
import {
  type BlkQueueStart,
  BROKEN_NO_STATUS,
  CHAIN_MISORDERED,
  gatherReadable,
  mapReadable,
  mapWritableBehind,
  markSegmentsDirty,
  POLL_BATCH_MAX,
} from "../virtio/index.ts";
import type { QueueSeams } from "./guest-device.ts";
import {
  COMMAND_REQUEST,
  COMMAND_RESPONSE,
  SCSI_S_BAD_TARGET,
  SCSI_S_FAILURE,
  SCSI_S_OK,
  SCSI_S_OVERRUN,
  SCSI_S_RESET,
} from "./layouts-scsi.ts";
import { SENSE_SIZE_MAX, senseBytesThatFit } from "./scsi-config.ts";
import type { ScsiGuest } from "./scsi-guest.ts";
import { isOurTarget, structureAt } from "./scsi-lun.ts";
import { ScsiRing } from "./scsi-ring.ts";

/** A response up to its sense data: enough to say what became of the request. */
const RESPONSE_HEAD_BYTES: number = COMMAND_RESPONSE.sense;

/** The thread's copy of the request that was popped last. */
const REQUEST: Uint8Array = new Uint8Array(COMMAND_REQUEST.BYTES);
/** The response being made; zeroes between two of them. */
const RESPONSE: Uint8Array = new Uint8Array(RESPONSE_HEAD_BYTES + SENSE_SIZE_MAX);
const RESPONSE_VIEW: DataView = new DataView(RESPONSE.buffer);
const NO_ADDRESSES: Float64Array = new Float64Array(0);

export class ScsiRequestQueue extends ScsiRing {
  private readonly guest: ScsiGuest;
  private readonly requests: RequestTable;
  private readonly tasks: ScsiTaskTable;
  private requestBytes = 0;
  private responseBytes = 0;
  /** Where the response of each head goes; -1: see pieces. */
  private responseAddresses: Float64Array = NO_ADDRESSES;
  /** Responses that a driver has cut: address and bytes of each piece, by head. */
  private readonly pieces: Map<number, Float64Array> = new Map();
  private taskCount = 0;

  constructor(index: number, seams: QueueSeams, guest: ScsiGuest) {
    super(index, seams, guest.counters);
    this.guest = guest;
    this.requests = guest.engine.requests;
    this.tasks = guest.engine.tasks;
  }

  get deviceCount(): number {
    return this.taskCount;
  }

  // @cold
  override start(options: BlkQueueStart): number {
    this.requestBytes = this.guest.config.requestBytes;
    this.responseBytes = this.guest.config.responseBytes;
    this.responseAddresses = new Float64Array(options.ring.size);
    const reason = super.start(options);
    if (reason === 0) this.guest.requestQueues[this.index] = this;
    return reason;
  }

  // @cold
  override close(): void {
    super.close();
    this.guest.requestQueues[this.index] = null;
    this.responseAddresses = NO_ADDRESSES;
    this.pieces.clear();
  }

  /** Takes what the driver has made available. True when nothing of it is left in the ring. */
  catchUp(): boolean {
    // A ring that the front-end has disabled, or stops, is not to be taken from.
    if (!this.seams.ring.enabled || !this.taking) return true;
    return this.poll() < POLL_BATCH_MAX && this.hasRoom();
  }

  protected hasRoom(): boolean {
    return this.guest.hasTaskRoom();
  }

  protected take(head: number): void {
    const { chain, guest } = this;
    if (!this.findResponse(head)) return;
    const inBytes = chain.writableBytes - this.responseBytes;
    const outBytes = chain.readableBytes - this.requestBytes;
    // Rows 15, 20, 25, 40: nothing of such a request is looked at. INOUT is not offered.
    const isFit = chain.flags === 0 && outBytes >= 0 && (inBytes === 0 || outBytes === 0);
    if (
      !isFit ||
      guest.nexus < 0 ||
      !gatherReadable(chain, this.memory, 0, REQUEST, this.requestBytes)
    ) {
      this.answer(head, SCSI_S_FAILURE);
      return;
    }
    if (!isOurTarget(REQUEST, COMMAND_REQUEST.lun)) {
      this.answer(head, SCSI_S_BAD_TARGET);
      return;
    }
    if (REQUEST[COMMAND_REQUEST.task_attr] > ATTRIBUTE_ACA) {
      this.answer(head, SCSI_S_FAILURE);
      return;
    }
    this.submit(head, outBytes, inBytes);
  }

  /** The predecessor's tasks ended with it, as by a reset: the driver sends them again. */
  protected retake(head: number): void {
    if (this.findResponse(head)) this.answer(head, SCSI_S_RESET);
  }

  private submit(head: number, outBytes: number, inBytes: number): void {
    const { tasks, guest } = this;
    const task = tasks.acquire();
    assert(task >= 0, "a task was free before the request was taken");
    const cdbAt = task * CDB_BYTES_MAX;
    const cdbBytes = this.requestBytes - COMMAND_REQUEST.cdb;
    for (let index = 0; index < cdbBytes; index++) {
      tasks.cdb[cdbAt + index] = REQUEST[COMMAND_REQUEST.cdb + index];
    }
    const lunAt = task * LUN_BYTES;
    const structure = structureAt(REQUEST, COMMAND_REQUEST.lun);
    tasks.lun[lunAt] = REQUEST[structure];
    tasks.lun[lunAt + 1] = REQUEST[structure + 1];
    tasks.attribute[task] = REQUEST[COMMAND_REQUEST.task_attr];
    tasks.dataOutBytes[task] = outBytes;
    tasks.dataInBytes[task] = inBytes;
    tasks.transportTagA[task] = head;
    tasks.transportTagB[task] = this.index;
    this.taskCount += 1;
    guest.submit(task, REQUEST);
  }

  // Data ------------------------------------------------------------------------------------------

  mapOut(slot: number, bytes: number): number {
    const { chain, memory, requests } = this;
    return mapReadable(chain, memory, this.requestBytes, bytes, requests, slot)
      ? MAP_OK
      : MAP_FAULT;
  }

  mapIn(slot: number, bytes: number): number {
    const { chain, memory, requests } = this;
    return mapWritableBehind(chain, memory, this.responseBytes, bytes, requests, slot)
      ? MAP_OK
      : MAP_FAULT;
  }

  // Answers ---------------------------------------------------------------------------------------

  /** The task has run: status, residual and sense data, and OVERRUN where it had more to move. */
  taskDone(task: number): void {
    const { tasks } = this;
    this.markDirty(task);
    const isOverrun = tasks.residualBytes(task) < 0;
    const moved = tasks.movedBytes[task];
    const outBytes = tasks.dataOutBytes[task];
    const inBytes = tasks.dataInBytes[task];
    const senseRoom = this.responseBytes - RESPONSE_HEAD_BYTES;
    const senseBytes = senseBytesThatFit(tasks.senseBytes[task], senseRoom);
    RESPONSE_VIEW.setUint32(COMMAND_RESPONSE.sense_len, senseBytes, true);
    RESPONSE_VIEW.setUint32(COMMAND_RESPONSE.residual, outBytes + inBytes - moved, true);
    RESPONSE[COMMAND_RESPONSE.status] = tasks.status[task];
    RESPONSE[COMMAND_RESPONSE.response] = isOverrun ? SCSI_S_OVERRUN : SCSI_S_OK;
    const senseAt = task * SENSE_BYTES_MAX;
    for (let index = 0; index < senseBytes; index++) {
      RESPONSE[COMMAND_RESPONSE.sense + index] = tasks.sense[senseAt + index];
    }
    const head = tasks.transportTagA[task];
    this.leave(head, this.responseBytes, inBytes > 0 ? moved : 0);
    for (let index = 0; index < senseBytes; index++) RESPONSE[COMMAND_RESPONSE.sense + index] = 0;
  }

  /** The task was stopped; `response` says why. */
  // @cold
  taskAborted(task: number, response: number): void {
    const { tasks } = this;
    this.markDirty(task);
    const bytes = tasks.dataOutBytes[task] + tasks.dataInBytes[task];
    RESPONSE_VIEW.setUint32(COMMAND_RESPONSE.sense_len, 0, true);
    RESPONSE_VIEW.setUint32(COMMAND_RESPONSE.residual, bytes, true);
    RESPONSE[COMMAND_RESPONSE.status] = 0;
    RESPONSE[COMMAND_RESPONSE.response] = response;
    this.leave(tasks.transportTagA[task], this.responseBytes, 0);
  }

  /** Also after an error some of the data may have been written. */
  private markDirty(task: number): void {
    const slot = this.tasks.slot[task];
    if (!this.memory.logging || slot < 0 || this.tasks.dataInBytes[task] === 0) return;
    markSegmentsDirty(this.requests, slot, this.memory);
  }

  private leave(head: number, responseBytes: number, dataBytes: number): void {
    this.taskCount -= 1;
    this.put(head, responseBytes, dataBytes);
  }

  /** Answers a request that is no task. */
  private answer(head: number, response: number): void {
    this.fillRefusal(response);
    this.put(head, this.responseBytes, 0);
  }

  private fillRefusal(response: number): void {
    RESPONSE_VIEW.setUint32(COMMAND_RESPONSE.sense_len, 0, true);
    RESPONSE_VIEW.setUint32(COMMAND_RESPONSE.residual, 0, true);
    RESPONSE[COMMAND_RESPONSE.status] = 0;
    RESPONSE[COMMAND_RESPONSE.response] = response;
    this.guest.refused();
  }

  private put(head: number, responseBytes: number, dataBytes: number): void {
    const address = this.responseAddresses[head];
    const isWritten =
      address >= 0
        ? this.memory.write(address, RESPONSE, 0, responseBytes)
        : this.writePieces(head, responseBytes);
    if (isWritten) this.push(head, responseBytes + dataBytes);
    else this.answerLost(head);
  }

  // Where responses go ----------------------------------------------------------------------------

  /** Notes the response's place. False: there is none, and the request has been dealt with. */
  private findResponse(head: number): boolean {
    const { chain } = this;
    const { writableBytes } = chain;
    if ((chain.flags & CHAIN_MISORDERED) !== 0 || writableBytes < RESPONSE_HEAD_BYTES) {
      this.giveUp(head, BROKEN_NO_STATUS);
      return false;
    }
    const first = chain.readableCount;
    if (chain.lengths[first] >= this.responseBytes) {
      this.responseAddresses[head] = chain.addresses[first];
      return true;
    }
    this.responseAddresses[head] = -1;
    this.cutResponse(head);
    if (writableBytes >= this.responseBytes) return true;
    // Row 40: no whole response has room, but its head has.
    this.fillRefusal(SCSI_S_FAILURE);
    this.put(head, RESPONSE_HEAD_BYTES, 0);
    return false;
  }

  // @cold
  private cutResponse(head: number): void {
    const { chain } = this;
    const pieces: number[] = [];
    let left = this.responseBytes;
    for (let index = chain.readableCount; index < chain.count && left > 0; index++) {
      const bytes = Math.min(chain.lengths[index], left);
      pieces.push(chain.addresses[index], bytes);
      left -= bytes;
    }
    this.pieces.set(head, Float64Array.from(pieces));
  }

  // @cold
  private writePieces(head: number, responseBytes: number): boolean {
    const pieces = this.pieces.get(head) as Float64Array;
    this.pieces.delete(head);
    let done = 0;
    for (let at = 0; at < pieces.length && done < responseBytes; at += 2) {
      const bytes = Math.min(pieces[at + 1], responseBytes - done);
      if (!this.memory.write(pieces[at], RESPONSE, done, bytes)) return false;
      done += bytes;
    }
    return true;
  }
}
