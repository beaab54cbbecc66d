// Persistent reservations of one logical unit (SPC-4 5.12): who is registered, who holds what, and
// what each service action of PERSISTENT RESERVE OUT makes of it.
//
// One Reservations object stands for one volume; all nexuses of all targets of this process share
// it. It is kept with the volume's metadata through ReservationStore: a change is planned, saved,
// and only then adopted and answered, so that no initiator knows of a state that could be lost.
//
// Invariants:
//  - a state is never changed, only replaced by the one that was saved;
//  - changes come one at a time (persistent-reserve.ts queues them);
//  - holder is "" without a reservation and for the all registrants types, whose holders are all.

import type { ReservationRecord } from "../ports/index.ts";
import { bytesOfHex, hexOf } from "./bytes.ts";

/** Registrations a volume keeps at most: what READ FULL STATUS shows fits in one reply. */
export const REGISTRATIONS_MAX = 192;

export const PR_WRITE_EXCLUSIVE = 1;
export const PR_EXCLUSIVE_ACCESS = 3;
const PR_WRITE_EXCLUSIVE_REGISTRANTS = 5;
export const PR_EXCLUSIVE_ACCESS_REGISTRANTS = 6;
const PR_WRITE_EXCLUSIVE_ALL = 7;
export const PR_EXCLUSIVE_ACCESS_ALL = 8;

/** Keeps the record with the volume's metadata, where every gateway finds it. */
export interface ReservationStore {
  /**
   * Replaces the record. `done` is called exactly once, at once or later, on the reactor's thread:
   * 0 when the record is safe, a negated errno when it is not and the old one stays.
   */
  save(record: ReservationRecord, done: (result: number) => void): void;
}

/** For volumes whose reservations live as long as the process. */
// @cold
export class VolatileReservationStore implements ReservationStore {
  save(_record: ReservationRecord, done: (result: number) => void): void {
    done(0);
  }
}

export interface Registration {
  /** transportId in hexadecimal, a colon and the port: what identifies an I_T nexus. */
  readonly id: string;
  readonly transportId: Uint8Array;
  readonly relativePort: number;
  readonly key: string;
}

export interface ReservationState {
  readonly generation: number;
  readonly aptpl: boolean;
  readonly type: number;
  readonly holder: string;
  readonly registrations: readonly Registration[];
}

const EMPTY: ReservationState = {
  generation: 0,
  aptpl: false,
  type: 0,
  holder: "",
  registrations: [],
};

export function isAllRegistrants(type: number): boolean {
  return type === PR_WRITE_EXCLUSIVE_ALL || type === PR_EXCLUSIVE_ACCESS_ALL;
}

export function isReservationType(type: number): boolean {
  return type === 1 || type === 3 || (type >= 5 && type <= 8);
}

/** Types whose other registrants hear of a release: registrants only and all registrants. */
export function isShared(type: number): boolean {
  return type >= PR_WRITE_EXCLUSIVE_REGISTRANTS;
}

export function nexusId(transportId: Uint8Array, relativePort: number): string {
  return `${hexOf(transportId)}:${relativePort}`;
}

/** A nexus's id without the target port. */
function initiatorOf(id: string): string {
  const colon = id.indexOf(":");
  return colon < 0 ? id : id.slice(0, colon);
}

/**
 * The registration that stands for a nexus: its own, or that of the same initiator port through
 * another target port of the unit. So an initiator with one session that finds the unit at another
 * port, on another node, has what it had; one with several registers through each, and has several.
 */
export function registrationOf(
  { registrations }: ReservationState,
  id: string,
): Registration | undefined {
  const own = registrations.find((one) => one.id === id);
  if (own !== undefined) return own;
  const initiator = initiatorOf(id);
  return registrations.find((one) => initiatorOf(one.id) === initiator);
}

/** Told when a state has been adopted; logical units renew what they keep per nexus. */
export interface ReservationListener {
  reservationsChanged(): void;
}

export class Reservations {
  state: ReservationState;
  /** Changes that wait for their turn; see persistent-reserve.ts. */
  readonly queue: (() => void)[] = [];
  isChanging = false;
  private readonly store: ReservationStore;
  private readonly listeners: Set<ReservationListener> = new Set();

  /**
   * `record` is what was kept, or null. `powerWasLost`: the volume was off since; without APTPL
   * nothing of the record counts then. Throws a RangeError when the record is damaged.
   */
  constructor(
    store: ReservationStore,
    record: ReservationRecord | null = null,
    powerWasLost: boolean = false,
  ) {
    this.store = store;
    const isKept = record !== null && (record.aptpl || !powerWasLost);
    this.state = isKept ? stateOf(record) : EMPTY;
  }

  /** Takes over what another gateway wrote. Throws as the constructor. */
  replace(record: ReservationRecord): void {
    this.adopt(stateOf(record));
  }

  addListener(listener: ReservationListener): void {
    this.listeners.add(listener);
  }

  removeListener(listener: ReservationListener): void {
    this.listeners.delete(listener);
  }

  /** Saves and adopts `next`; `done` hears how it went. One change at a time. */
  change(next: ReservationState, done: (result: number) => void): void {
    this.store.save(recordOf(next), (result) => {
      if (result === 0) this.adopt(next);
      done(result);
    });
  }

  find(id: string): Registration | undefined {
    return registrationOf(this.state, id);
  }

  isHolder(id: string): boolean {
    const { state } = this;
    if (state.type === 0) return false;
    const own = this.find(id);
    if (own === undefined) return false;
    return isAllRegistrants(state.type) || state.holder === own.id;
  }

  private adopt(next: ReservationState): void {
    this.state = next;
    for (const listener of this.listeners) listener.reservationsChanged();
  }
}

function recordOf(state: ReservationState): ReservationRecord {
  return {
    generation: state.generation,
    aptpl: state.aptpl,
    type: state.type,
    holder: state.registrations.findIndex((one) => one.id === state.holder),
    registrations: state.registrations.map((one) => ({
      transportId: hexOf(one.transportId),
      relativePort: one.relativePort,
      key: one.key,
    })),
  };
}

function stateOf(record: ReservationRecord): ReservationState {
  const registrations = record.registrations.map((one) => {
    const transportId = bytesOfHex(one.transportId);
    if (transportId === null || transportId.length % 4 !== 0 || !/^[0-9a-f]{16}$/.test(one.key)) {
      throw new RangeError(
        `reservation record: registration of ${one.transportId} with key ${one.key} is damaged; ` +
          "remove the record to start without reservations",
      );
    }
    const id = nexusId(transportId, one.relativePort);
    return { id, transportId, relativePort: one.relativePort, key: one.key };
  });
  const isValid =
    (record.type === 0 || isReservationType(record.type)) &&
    registrations.length <= REGISTRATIONS_MAX &&
    record.holder < registrations.length &&
    (record.type === 0 || isAllRegistrants(record.type)) === record.holder < 0;
  if (!isValid) {
    throw new RangeError(
      `reservation record: type ${record.type} with holder ${record.holder} of ` +
        `${registrations.length} is damaged; remove the record to start without reservations`,
    );
  }
  const holder = record.holder < 0 ? "" : (registrations[record.holder] as Registration).id;
  return {
    generation: record.generation >>> 0,
    aptpl: record.aptpl,
    type: record.type,
    holder,
    registrations,
  };
}
