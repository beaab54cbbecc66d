// How the daemon gets its data plane: handed in by the entry point, so that tests run the whole
// daemon over a fake one.

import type { PortalSettings, SaveReservations } from "../ports/classic-plane.ts";
import type { DataPlane } from "../ports/data-plane.ts";
import type { Log } from "../ports/log.ts";

export interface DataPlaneOptions {
  readonly reactorCount: number;
  readonly pollUs: number;
  readonly trustMemory: boolean;
  /** Of each disk of the store; nothing or 0 = no scrub. */
  readonly scrubMibPerSecond?: number;
  /** Of the classic path; null or nothing: there is none. */
  readonly portal?: PortalSettings | null;
  /** Where reservations are kept; nothing: they end with the process. */
  readonly saveReservations?: SaveReservations;
  readonly log: Log;
  /** May be called when a session or the health of a volume changed: events are told sooner. */
  readonly changed: () => void;
  /** To be called with an error after which no thread can go on. Does not return. */
  readonly fatal: (error: unknown) => void;
}

/** Starts the threads; may resolve before they are ready, calls then wait. */
export type DataPlaneFactory = (options: DataPlaneOptions) => Promise<DataPlane>;
