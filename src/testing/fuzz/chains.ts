// The chain fuzzer: a guest with two queues. One is honest, and everything about it must be exactly
// right (honest-guest.ts); on the other one chains, tables, ring indexes and request headers are
// damaged in every way there is. Whatever becomes of that ring, memory that no descriptor names
// stays as it is, the honest queue is served, and the target lives.

import assert from "node:assert/strict";
import type { Prng } from "../../base/index.ts";
import * as sys from "../../sys/index.ts";
import * as v from "../../virtio/index.ts";
import type { HostileRegion } from "../hostile/guest.ts";
import { HostilePacked, HostileSplit } from "../hostile/rings.ts";
import { type Queue, Victim, type VictimOptions } from "../hostile/victim.ts";
import { type ChainDraft, DAMAGES, damage, makeChain, offerDraft } from "./chain-damages.ts";
import { pickWeighted } from "./coverage.ts";
import { HonestGuest } from "./honest-guest.ts";
import { ATTACKED, type Fuzzer, type RoundContext } from "./stage.ts";

const STEPS_MIN = 10;
const STEPS_MAX = 40;
const EMPHASIS = 12;
const HOSTILE_BASE = 0x1_0000_0000;
const HOSTILE_BYTES = 256 * 1024;
const HONEST_BASE = 0x20_0000_0000;
const HONEST_REGION_BYTES = 512 * 1024;
const POISON_BASE = 0x30_0000_0000;
const POISON_BYTES = 64 * 1024;

function chooseOptions(prng: Prng): VictimOptions {
  const kind = prng.chance(0.6) ? "memfd" : "memfd-unsealable";
  const packed = prng.chance(0.5);
  const withoutFeatures: number[] = [];
  if (prng.chance(0.2)) withoutFeatures.push(v.F_INDIRECT_DESC);
  if (prng.chance(0.3)) withoutFeatures.push(v.F_EVENT_IDX);
  if (!packed && prng.chance(0.1)) withoutFeatures.push(v.F_VERSION_1);
  if (prng.chance(0.2)) withoutFeatures.push(v.BLK_F_FLUSH);
  return {
    kind,
    packed,
    withoutFeatures,
    inflight: prng.chance(0.4),
    ringSize: packed ? prng.pick([8, 11, 16, 64]) : prng.pick([8, 16, 64]),
    queueCount: 0,
    start: false,
    regions: [
      { guestAddress: HONEST_BASE, bytes: HONEST_REGION_BYTES, kind },
      { guestAddress: HOSTILE_BASE, bytes: HOSTILE_BYTES, kind },
      // Adjoins the one before in guest addresses, and nowhere else.
      { guestAddress: HOSTILE_BASE + HOSTILE_BYTES, bytes: HOSTILE_BYTES, kind },
      // Shared with the target, and named by no descriptor.
      { guestAddress: POISON_BASE, bytes: POISON_BYTES, kind },
    ],
  };
}

class ChainRound {
  private readonly context: RoundContext;
  private readonly prng: Prng;
  private readonly victim: Victim;
  private readonly hostile: HostileRegion;
  private readonly honest: HonestGuest;
  private readonly mark: number[];
  private queue: Queue;

  constructor(context: RoundContext) {
    this.context = context;
    const { prng } = context;
    this.prng = prng;
    const victim = new Victim(context.stage.path, chooseOptions(prng));
    this.victim = victim;
    try {
      const [honestRegion, hostile] = victim.memory.regions as [HostileRegion, HostileRegion];
      this.hostile = hostile;
      this.queue = victim.addQueue(hostile);
      const honestQueue = victim.addQueue(honestRegion);
      victim.start();
      this.mark = victim.memory.mark();
      const { patienceMs } = context.stage;
      const modules = { region: honestRegion, prng, serial: ATTACKED, patienceMs };
      this.honest = new HonestGuest(victim, honestQueue, modules);
    } catch (error) {
      victim.close();
      throw error;
    }
  }

  async run(): Promise<void> {
    const steps = this.prng.between(STEPS_MIN, STEPS_MAX);
    try {
      for (let step = 0; step < steps; step++) await this.step();
      const poison = this.victim.memory.regions[3] as HostileRegion;
      assert.ok(
        poison.u8.every((byte) => byte === 0xa5),
        "memory that nobody named was written",
      );
    } finally {
      this.victim.close();
    }
  }

  private async step(): Promise<void> {
    const { prng } = this;
    if (prng.chance(0.4)) {
      this.context.coverage.note(`${this.ringName()}/honest/${this.honest.step()}`);
      return;
    }
    this.victim.memory.reset(this.mark);
    const names: string[] = [];
    for (let count = prng.between(1, 4); count > 0; count--) {
      const draft = makeChain(prng, this.victim, this.hostile);
      names.push(this.spoil(draft));
    }
    this.victim.go(this.queue);
    // Comes after the kick, and is answered after what the kick caused.
    this.honest.step();
    await this.look(names);
  }

  private ringName(): string {
    const { packed, kind } = this.victim.options;
    return `${packed === true ? "packed" : "split"}/${kind}`;
  }

  /** Damages a draft, or not, and offers it. Returns what was done. */
  private spoil(draft: ChainDraft): string {
    const { prng, queue, victim } = this;
    if (prng.chance(0.25)) {
      offerDraft(draft, queue.ring, victim, prng);
      return "whole";
    }
    const weights = DAMAGES.map((_, at) => (at === this.context.profile ? EMPHASIS : 1));
    const name = DAMAGES[pickWeighted(prng, weights)] as string;
    damage(name, draft, { prng, victim, queue, hostile: this.hostile });
    return name;
  }

  /** What became of it: used, broken, or nothing. A broken ring is stopped and begun anew. */
  private async look(names: readonly string[]): Promise<void> {
    const { victim, queue, context } = this;
    const used = queue.ring.takeUsed().length;
    let outcome = used === 0 ? "nothing" : used === names.length ? "all" : "some";
    if (sys.eventClear(queue.errFd) >= 0) {
      await context.stage.target.counts();
      const { log } = context.stage.target;
      const line = log.filter(({ event }) => event === "vhost_user.ring_broken").at(-1);
      outcome = `broken ${line?.fields["reason"] ?? "silently"}`;
      log.length = 0;
      victim.frontEnd.getVringBase(0);
      this.restart();
    } else if (this.prng.chance(0.1)) {
      victim.frontEnd.getVringBase(0);
      this.restart();
    }
    for (const name of names) context.coverage.note(`${this.ringName()}/${name}/${outcome}`);
  }

  /** A new ring in place of the old one, which may hold anything. */
  private restart(): void {
    const { victim, queue } = this;
    // It lies first in its region, where the old one was.
    victim.memory.reset(this.mark.map((free, index) => (index === 1 ? 0 : free)));
    const { size, packed } = queue.ring;
    const ring = packed
      ? new HostilePacked(victim.memory, size, this.hostile)
      : new HostileSplit(victim.memory, size, this.hostile);
    this.queue = { ...queue, ring };
    if (victim.options.inflight !== true) {
      victim.startQueue(this.queue);
      return;
    }
    // What was in flight belonged to the ring that is gone, as after a reset of the guest.
    const honest = victim.queue(1);
    const base = victim.frontEnd.getVringBase(honest.index);
    victim.renewInflight();
    victim.startQueue(this.queue);
    victim.startQueue(honest, base);
  }
}

export const CHAIN_FUZZER: Fuzzer = {
  name: "chains",
  profileCount: DAMAGES.length,
  async round(context: RoundContext): Promise<void> {
    await new ChainRound(context).run();
  },
};
