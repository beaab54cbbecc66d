// A volume of the cluster that this node serves, or means to: what is declared locally, and what
// is really open.
//
// The declaration keeps the settings of the attachment, so that a restart serves the same. It never
// decides whether to serve: the record in the metadata does.

import type { DeclaredClusterAttachment } from "../model/declared.ts";
import type { Health } from "../model/types.ts";
import { OperationQueue } from "./operation-queue.ts";
import type { PlannedScsi } from "./scsi-attach.ts";

const NO_FRONT = { isRunning: false, isWaiting: false };

export class ServedVolume extends OperationQueue {
  readonly id: string;
  readonly name: string;
  /** null: attached here by the record, and not declared (yet). */
  declared: DeclaredClusterAttachment | null = null;
  /** What it is about to be declared as: the number is taken. */
  planned: PlannedScsi | null = null;
  /** The data plane holds it open. */
  open = false;
  /** With this size; meaningless while it is not open. */
  sizeBytes = 0;
  /** The data plane listens on its socket, or has the target; or it is stood by for. */
  serving = false;
  /** Of a target that is served: the portal's `HOST:PORT`. */
  portal: string | null = null;
  /** The same: which portals of others its initiators were told of, as text. */
  toldPaths = "[]";
  /** Of one in standby: the revision of the reservations that the data plane was given. */
  reservationsRevision = 0;
  /**
   * Another node has it, and this one's socket is open in case its guest comes here, or its target
   * is there in standby. Of a target whose secret this node does not have nothing is open, and the
   * portal leads to that node.
   */
  isStandby = false;
  /** What front-ends here do with its rings. */
  front: { readonly isRunning: boolean; readonly isWaiting: boolean } = NO_FRONT;
  /** Its rings have stopped while another node stands by, and have not been started again. */
  isLeaving = false;
  /** Since when this node asks for it; monotonic, 0 = it does not. */
  askedAtMs = 0;
  /** Whether it is to be given or taken is not looked at before; monotonic. */
  noticeAtMs = 0;
  /** Of the last attempt at that, as the log has it. */
  stepProblem = "";
  /** It is open because a copy of it is being made, and is attached nowhere. */
  working = false;
  /** What its owner was told of its members last; "" = nothing since it was opened. */
  toldMembers = "";
  problem: Health | null = null;
  /** Serving is not tried before this; monotonic. */
  retryAtMs = 0;
  retryCount = 0;

  constructor(id: string, name: string) {
    super("volume_busy", `volume ${name}`);
    this.id = id;
    this.name = name;
  }
}
