// How fast the resyncs of a node's volumes may copy, all together: a fixed rate, or one that
// follows what clients see (latency-governor.ts).
//
// Invariants: no slab is begun before its time; time that nobody used is lost, but for BURST_MS. No
// timer runs while nothing is being copied, nor with a fixed rate.

import type { ReactorPort } from "../ports/index.ts";
import { type ClientSight, LatencyGovernor } from "./latency-governor.ts";

export type { ClientSight, ClientWindow } from "./latency-governor.ts";

const STEP_MS = 50;
const BURST_MS = 20;
/** How long to wait in a quiet moment before asking again. */
const QUIET_WAIT_MS = 10;

export class ResyncPace {
  /** Of all resyncs together, ever. */
  movedBytes = 0;
  private readonly reactor: ReactorPort;
  private readonly governor: LatencyGovernor | null;
  private fixed: number | null = null;
  private notBeforeUs = 0;
  private activeCount = 0;
  private isTimerArmed = false;

  constructor(reactor: ReactorPort, clients: ClientSight | null) {
    this.reactor = reactor;
    this.governor = clients === null ? null : new LatencyGovernor(clients);
  }

  /** null = automatic. */
  get limit(): number | null {
    return this.fixed;
  }

  /** Bytes per second; null = automatic. At once, also for resyncs under way. */
  setLimit(bytesPerSecond: number | null): void {
    const wasFixed = this.fixed !== null;
    this.fixed = bytesPerSecond;
    this.notBeforeUs = Math.min(this.notBeforeUs, this.reactor.clock.nowUs());
    if (wasFixed && this.activeCount > 0) this.startGovernor();
  }

  /** In force now; Infinity = there is no limit. */
  get bytesPerSecond(): number {
    return this.fixed ?? this.governor?.bytesPerSecond ?? Infinity;
  }

  private get isQuiet(): boolean {
    return this.fixed === null && this.governor?.isQuiet === true;
  }

  /** A resync begins to copy. */
  begin(): void {
    this.activeCount += 1;
    if (this.activeCount === 1) this.startGovernor();
  }

  end(): void {
    this.activeCount -= 1;
  }

  /** False: too early. */
  take(bytes: number): boolean {
    const nowUs = this.reactor.clock.nowUs();
    if (this.isQuiet || nowUs < this.notBeforeUs) return false;
    const earliestUs = nowUs - BURST_MS * 1000;
    this.notBeforeUs = Math.max(earliestUs, this.notBeforeUs) + (bytes * 1e6) / this.bytesPerSecond;
    this.movedBytes += bytes;
    return true;
  }

  /** After take() said no: when to ask again. */
  get waitMs(): number {
    if (this.isQuiet) return QUIET_WAIT_MS;
    return Math.max(0, Math.ceil((this.notBeforeUs - this.reactor.clock.nowUs()) / 1000));
  }

  // Automatic -------------------------------------------------------------------------------------

  private startGovernor(): void {
    if (this.governor === null || this.fixed !== null) return;
    this.governor.start(this.reactor.clock.nowUs() / 1000, this.movedBytes);
    this.arm();
  }

  private arm(): void {
    if (this.isTimerArmed) return;
    this.isTimerArmed = true;
    this.reactor.setTimer(STEP_MS, this, 0);
  }

  timerFired(): void {
    this.isTimerArmed = false;
    if (this.activeCount === 0 || this.fixed !== null) return;
    this.governor?.step(this.reactor.clock.nowUs() / 1000, this.movedBytes);
    this.arm();
  }
}
