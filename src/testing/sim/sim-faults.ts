// Faults of a simulated disk: rules that say which operations go wrong and how, and the list of what
// was done, so that a checker can ask that each injected corruption was noticed.
//
// Invariant: chance comes from the disk's seeded stream, so a run replays its faults.

import type { Prng } from "../../base/index.ts";
import type { OperationKind } from "./write-history.ts";

/**
 * - eio: fails; a write may have moved some of its bytes or none, a sync makes nothing durable
 * - enospc: a write fails and changes nothing
 * - lost: a write or deallocation is acknowledged and never happens
 * - undurable: acknowledged, visible, and not durable whatever was promised
 * - misdirected: a write lands, or a read is served, elsewhere
 * - rot: one bit of what a write carries, or a read brings, is wrong
 * - short: moves less than was asked for and says so
 * - stuck: does not complete until released
 * - slow: takes `delayUs` more
 */
export type FaultKind =
  | "eio"
  | "enospc"
  | "lost"
  | "undurable"
  | "misdirected"
  | "rot"
  | "short"
  | "stuck"
  | "slow";

export interface FaultRule {
  readonly kind: FaultKind;
  readonly on: OperationKind | readonly OperationKind[];
  /** Only operations that touch [fromBytes, toBytes); all by default. Syncs touch everything. */
  readonly fromBytes?: number;
  readonly toBytes?: number;
  /** Of each operation that matches; 1 by default. */
  readonly chance?: number;
  /** Lets so many matching operations pass first. */
  readonly skip?: number;
  /** Ends after so many faults. */
  readonly count?: number;
  /** For "slow". */
  readonly delayUs?: number;
  /** For "misdirected": where to, from the right place; by default anywhere, by the seed. */
  readonly distanceBytes?: number;
}

/** A fault that was injected. */
export interface InjectedFault {
  readonly kind: FaultKind;
  readonly on: OperationKind;
  readonly offsetBytes: number;
  readonly bytes: number;
  /** Where a misdirected operation went. */
  readonly actualOffsetBytes: number;
}

interface Armed {
  readonly rule: FaultRule;
  skip: number;
  count: number;
}

export class FaultSet {
  private readonly armed: Armed[] = [];

  /** Adds a rule; the first that matches an operation decides. */
  add(rule: FaultRule): void {
    this.armed.push({ rule, skip: rule.skip ?? 0, count: rule.count ?? Infinity });
  }

  clear(): void {
    this.armed.length = 0;
  }

  /** The rule that strikes this operation. */
  strike(kind: OperationKind, offsetBytes: number, bytes: number, prng: Prng): FaultRule | null {
    for (const one of this.armed) {
      const { rule } = one;
      if (one.count === 0) continue;
      if (!(typeof rule.on === "string" ? rule.on === kind : rule.on.includes(kind))) continue;
      const { fromBytes = 0, toBytes = Infinity, chance = 1 } = rule;
      const isOutside = offsetBytes >= toBytes || offsetBytes + bytes <= fromBytes;
      if (kind !== "sync" && isOutside) continue;
      if (chance < 1 && !prng.chance(chance)) continue;
      if (one.skip > 0) {
        one.skip -= 1;
        continue;
      }
      one.count -= 1;
      return rule;
    }
    return null;
  }
}
