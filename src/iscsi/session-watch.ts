// What time does to a session: a peer that does not read, that does not send what it was asked for,
// or that is not there any more.

import { RESERVED_TAG } from "./layouts.ts";
import { DATA_OUT_MS, NOP_AFTER_MS, NOP_ANSWER_MS, SEND_MS } from "./limits.ts";
import type { PduStream } from "./pdu-stream.ts";
import type { ScsiTasks } from "./scsi-tasks.ts";
import type { SessionControl } from "./session-control.ts";

export class SessionWatch {
  /** When the initiator should have logged out by itself. */
  closeAtUs: number = Number.MAX_VALUE;
  private readonly stream: PduStream;
  private readonly control: SessionControl;
  private readonly scsiTasks: ScsiTasks | null;
  private heardBytes = 0;
  private heardUs: number;
  private sentBytes = 0;
  private sentUs: number;

  constructor(
    stream: PduStream,
    control: SessionControl,
    scsiTasks: ScsiTasks | null,
    nowUs: number,
  ) {
    this.stream = stream;
    this.control = control;
    this.scsiTasks = scsiTasks;
    this.heardUs = nowUs;
    this.sentUs = nowUs;
  }

  /** Called now and then. Why the session cannot go on, or an empty text. */
  tick(nowUs: number): string {
    const { stream } = this;
    if (stream.receivedBytes !== this.heardBytes) {
      this.heardBytes = stream.receivedBytes;
      this.heardUs = nowUs;
      this.control.pingTag = RESERVED_TAG;
    }
    if (stream.sentBytes !== this.sentBytes || stream.isDrained) {
      this.sentBytes = stream.sentBytes;
      this.sentUs = nowUs;
    }
    if (nowUs >= this.closeAtUs) return "asked to log out";
    const isLate = this.scsiTasks?.hasLateData(nowUs - DATA_OUT_MS * 1000) === true;
    if (isLate) return "data that was asked for has not come";
    if (nowUs - this.sentUs > SEND_MS * 1000) return "the initiator does not read";
    const silentMs = (nowUs - this.heardUs) / 1000;
    if (silentMs > NOP_AFTER_MS + NOP_ANSWER_MS) return "the initiator is silent";
    const mayPing = this.control.pingTag === RESERVED_TAG && stream.freeSlots > 1;
    if (silentMs > NOP_AFTER_MS && mayPing) this.control.ping();
    return "";
  }
}
