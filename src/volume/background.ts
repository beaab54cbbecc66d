// What the owners of one node share for their work beside requests: whose resync may copy, how
// fast, and how many slabs takeovers may have in memory beyond one each.

import type { ReactorPort } from "../ports/index.ts";
import { type ClientSight, ResyncPace } from "./resync-pace.ts";
import { ResyncTurns } from "./resync-turns.ts";

/** Of 64 KiB each, over all takeovers of a node. */
const SPARE_LANES = 64;

export class OwnerBackground {
  readonly turns: ResyncTurns;
  readonly pace: ResyncPace;
  /** Lanes that takeovers may still take beyond one each. */
  spareLanes: number = SPARE_LANES;

  /** Without `clients` an automatic limit is none. `turns`, `isUnordered`: see ResyncTurns. */
  constructor(
    reactor: ReactorPort,
    clients: ClientSight | null = null,
    options: { readonly turns?: number; readonly isUnordered?: boolean } = {},
  ) {
    this.turns = new ResyncTurns(options.turns, options.isUnordered);
    this.pace = new ResyncPace(reactor, clients);
  }
}
