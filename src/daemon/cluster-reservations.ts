// Persistent reservations of the cluster's volumes, of iSCSI targets and of units of virtio-scsi
// controllers: kept in the metadata, so that whichever node serves a volume next knows them.
//
//   claim   before it is served:       our name into the record   -> what holds from here on
//   save    an initiator's change, before it is answered          -> the record, as we claimed it
//
// Invariants:
//  - both are one transaction with a guard on the volume's record, which says that it is attached
//    here: a node that has lost the volume changes nothing, however late its word arrives;
//  - whoever claims changes the record, so that what an earlier run of this daemon may still have
//    on its way meets another revision;
//  - a change whose answer was lost is refused, and what initiators know is put back as soon as the
//    metadata answers: the next node must not find what nobody was promised;
//  - what is not understood is no record without reservations: the volume is not served.
//
// Power: without APTPL reservations end when the volume has been detached (SPC-4 5.12.5). A daemon
// that restarts, a machine that boots and a volume that moves to another node take no power from
// the logical unit, which is the cluster's.

import { reservationsCodec } from "../meta/index.ts";
import { RECORD_FORMAT, type ReservationsRecord, type VolumeRecord } from "../meta/records.ts";
import { ApiError } from "../model/errors.ts";
import type { MetaStore } from "../ports/meta-store.ts";
import type { ReservationRecord } from "../ports/reservation-record.ts";
import type { KeptReservations } from "./classic-keeper.ts";
import {
  type ClusterContext,
  newChangeId,
  poweredSince,
  readVolume,
  transact,
} from "./cluster-context.ts";
import type { Known } from "./cluster-inventory.ts";

const ATTEMPTS_MAX = 16;
const NOBODY: ReservationRecord = {
  generation: 0,
  aptpl: false,
  type: 0,
  holder: -1,
  registrations: [],
};

type Found = Known<ReservationsRecord> | null;

export class ClusterReservations {
  readonly #context: ClusterContext;
  /** What initiators know of volumes whose last change came to no definite end. */
  readonly #unsettled = new Map<string, ReservationRecord>();
  /** Changes of one volume come one after the other. */
  readonly #turns = new Map<string, Promise<void>>();

  constructor(context: ClusterContext) {
    this.#context = context;
  }

  /** Rejects with ApiError where the volume is not attached here. */
  async claim(volumeId: string, name: string): Promise<KeptReservations> {
    const what = `cannot serve volume ${name} with its reservations`;
    let kept: KeptReservations = { record: null, powerWasLost: false };
    await this.#inTurn(volumeId, async () => {
      await this.#change(volumeId, what, (volume, found) => {
        const since = poweredSince(volume.attachment) ?? volume.attachment.generation;
        const powerWasLost = found !== null && found.record.since !== since;
        const record = this.#unsettled.get(volumeId) ?? found?.record.record ?? null;
        kept = { record, powerWasLost };
        const isGone = powerWasLost && record?.aptpl !== true;
        return { since, record: isGone ? NOBODY : (record ?? NOBODY) };
      });
      this.#unsettled.delete(volumeId);
    });
    return kept;
  }

  /** claim(), as those have it who must have the state itself. */
  async claimRecord(volumeId: string, name: string): Promise<ReservationRecord> {
    const { record, powerWasLost } = await this.claim(volumeId, name);
    return record === null || (powerWasLost && !record.aptpl) ? NOBODY : record;
  }

  /** What holds at the moment, where another node has the volume; nothing is changed. */
  async look(volumeId: string, name: string): Promise<KeptReservations> {
    const { link, keys } = this.#context;
    const what = `cannot stand by for the target of volume ${name}`;
    const found = await link.ask(what, (store) => read(store, keys.volumeReservations(volumeId)));
    return { record: found?.record.record ?? null, powerWasLost: false };
  }

  /** Resolves when it is safe. Rejects with ApiError; then initiators hear that it is not. */
  async save(volumeId: string, record: ReservationRecord): Promise<void> {
    await this.#inTurn(volumeId, async () => {
      let known = this.#unsettled.get(volumeId);
      try {
        await this.#replace(volumeId, record, (before) => {
          known ??= before;
        });
        this.#unsettled.delete(volumeId);
      } catch (error) {
        if (known !== undefined) {
          this.#unsettled.set(volumeId, known);
          this.#context.look();
        }
        throw error;
      }
    });
  }

  /** At every look: puts back what initiators know, where that is not certain. */
  async settle(): Promise<void> {
    for (const [volumeId, record] of [...this.#unsettled]) {
      await this.#inTurn(volumeId, async () => {
        if (this.#unsettled.get(volumeId) !== record) return;
        try {
          await this.#replace(volumeId, record, () => undefined);
        } catch (error) {
          // Whoever has it now has claimed what was there.
          if (!isLost(error)) throw error;
        }
        this.#unsettled.delete(volumeId);
      });
    }
  }

  async #replace(
    volumeId: string,
    record: ReservationRecord,
    found: (before: ReservationRecord) => void,
  ): Promise<void> {
    const what = "cannot keep reservations";
    await this.#change(volumeId, what, (_, present) => {
      if (present === null || !this.#isOurs(present.record)) throw lost(what);
      found(present.record.record);
      return { since: present.record.since, record };
    });
  }

  async #inTurn(volumeId: string, work: () => Promise<void>): Promise<void> {
    const before = this.#turns.get(volumeId) ?? Promise.resolve();
    const turn = before.then(work);
    const ended = turn.catch(() => undefined);
    this.#turns.set(volumeId, ended);
    try {
      await turn;
    } finally {
      if (this.#turns.get(volumeId) === ended) this.#turns.delete(volumeId);
    }
  }

  #isOurs({ keeper }: ReservationsRecord): boolean {
    const { member, incarnation } = this.#context;
    return keeper.node === member.nodeId && keeper.incarnation === incarnation;
  }

  async #change(
    volumeId: string,
    what: string,
    make: (volume: VolumeRecord, found: Found) => Pick<ReservationsRecord, "since" | "record">,
  ): Promise<void> {
    const { link, keys, member, incarnation } = this.#context;
    const key = keys.volumeReservations(volumeId);
    await link.ask(what, async (store) => {
      for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
        const volume = await readVolume(this.#context, store, volumeId);
        if (volume?.record.attachment.node !== member.nodeId) throw lost(what);
        const found = await read(store, key);
        const made: ReservationsRecord = {
          format: RECORD_FORMAT,
          changeId: newChangeId(),
          keeper: { node: member.nodeId, incarnation },
          ...make(volume.record, found),
        };
        const answer = await transact(this.#context, store, {
          guards: [
            { key: keys.volumeRecord(volumeId), modRevision: volume.modRevision },
            { key, modRevision: found?.modRevision ?? 0 },
          ],
          writes: [{ key, value: reservationsCodec.encode(made) }],
        });
        if (answer.outcome === "applied") return;
      }
      throw new ApiError("volume_busy", `${what}: others keep changing the volume`, {
        advice: "try again",
      });
    });
  }
}

async function read(store: MetaStore, key: string): Promise<Found> {
  const entry = await store.get(key);
  if (entry === null) return null;
  return { record: reservationsCodec.decode(key, entry.value), modRevision: entry.modRevision };
}

const LOST = "volume_unavailable";

function isLost(error: unknown): boolean {
  return (error as { readonly code?: unknown }).code === LOST;
}

function lost(what: string): ApiError {
  return new ApiError(LOST, `${what}: another node, or another run of this one, has the volume`);
}
