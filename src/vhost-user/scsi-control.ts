// The control queue of a virtio-scsi device: task management, and asynchronous notification, of
// which there is none (virtio 1.2, 5.6.6.2).
//
//   take -> held -> catchUp -> manage -> [tasks end] -> managementDone -> the answer
//
// Invariants:
//  - before a function is performed, all request rings have been emptied of what the driver had
//    made available: a command that lies unread in a ring must not outlive its own abortion;
//  - a function is answered when its tasks have ended and their answers are in the used rings where
//    the driver can see them: drivers free the buffers then;
//  - one function at a time; those behind it wait in the ring.

import {
  type ManagementHandler,
  manage,
  TMF_ABORT_TASK,
  TMF_ABORT_TASK_SET,
  TMF_CLEAR_ACA,
  TMF_CLEAR_TASK_SET,
  TMF_COMPLETE,
  TMF_I_T_NEXUS_RESET,
  TMF_INCORRECT_LUN,
  TMF_LOGICAL_UNIT_RESET,
  TMF_QUERY_TASK,
  TMF_QUERY_TASK_SET,
  TMF_SUCCEEDED,
} from "../scsi/index.ts";
import {
  BROKEN_NO_STATUS,
  CHAIN_MISORDERED,
  gatherReadable,
  scatterWritable,
} from "../virtio/index.ts";
import type { QueueSeams } from "./guest-device.ts";
import {
  AN_REQUEST,
  AN_RESPONSE,
  SCSI_S_ABORTED,
  SCSI_S_BAD_TARGET,
  SCSI_S_FAILURE,
  SCSI_S_FUNCTION_COMPLETE,
  SCSI_S_FUNCTION_REJECTED,
  SCSI_S_FUNCTION_SUCCEEDED,
  SCSI_S_INCORRECT_LUN,
  SCSI_S_OK,
  SCSI_T_AN_QUERY,
  SCSI_T_AN_SUBSCRIBE,
  SCSI_T_TMF,
  SCSI_T_TMF_ABORT_TASK,
  SCSI_T_TMF_ABORT_TASK_SET,
  SCSI_T_TMF_CLEAR_ACA,
  SCSI_T_TMF_CLEAR_TASK_SET,
  SCSI_T_TMF_I_T_NEXUS_RESET,
  SCSI_T_TMF_LOGICAL_UNIT_RESET,
  SCSI_T_TMF_QUERY_TASK,
  SCSI_T_TMF_QUERY_TASK_SET,
  TMF_REQUEST,
  TMF_RESPONSE,
} from "./layouts-scsi.ts";
import type { ScsiGuest } from "./scsi-guest.ts";
import { isOurTarget, lunStructure } from "./scsi-lun.ts";
import { ScsiRing } from "./scsi-ring.ts";

/** What virtio calls a function, and what scsi/ does. */
const FUNCTIONS: ReadonlyMap<number, number> = new Map([
  [SCSI_T_TMF_ABORT_TASK, TMF_ABORT_TASK],
  [SCSI_T_TMF_ABORT_TASK_SET, TMF_ABORT_TASK_SET],
  [SCSI_T_TMF_CLEAR_ACA, TMF_CLEAR_ACA],
  [SCSI_T_TMF_CLEAR_TASK_SET, TMF_CLEAR_TASK_SET],
  [SCSI_T_TMF_I_T_NEXUS_RESET, TMF_I_T_NEXUS_RESET],
  [SCSI_T_TMF_LOGICAL_UNIT_RESET, TMF_LOGICAL_UNIT_RESET],
  [SCSI_T_TMF_QUERY_TASK, TMF_QUERY_TASK],
  [SCSI_T_TMF_QUERY_TASK_SET, TMF_QUERY_TASK_SET],
]);

const RESPONSES: ReadonlyMap<number, number> = new Map([
  [TMF_COMPLETE, SCSI_S_FUNCTION_COMPLETE],
  [TMF_SUCCEEDED, SCSI_S_FUNCTION_SUCCEEDED],
  [TMF_INCORRECT_LUN, SCSI_S_INCORRECT_LUN],
]);

interface Held {
  readonly head: number;
  readonly request: Uint8Array;
}

export class ScsiControlQueue extends ScsiRing implements ManagementHandler {
  private readonly guest: ScsiGuest;
  /** Where the response byte of each head goes. */
  private readonly responses: Map<number, number> = new Map();
  /** A function that waits for the request rings. */
  private held: Held | null = null;

  constructor(index: number, seams: QueueSeams, guest: ScsiGuest) {
    super(index, seams, guest.counters);
    this.guest = guest;
  }

  get deviceCount(): number {
    return this.responses.size;
  }

  protected hasRoom(): boolean {
    return this.held === null && this.responses.size === 0;
  }

  override poll(): number {
    if (this.held === null) return super.poll();
    if (!this.guest.catchUp()) return 0;
    this.perform();
    return 1;
  }

  /** While a function waits the loop must not sleep. */
  override arm(): boolean {
    if (this.held === null) return super.arm();
    this.flush();
    return true;
  }

