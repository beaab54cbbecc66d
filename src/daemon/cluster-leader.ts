// Who plans repairs: one node at a time, by a key on the lease of its liveness.
//
// Nothing else depends on it: without a leader nothing is planned, and everything that was goes on.
// Two nodes that both believe to lead do no harm: every step of a plan is guarded by the leader's
// key as it was when that node got it.

import { liveCodec } from "../meta/index.ts";
import { RECORD_FORMAT } from "../meta/records.ts";
import type { MetaLease } from "../ports/meta-store.ts";
import type { ClusterContext } from "./cluster-context.ts";

export class Leadership {
  readonly #context: ClusterContext;
  readonly #lease: () => MetaLease | null;

  constructor(context: ClusterContext, lease: () => MetaLease | null) {
    this.#context = context;
    this.#lease = lease;
  }

  /** Revision of the leader's key, when that is us; null = it is another, or not known. */
  async claim(): Promise<number | null> {
    const { inventory, member, incarnation, keys, link, host } = this.#context;
    const { leader } = inventory;
    const lease = this.#lease();
    if (lease === null) return null;
    const process = { node: member.nodeId, incarnation };
    if (leader !== null) {
      const { node, incarnation: run } = leader.record.process;
      return node === process.node && run === incarnation ? leader.modRevision : null;
    }
    const startedAt = host.modules.now().toISOString();
    const value = liveCodec.encode({ format: RECORD_FORMAT, process, startedAt });
    const answer = await link.ask("cannot become the node that plans", (store) =>
      store.compareAndSwap(keys.leader, 0, value, lease),
    );
    // Unknown: the watch tells.
    if (answer.outcome !== "applied") return null;
    host.modules.log.log("info", "cluster.leading", { node: member.nodeName });
    return answer.revision;
  }
}
