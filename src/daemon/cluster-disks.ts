// The node's disks as the cluster's: every disk that is ready has a record with a number of its own
// for placement pages. Free space is told again when it has changed by more than a hundredth, and
// not too often. A disk that was removed here, and that no volume has, is taken out.

import { diskCodec } from "../meta/index.ts";
import { DISK_NUMBER_MAX, type MetaKeys } from "../meta/keys.ts";
import { type DiskRecord, RECORD_FORMAT } from "../meta/records.ts";
import type { DiskState } from "../model/disk-types.ts";
import { ApiError } from "../model/errors.ts";
import type { MetaStore, MetaTransaction } from "../ports/meta-store.ts";
import { type ClusterContext, newChangeId, transact } from "./cluster-context.ts";
import type { Known } from "./cluster-inventory.ts";
import { type DiskEntry, diskStateOf } from "./disk-entry.ts";

const FREE_CHANGE_SHARE = 0.01;
const LOST_STATES: readonly DiskState[] = ["missing", "stale", "failed"];
const COPIES_AT_ONCE = 100;

/** Takes a disk's record away, and the number that it has, unless it changed meanwhile. */
export function forgetDisk(
  keys: MetaKeys,
  { record: { id, number }, modRevision }: Known<DiskRecord>,
): MetaTransaction {
  const key = keys.disk(id);
  return {
    guards: [{ key, modRevision }],
    writes: [
      { key, value: null },
      { key: keys.diskNumber(number), value: null },
    ],
  };
}

export class ClusterDisks {
  readonly #context: ClusterContext;
  /** When free space was told last, by disk; monotonic. */
  readonly #toldMs = new Map<string, number>();

  constructor(context: ClusterContext) {
    this.#context = context;
  }

  async reconcile(): Promise<void> {
    const { host } = this.#context;
    const { disks } = host.modules;
    for (const entry of disks.usable()) await this.#register(entry);
    for (const entry of disks.entries.values()) await this.#noteFailed(entry);
    // A declaration that cannot be read may be of any of them.
    if (disks.damaged.size === 0) await this.#takeOut();
  }

  async #register(entry: DiskEntry): Promise<void> {
    const { inventory, link, keys } = this.#context;
    const wanted = this.#recordOf(entry);
    const { id, name } = entry.declared;
    if (wanted === null) return;
    await link.ask(`cannot register disk ${name}`, async (store) => {
      const known = inventory.disks.get(id);
      if (known === undefined) return await this.#add(store, wanted);
      if (!this.#differs(known.record, wanted)) return;
      const { number, phase: before } = known.record;
      // It can be used again.
      const phase = before === "failed" ? "active" : before;
      const record = { ...wanted, number, phase };
      const key = keys.disk(id);
      const write = { key, value: diskCodec.encode(record) };
      const guards = [{ key, modRevision: known.modRevision }];
      await transact(this.#context, store, { guards, writes: [write] });
      this.#toldMs.set(id, performance.now());
    });
  }

  /** Its copies are as good as gone, and are made elsewhere if it stays so. */
  async #noteFailed(entry: DiskEntry): Promise<void> {
    const { host, inventory, link, keys } = this.#context;
    const { id, name } = entry.declared;
    const state = diskStateOf(entry, host.modules.disks.statsById().get(id));
    const known = inventory.disks.get(id);
    if (!LOST_STATES.includes(state) || known?.record.phase !== "active") return;
    const key = keys.disk(id);
    const record = { ...known.record, changeId: newChangeId(), phase: "failed" as const };
    await link.ask(`cannot tell that disk ${name} failed`, (store) =>
      transact(this.#context, store, {
        guards: [{ key, modRevision: known.modRevision }],
        writes: [{ key, value: diskCodec.encode(record) }],
      }),
    );
  }

  /** What is to be told, but for number and phase. */
  #recordOf(entry: DiskEntry): DiskRecord | null {
    const { host, member } = this.#context;
    const { id, name, sizeBytes, incarnation } = entry.declared;
    const stats = host.modules.disks.statsById().get(id);
    if (stats === undefined) return null;
    return {
      format: RECORD_FORMAT,
      changeId: newChangeId(),
      id,
      number: 0,
      node: member.nodeId,
      name,
      sizeBytes,
      freeBytes: stats.usage.freeBytes,
      phase: "active",
      incarnation,
    };
  }

  #differs(known: DiskRecord, wanted: DiskRecord): boolean {
    if (known.phase === "failed") return true;
    for (const field of ["node", "name", "sizeBytes", "incarnation"] as const) {
      if (known[field] !== wanted[field]) return true;
    }
    const change = Math.abs(known.freeBytes - wanted.freeBytes);
    if (change <= wanted.sizeBytes * FREE_CHANGE_SHARE) return false;
    const toldMs = this.#toldMs.get(wanted.id) ?? Number.NEGATIVE_INFINITY;
    return performance.now() - toldMs >= this.#context.timings.freeReportMs;
  }

  /**
   * A number that another node takes meanwhile is a conflict: the next one then. A node that is
   * being emptied adds none: who removes it takes its disks out one after another.
   */
  async #add(store: MetaStore, wanted: DiskRecord): Promise<void> {
    const { keys, inventory, member } = this.#context;
    const node = inventory.nodes.get(member.nodeId);
    if (node === undefined || node.record.phase === "draining") return;
    const key = keys.disk(wanted.id);
    const taken = new Set([...inventory.disks.values()].map(({ record }) => record.number));
    for (let number = 1; number <= DISK_NUMBER_MAX; number += 1) {
      if (taken.has(number)) continue;
      const numberKey = keys.diskNumber(number);
      const record = { ...wanted, number };
      const answer = await transact(this.#context, store, {
        guards: [
          { key, modRevision: 0 },
          { key: keys.node(member.nodeId), modRevision: node.modRevision },
          { key: numberKey, modRevision: 0 },
        ],
        writes: [
          { key, value: diskCodec.encode(record) },
          { key: numberKey, value: Buffer.from(wanted.id) },
        ],
      });
      if (answer.outcome === "applied") {
        this.#toldMs.set(wanted.id, performance.now());
        return;
      }
      // It is there already, or the node's record has changed; the next look compares.
      if (answer.found[0] !== null || answer.found[1]?.modRevision !== node.modRevision) return;
    }
    throw new ApiError("limit_reached", `the cluster has ${DISK_NUMBER_MAX} disks already`);
  }

  async #takeOut(): Promise<void> {
    const { inventory, host, member, link, keys } = this.#context;
    const { disks } = host.modules;
    for (const known of [...inventory.disks.values()]) {
      const { id, name, node } = known.record;
      if (node !== member.nodeId || disks.findById(id) !== undefined) continue;
      if ([...inventory.volumes.values()].some(({ record }) => record.members.includes(id))) {
        continue;
      }
      // Copies that had left their volumes went with it.
      const copies = [...inventory.volumes.keys()].filter(
        (one) => inventory.copy(one, id) !== null,
      );
      const { guards, writes } = forgetDisk(keys, known);
      const gone = copies.map((one) => ({ key: keys.volumeCopy(one, id), value: null }));
      await link.ask(`cannot take disk ${name} out`, async (store) => {
        await transact(this.#context, store, { guards: [], writes: gone.slice(0, COPIES_AT_ONCE) });
        if (gone.length > COPIES_AT_ONCE) this.#context.look();
        else await transact(this.#context, store, { guards, writes });
      });
    }
  }
}
