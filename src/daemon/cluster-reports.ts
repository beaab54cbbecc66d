// What this node's disks know, told to whoever makes the cluster's records again: while the
// metadata holds no cluster, the node keeps reports there, on a lease (RecoveryReport).
// They go by themselves when there is a cluster, or when the node goes.
//
// Invariant: one thing at a time. Whoever makes the records again tells the reports too, while a
// look that has not heard yet that the cluster is gone takes them back: it would end the lease that
// the other is about to write with.

import { MetaError, reportCodec } from "../meta/index.ts";
import {
  NEVER_AT,
  RECORD_FORMAT,
  type RecoveryReport,
  type ReportedDisk,
} from "../meta/records.ts";
import type { MetaLease, MetaStore } from "../ports/meta-store.ts";
import type { ClusterContext } from "./cluster-context.ts";
import { WIRE_FORMATS } from "./cluster-forming.ts";
import { OperationQueue } from "./operation-queue.ts";

const LEASE_MS = 10_000;
/** With a new lease each: the metadata may be replaced while they are told. */
const ATTEMPTS_MAX = 3;

export class ClusterReports {
  readonly #context: ClusterContext;
  readonly #queue = new OperationQueue("limit_reached", "the reports of this node");
  #lease: MetaLease | null = null;
  /** By key, as they are there. */
  readonly #told = new Map<string, string>();

  constructor(context: ClusterContext) {
    this.#context = context;
  }

  /** Tells what is new since the last time. */
  async publish(): Promise<void> {
    await this.#queue.exclusively(() => this.#publish());
  }

  async #publish(): Promise<void> {
    const { link, member, keys } = this.#context;
    const wanted = new Map<string, RecoveryReport>();
    wanted.set(keys.recoveryReport(member.nodeId, null), this.#report(null));
    for (const disk of await this.#disks()) {
      wanted.set(keys.recoveryReport(member.nodeId, disk.id), this.#report(disk));
    }
    await link.ask("cannot tell what the disks know", async (store) => {
      for (let attempt = 1; ; attempt += 1) {
        try {
          this.#lease ??= await store.grantLease(LEASE_MS, () => this.#forget());
          for (const [key, report] of wanted) await this.#tell(store, key, report);
          return;
        } catch (error) {
          const isLost = error instanceof MetaError && error.code === "lease-lost";
          if (!isLost || attempt === ATTEMPTS_MAX) throw error;
          // It was of metadata that is gone, which its next renewal would have told.
          this.#lease?.abandon();
          this.#forget();
        }
      }
    });
  }

  async #tell(store: MetaStore, key: string, report: RecoveryReport): Promise<void> {
    const value = reportCodec.encode(report);
    const text = Buffer.from(value).toString("base64");
    const lease = this.#lease;
    if (lease === null || this.#told.get(key) === text) return;
    const found = await store.get(key);
    const answer = await store.compareAndSwap(key, found?.modRevision ?? 0, value, lease);
    if (answer.outcome === "applied") this.#told.set(key, text);
  }

  #report(disk: ReportedDisk | null): RecoveryReport {
    const { member, trusted, served } = this.#context;
    const { clusterId: id, clusterName: name, nodeId, nodeName, address, rack } = member;
    return {
      format: RECORD_FORMAT,
      cluster: { id, name, generation: trusted.generation },
      node: {
        format: RECORD_FORMAT,
        id: nodeId,
        name: nodeName,
        address,
        rack,
        joinedAt: NEVER_AT,
        wireFormats: WIRE_FORMATS,
      },
      attached: [...served.values()]
        .filter(({ declared }) => declared?.phase === "attached")
        .map((entry) => ({ volume: entry.id, name: entry.name })),
      disk,
    };
  }

  async #disks(): Promise<readonly ReportedDisk[]> {
    const { host, plane } = this.#context;
    const stats = host.modules.disks.statsById();
    const found: ReportedDisk[] = [];
    for (const { declared } of host.modules.disks.usable()) {
      const { id, name, sizeBytes, incarnation } = declared;
      const freeBytes = stats.get(id)?.usage.freeBytes ?? 0;
      const replicas = (await plane.listReplicas(id)).map(
        ({ volumeId, sizeBytes: bytes, facts }) => ({
          volume: volumeId,
          sizeBytes: bytes,
          ...facts,
        }),
      );
      found.push({ id, name, sizeBytes, freeBytes, incarnation, replicas });
    }
    return found;
  }

  #forget(): void {
    this.#lease = null;
    this.#told.clear();
  }

  /** There is a cluster, or the node goes. */
  async withdraw(): Promise<void> {
    await this.#queue.exclusively(async () => {
      const lease = this.#lease;
      this.#forget();
      await lease?.revoke().catch(() => lease.abandon());
    });
  }
}
