// The event queue of a virtio-scsi device: buffers that the driver gives in advance, each used for
// one event (virtio 1.2, 5.6.6.3).
//
// Invariants:
//  - a buffer is taken when there is something to tell, never before: none is in flight for long;
//  - an event without a buffer is lost, and the loss is told with the next buffer that comes. A
//    driver then looks at everything again;
//  - a device that goes on after a crash has lost events, for all it knows;
//  - events may come up while a request's chain is looked at: this ring has a chain of its own.

import {
  type BlkQueueStart,
  Chain,
  NONE,
  POLL_BATCH_MAX,
  scatterWritable,
} from "../virtio/index.ts";
import type { QueueSeams } from "./guest-device.ts";
import { EVENT, SCSI_T_EVENTS_MISSED, SCSI_T_NO_EVENT } from "./layouts-scsi.ts";
import type { ScsiGuest } from "./scsi-guest.ts";
import { eventLun } from "./scsi-lun.ts";
import { ScsiRing } from "./scsi-ring.ts";

const EVENT_CHAIN: Chain = new Chain();

export class ScsiEventQueue extends ScsiRing {
  protected override readonly chain: Chain = EVENT_CHAIN;
  private isMissed = false;

  constructor(index: number, seams: QueueSeams, guest: ScsiGuest) {
    super(index, seams, guest.counters);
  }

  get deviceCount(): number {
    return 0;
  }

  override start(options: BlkQueueStart): number {
    this.isMissed = options.resubmit !== null;
    return super.start(options);
  }

  override poll(): number {
    if (this.resubmitCount !== 0) return super.poll();
    if (!this.isMissed || !this.taking) return 0;
    return this.tell(noEvent()) ? 1 : 0;
  }

  /** Without a loss to tell of, nobody need kick us. */
  override arm(): boolean {
    if (this.isMissed || this.resubmitCount !== 0) return super.arm();
    this.flush();
    return false;
  }

  /** Tells the driver, if it has its event ring running. */
  send(event: number, lun: number, reason: number): void {
    if (!this.taking) return;
    const bytes = new Uint8Array(EVENT.BYTES);
    const view = new DataView(bytes.buffer);
    view.setUint32(EVENT.event, event, true);
    bytes.set(eventLun(lun), EVENT.lun);
    view.setUint32(EVENT.reason, reason, true);
    if (this.resubmitCount === 0 && this.seams.ring.enabled) this.tell(bytes);
    else this.isMissed = true;
  }

  protected hasRoom(): boolean {
    return true;
  }

  /** Not called: poll() takes a buffer only when it has something for it. */
  protected take(head: number): void {
    this.put(head, noEvent());
  }

  /** A buffer that a predecessor had taken: whatever it was to tell is lost. */
  protected retake(head: number): void {
    this.isMissed = true;
    this.put(head, noEvent());
  }

  /** False: there is no buffer, and that is noted. */
  private tell(event: Uint8Array): boolean {
    for (let count = 0; count < POLL_BATCH_MAX; count++) {
      const head = this.queue.pop(this.chain);
      if (head < 0) {
        this.isMissed = true;
        if (head !== NONE) this.breakRing(head);
        return false;
      }
      if (this.put(head, event)) return true;
    }
    return false;
  }

  /** False: the buffer is too small for any event; it goes back empty. */
  private put(head: number, event: Uint8Array): boolean {
    const { chain } = this;
    if (chain.flags !== 0 || chain.writableBytes < EVENT.BYTES) {
      this.isMissed = true;
      this.push(head, 0);
      return false;
    }
    const view = new DataView(event.buffer);
    const type = view.getUint32(EVENT.event, true);
    if (this.isMissed) view.setUint32(EVENT.event, (type | SCSI_T_EVENTS_MISSED) >>> 0, true);
    if (!scatterWritable(chain, this.memory, event, EVENT.BYTES)) {
      this.answerLost(head);
      return true;
    }
    this.isMissed = false;
    this.push(head, EVENT.BYTES);
    return true;
  }
}

function noEvent(): Uint8Array {
  const bytes = new Uint8Array(EVENT.BYTES);
  new DataView(bytes.buffer).setUint32(EVENT.event, SCSI_T_NO_EVENT, true);
  return bytes;
}
