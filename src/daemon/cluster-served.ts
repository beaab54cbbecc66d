// A volume of the cluster that this node serves, or means to: what is declared locally, and what
// is really open.
//
// The declaration keeps the settings of the attachment, so that a restart serves the same. It never
// decides whether to serve: the record in the metadata does.

import type { DeclaredClusterAttachment } from "../model/declared.ts";
import type { Health } from "../model/types.ts";
import { OperationQueue } from "./operation-queue.ts";

export class ServedVolume extends OperationQueue {
  readonly id: string;
  readonly name: string;
  /** null: attached here by the record, and not declared (yet). */
  declared: DeclaredClusterAttachment | null = null;
  /** The data plane holds it open. */
  open = false;
  /** The data plane listens on its socket. */
  serving = false;
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