  /** The front-end stops the rings: whatever lies in them will be run when they start again. */
  override stopTaking(): void {
    super.stopTaking();
    const { held } = this;
    if (held === null) return;
    this.held = null;
    this.answer(held.head, SCSI_S_FAILURE);
  }

  protected take(head: number): void {
    const { chain, memory } = this;
    if ((chain.flags & CHAIN_MISORDERED) !== 0 || chain.writableBytes === 0) {
      this.giveUp(head, BROKEN_NO_STATUS);
      return;
    }
    const type = new Uint8Array(4);
    const isRead = chain.flags === 0 && gatherReadable(chain, memory, 0, type, type.length);
    const code = isRead ? new DataView(type.buffer).getUint32(0, true) : -1;
    if (code === SCSI_T_AN_QUERY || code === SCSI_T_AN_SUBSCRIBE) {
      this.takeNotification(head);
      return;
    }
    this.responses.set(head, chain.addresses[chain.readableCount]);
    const request = new Uint8Array(TMF_REQUEST.BYTES);
    const isWhole = isRead && gatherReadable(chain, memory, 0, request, request.length);
    if (code !== SCSI_T_TMF || !isWhole || this.guest.nexus < 0) {
      this.answer(head, SCSI_S_FAILURE);
    } else if (!isOurTarget(request, TMF_REQUEST.lun)) {
      this.answer(head, SCSI_S_BAD_TARGET);
    } else {
      this.held = { head, request };
      // Mostly the rings are empty: then it need not wait for the next turn.
      if (this.guest.catchUp()) this.perform();
    }
  }

  /** A function that a predecessor had taken is performed again: its tasks have ended with it. */
  protected retake(head: number): void {
    this.take(head);
  }

  // Asynchronous notification ---------------------------------------------------------------------

  /** The events that can be asked for are those of removable media: none ever comes. */
  private takeNotification(head: number): void {
    const { chain, memory } = this;
    if (chain.writableBytes < AN_RESPONSE.BYTES) {
      this.giveUp(head, BROKEN_NO_STATUS);
      return;
    }
    const request = new Uint8Array(AN_REQUEST.BYTES);
    let code = SCSI_S_FAILURE;
    if (gatherReadable(chain, memory, 0, request, request.length)) {
      code = isOurTarget(request, AN_REQUEST.lun) ? SCSI_S_OK : SCSI_S_BAD_TARGET;
    }
    const response = new Uint8Array(AN_RESPONSE.BYTES);
    response[AN_RESPONSE.response] = code;
    if (scatterWritable(chain, memory, response, response.length)) {
      this.push(head, response.length);
    } else {
      this.answerLost(head);
    }
  }

  // Task management -------------------------------------------------------------------------------

  private perform(): void {
    const { head, request } = this.held as Held;
    this.held = null;
    const view = new DataView(request.buffer);
    const management = FUNCTIONS.get(view.getUint32(TMF_REQUEST.subtype, true));
    if (management === undefined) {
      this.answer(head, SCSI_S_FUNCTION_REJECTED);
      return;
    }
    const { guest } = this;
    const lun = lunStructure(request, TMF_REQUEST.lun);
    const task = this.findTask(view, lun);
    if (management === TMF_ABORT_TASK && task >= 0) guest.abortResponses[task] = SCSI_S_ABORTED;
    if (management === TMF_ABORT_TASK_SET || management === TMF_CLEAR_TASK_SET) {
      this.markTaskSet(lun);
    }
    manage(guest.engine, { nexus: guest.nexus, lun, management, task }, this, head);
  }

  /** The task with the request's tag at the same logical unit, or -1. */
  private findTask(view: DataView, lun: Uint8Array): number {
    const low = view.getUint32(TMF_REQUEST.id, true);
    const high = view.getUint32(TMF_REQUEST.id + 4, true);
    const { guest } = this;
    for (let task = 0; task < guest.isOwn.length; task++) {
      if (guest.isOwn[task] === 0 || !this.isAt(task, lun)) continue;
      if (guest.tagsLow[task] === low && guest.tagsHigh[task] === high) return task;
    }
    return -1;
  }

  private markTaskSet(lun: Uint8Array): void {
    const { guest } = this;
    for (let task = 0; task < guest.isOwn.length; task++) {
      if (guest.isOwn[task] === 1 && this.isAt(task, lun)) {
        guest.abortResponses[task] = SCSI_S_ABORTED;
      }
    }
  }

  private isAt(task: number, lun: Uint8Array): boolean {
    const { tasks, places, links } = this.guest.engine;
    const place = places[tasks.nexus[task]];
    const link = links[task];
    return place !== null && link !== null && place.target.findLink(place.nexus, lun, 0) === link;
  }

  managementDone(head: number, response: number): void {
    this.guest.flushRequests();
    this.answer(head, RESPONSES.get(response) ?? SCSI_S_FUNCTION_REJECTED);
  }

  private answer(head: number, response: number): void {
    const address = this.responses.get(head) as number;
    this.responses.delete(head);
    if (this.memory.writeU8(address, response)) this.push(head, TMF_RESPONSE.BYTES);
    else this.answerLost(head);
  }
}
