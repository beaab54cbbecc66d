// Volumes that are attached nowhere have no owner to bring a copy up to date. The node whose
// disk is to get the data becomes the owner for that, and lets go when it is done.
//
// Invariants:
// - A volume that is attached is never taken over: the claim of its record is one swap with "is
//   attached nowhere" (cluster-records.ts), and whoever attaches it takes it over from the worker.
// - Attached here meanwhile, it is served as it is open (cluster-serve.ts).

import type { VolumeRecord } from "../meta/records.ts";
import { isInSync } from "../meta/repair-plan.ts";
import { type ClusterContext, ownerOf, readVolume } from "./cluster-context.ts";
import type { ClusterServing } from "./cluster-serve.ts";
import type { ServedVolume } from "./cluster-served.ts";

export class ClusterWorkers {
  readonly #context: ClusterContext;
  readonly #serving: ClusterServing;
  /** Not tried again before, by volume; monotonic. */
  readonly #retryAtMs = new Map<string, number>();

  constructor(context: ClusterContext, serving: ClusterServing) {
    this.#context = context;
    this.#serving = serving;
  }

  /** Begins and ends what is to be; not waited for. */
  alignAll(): void {
    const { inventory, served } = this.#context;
    const nowMs = performance.now();
    for (const { record } of inventory.volumes.values()) {
      const entry = served.get(record.id);
      if (entry?.busy === true || entry?.serving === true) continue;
      const isWanted = this.#isOurs(record);
      if (isWanted && entry?.working !== true) {
        if (nowMs < (this.#retryAtMs.get(record.id) ?? 0)) continue;
        this.#run(this.#serving.entryOf(record.id, record.name), (one) => this.#begin(one));
      } else if (entry?.working === true && (!isWanted || this.#isOver(record.id))) {
        // Attached here: it is about to be served.
        if (record.attachment.node === this.#context.member.nodeId) continue;
        this.#run(entry, (one) => this.#end(one));
      }
    }
    for (const entry of served.values()) {
      if (!entry.working || entry.busy || inventory.volumes.has(entry.id)) continue;
      this.#run(entry, (one) => this.#end(one));
    }
  }

  /** It waits for a copy that a disk of this node is to get. */
  #isOurs(record: VolumeRecord): boolean {
    if (record.phase !== "ready" || record.attachment.node !== null) return false;
    const { inventory, member } = this.#context;
    const isThere = (diskId: string): boolean => {
      const disk = inventory.disks.get(diskId)?.record;
      return disk !== undefined && disk.phase !== "failed" && inventory.isAlive(disk.node);
    };
    const { replacement } = record;
    const wanted =
      replacement?.to ?? record.members.find((one) => !isInSync(record, one) && isThere(one));
    return wanted !== undefined && inventory.nodeOf(wanted) === member.nodeId;
  }

  /** Somebody else took it. */
  #isOver(volumeId: string): boolean {
    return ownerOf(this.#context, volumeId)?.state === "surrendered";
  }

  #run(entry: ServedVolume, work: (entry: ServedVolume) => Promise<void>): void {
    const { host, timings } = this.#context;
    void this.#serving
      .alone(entry, async () => {
        if (host.stopping) return;
        await work(entry);
        this.#retryAtMs.delete(entry.id);
      })
      .catch((error: Error) => {
        this.#retryAtMs.set(entry.id, performance.now() + timings.retryMaxMs);
        if (host.stopping) return;
        const fields = { volume: entry.name, message: error.message };
        host.modules.log.log("warn", "cluster.worker-failed", fields);
      })
      .finally(() => this.#context.look());
  }

  async #begin(entry: ServedVolume): Promise<void> {
    const { link, host } = this.#context;
    const { id, name } = entry;
    if (entry.open) return;
    const known = await link.ask(`cannot work on volume ${name}`, (store) =>
      readVolume(this.#context, store, id),
    );
    if (known === null || !this.#isOurs(known.record)) return;
    entry.working = true;
    try {
      await this.#serving.open(entry, known.record);
    } catch (error) {
      entry.working = false;
      throw error;
    }
    host.modules.log.log("info", "cluster.worker-began", { volume: name });
  }

  async #end(entry: ServedVolume): Promise<void> {
    if (!entry.working) return;
    await this.#serving.letGo(entry);
    entry.working = false;
    this.#context.host.modules.log.log("info", "cluster.worker-ended", { volume: entry.name });
  }
}
