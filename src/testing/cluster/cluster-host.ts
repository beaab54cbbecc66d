// The machine's side of a simulated process: everything that happens to it goes through its host,
// which may hold it up (a stopped process, to which all of it happens when it goes on) or end it
// (nothing happens to it any more). Its clock begins anywhere and runs a little fast or slow.

import type { Clock } from "../../ports/index.ts";
import {
  type AfterOptions,
  type SimClock,
  type SimLoop,
  type SimMemory,
  SimReactor,
  SimScheduler,
} from "../sim/index.ts";

const DRIFT = 0.02;
const STARTED_US = 1e9;

interface Held {
  readonly action: () => void;
  readonly owner: unknown;
}

/** Looks like the scheduler to whatever belongs to the process. */
export class HostScheduler extends SimScheduler {
  override readonly clock: SimClock;
  isGone = false;
  private readonly world: SimScheduler;
  private isHeld = false;
  private readonly held: Map<number, Held> = new Map();
  private readonly ownLoops: Set<SimLoop> = new Set();

  constructor(world: SimScheduler) {
    super(world.prng.u32());
    this.world = world;
    this.clock = world.clock;
  }

  override after(delayUs: number, action: () => void, options: AfterOptions = {}): number {
    const id = this.world.after(delayUs, () => this.happen(id, action, options.owner), options);
    return id;
  }

  private happen(id: number, action: () => void, owner: unknown): void {
    if (this.isGone) return;
    if (this.isHeld) this.held.set(id, { action, owner });
    else action();
  }

  override cancel(id: number): void {
    this.held.delete(id);
    this.world.cancel(id);
  }

  override cancelOwned(owner: unknown): void {
    for (const [id, one] of this.held) if (one.owner === owner) this.held.delete(id);
    this.world.cancelOwned(owner);
  }

  override addLoop(loop: SimLoop): void {
    this.ownLoops.add(loop);
    this.world.addLoop(loop);
  }

  override removeLoop(loop: SimLoop): void {
    this.ownLoops.delete(loop);
    this.world.removeLoop(loop);
  }

  /** Does it when the process runs; never once it is gone. */
  soon(action: () => void): void {
    this.after(0, action, { label: "host" });
  }

  hold(): void {
    this.isHeld = true;
  }

  /** It goes on: what has happened meanwhile reaches it, in its order. */
  release(): void {
    this.isHeld = false;
    while (!this.isHeld && this.held.size > 0) {
      const [id, one] = this.held.entries().next().value as [number, Held];
      this.held.delete(id);
      if (!this.isGone) one.action();
    }
  }

  end(): void {
    this.isGone = true;
    this.held.clear();
    for (const loop of [...this.ownLoops]) this.removeLoop(loop);
  }
}

export class HostReactor extends SimReactor {
  override readonly clock: Clock;

  constructor(host: HostScheduler, memory: SimMemory) {
    super({ scheduler: host, memory });
    const rate = 1 + (host.prng.unit() - 0.5) * DRIFT;
    const startUs = host.prng.unit() * STARTED_US;
    const { clock } = host;
    this.clock = { nowUs: () => startUs + clock.nowUs() * rate };
  }
}
