// The way between an owner's process and a node: connections that deliver in order, late, and that
// break. A cut may be in one direction only; what was on its way when a connection broke is lost, or
// arrives after its successor has begun.

import type { SimScheduler } from "../sim/index.ts";

const DELAY_US = 250;
const NOTICED_US = 300_000;
const LATE_US = 60_000;

export class SimConnection {
  isOpen = true;
  private readonly link: SimLink;
  private forwardUs = 0;
  private backwardUs = 0;
  /** Told once, when it breaks. */
  onBreak: (() => void) | null = null;

  constructor(link: SimLink) {
    this.link = link;
  }

  toNode(action: () => void): void {
    const { scheduler } = this.link;
    this.forwardUs = Math.max(this.forwardUs, scheduler.clock.nowUs() + this.link.delayUs());
    this.carry(this.forwardUs, this.link.isForwardUp, action);
  }

  toOwner(action: () => void): void {
    const { scheduler } = this.link;
    this.backwardUs = Math.max(this.backwardUs, scheduler.clock.nowUs() + this.link.delayUs());
    this.carry(this.backwardUs, this.link.isBackwardUp, () => {
      // A process does not hear of a connection that it has given up.
      if (this.isOpen) action();
    });
  }

  private carry(dueUs: number, isUp: boolean, action: () => void): void {
    if (!this.isOpen) return;
    const { scheduler } = this.link;
    if (!isUp) {
      scheduler.after(NOTICED_US * scheduler.prng.unit(), () => this.break(), { label: "timeout" });
      return;
    }
    const deliver = (): void => {
      if (this.isOpen) action();
      else if (scheduler.prng.chance(0.5)) {
        scheduler.after(LATE_US * scheduler.prng.unit(), action, { label: "late message" });
      }
    };
    scheduler.after(dueUs - scheduler.clock.nowUs(), deliver, { label: "message" });
  }

  break(): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.link.forget(this);
    this.onBreak?.();
  }
}

export class SimLink {
  readonly scheduler: SimScheduler;
  readonly isLocal: boolean;
  isForwardUp = true;
  isBackwardUp = true;
  /** A slow peer: how much longer everything takes. */
  slowness = 1;
  private readonly open: Set<SimConnection> = new Set();

  constructor(scheduler: SimScheduler, isLocal: boolean) {
    this.scheduler = scheduler;
    this.isLocal = isLocal;
  }

  delayUs(): number {
    if (this.isLocal) return 1;
    return (20 + this.scheduler.prng.unit() * DELAY_US) * this.slowness;
  }

  /** null: it cannot be reached. */
  connect(): SimConnection | null {
    if (!this.isForwardUp || !this.isBackwardUp) return null;
    const connection = new SimConnection(this);
    this.open.add(connection);
    return connection;
  }

  forget(connection: SimConnection): void {
    this.open.delete(connection);
  }

  breakAll(): void {
    for (const connection of Array.from(this.open)) connection.break();
  }

  heal(): void {
    this.isForwardUp = true;
    this.isBackwardUp = true;
    this.slowness = 1;
  }
}
