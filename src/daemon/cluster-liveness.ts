// Says to the cluster that this node's daemon is alive: a key on a lease that is renewed. When the
// lease is lost, because the metadata was away or this process stood still, another is made, for
// ever, with growing pauses. So it is also how a node knows whether its metadata answers.

import { liveCodec, type MetaKeys } from "../meta/index.ts";
import { type LiveRecord, RECORD_FORMAT } from "../meta/records.ts";
import type { Log } from "../ports/log.ts";
import type { MetaLease } from "../ports/meta-store.ts";
import type { MetaLink } from "./cluster-link.ts";
import type { ClusterTimings } from "./cluster-timings.ts";

export interface LivenessModules {
  readonly link: MetaLink;
  readonly keys: MetaKeys;
  readonly timings: ClusterTimings;
  readonly log: Log;
  readonly now: () => Date;
  /** Reachability has changed. */
  readonly changed: () => void;
  readonly fatal: (error: unknown) => void;
}

const STOP_PATIENCE_MS = 1000;

export class Liveness {
  readonly #modules: LivenessModules;
  readonly #record: LiveRecord;
  #lease: MetaLease | null = null;
  #timer: NodeJS.Timeout | null = null;
  #pauseMs: number;
  #isStopped = false;

  constructor(node: string, incarnation: number, modules: LivenessModules) {
    this.#modules = modules;
    this.#pauseMs = modules.timings.retryFirstMs;
    const startedAt = modules.now().toISOString();
    this.#record = { format: RECORD_FORMAT, process: { node, incarnation }, startedAt };
  }

  /** What else lives as long as this daemon does can be put on it; null = there is none now. */
  get lease(): MetaLease | null {
    return this.#lease;
  }

  start(): void {
    void this.#register().catch(this.#modules.fatal);
  }

  /** The key goes at once where the metadata answers, otherwise with its lease. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    const lease = this.#lease;
    this.#lease = null;
    if (lease === null) return;
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, STOP_PATIENCE_MS);
    });
    await Promise.race([lease.revoke().catch(() => lease.abandon()), patience]);
    clearTimeout(timer);
  }

  async #register(): Promise<void> {
    const { link, timings, keys } = this.#modules;
    let lease: MetaLease | null = null;
    try {
      lease = await link.store.grantLease(timings.leaseTtlMs, () => this.#lost());
      const key = keys.liveNode(this.#record.process.node);
      const found = await link.store.get(key);
      this.#refuseTwin(found === null ? null : liveCodec.decode(key, found.value));
      const value = liveCodec.encode(this.#record);
      const revision = found?.modRevision ?? 0;
      const answer = await link.store.compareAndSwap(key, revision, value, lease);
      if (answer.outcome !== "applied") throw new Error("its registration was not applied");
      if (this.#isStopped) return await this.#drop(lease);
      this.#lease = lease;
      this.#pauseMs = timings.retryFirstMs;
      this.#tell("");
    } catch (error) {
      if (lease !== null) await this.#drop(lease);
      this.#again((error as Error).message);
    }
  }

  async #drop(lease: MetaLease): Promise<void> {
    await lease.revoke().catch(() => undefined);
  }

  /** Two daemons with one identity would take each other's volumes. */
  #refuseTwin(found: LiveRecord | null): void {
    const { node, incarnation } = this.#record.process;
    const other = found?.process.incarnation ?? 0;
    if (other <= incarnation) return;
    throw new Error(`start ${other} of node ${node} is alive elsewhere; this is ${incarnation}`);
  }

  #lost(): void {
    this.#lease = null;
    this.#again("its lease was lost");
  }

  #again(problem: string): void {
    if (this.#isStopped) return;
    this.#tell(problem);
    this.#timer = setTimeout(() => this.start(), this.#pauseMs);
    this.#pauseMs = Math.min(this.#pauseMs * 2, this.#modules.timings.retryMaxMs);
  }

  #tell(problem: string): void {
    const { link, log, changed } = this.#modules;
    const isReachable = problem === "";
    const isNews = link.isReachable !== isReachable || (!isReachable && link.problem === "");
    link.isReachable = isReachable;
    link.problem = problem;
    if (!isNews) return;
    const metadata = link.endpoints.join(", ");
    if (isReachable) log.log("info", "cluster.connected", { metadata });
    else log.log("warn", "cluster.metadata-away", { metadata, message: problem });
    changed();
  }
}
