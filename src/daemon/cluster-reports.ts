// What this node's disks know, told to whoever makes the cluster's records again: while the
// metadata holds no cluster, the node keeps reports there, on a lease (RecoveryReport).
// They go by themselves when there is a cluster, or when the node goes.

import { reportCodec } from "../meta/index.ts";
import {
  NEVER_AT,
  RECORD_FORMAT,
  type RecoveryReport,
  type ReportedDisk,
} from "../meta/records.ts";
import type { MetaLease, MetaStore } from "../ports/meta-store.ts";
import type { ClusterContext } from "./cluster-context.ts";
import { WIRE_FORMATS } from "./cluster-forming.ts";

const LEASE_MS = 10_000;

export class ClusterReports {
  readonly #context: ClusterContext;
  #lease: MetaLease | null = null;
  /** By key, as they are there. */
  readonly #told = new Map<string, string>();

  constructor(context: ClusterContext) {
    this.#context = context;
  }

  /** Tells what is new since the last time. */
  async publish(): Promise<void> {
    const { link, member, keys } = this.#context;
    const wanted = new Map<string, RecoveryReport>();
    wanted.set(keys.recoveryReport(member.nodeId, null), this.#report(null));
    for (const disk of await this.#disks()) {
      wanted.set(keys.recoveryReport(member.nodeId, disk.id), this.#report(disk));
    }
    await link.ask("cannot tell what the disks know", async (store) => {
      this.#lease ??= await store.grantLease(LEASE_MS, () => this.#forget());
      for (const [key, report] of wanted) await this.#tell(store, key, report);
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
    const lease = this.#lease;
    this.#forget();
    await lease?.revoke().catch(() => lease.abandon());
  }
}
