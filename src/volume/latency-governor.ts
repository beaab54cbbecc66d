// How fast resyncs may be without hurting clients: the rate follows what clients see. Now and then
// resyncs pause for a moment, and clients' latency without them is measured; between the pauses
// the rate grows while latency stays below a multiple of that, and falls when it does not.
//
//   settling --> quiet --> resuming --> running, window by window --> settling ...
//
// Without clients there is nothing to measure, and the rate doubles with every window. Invariants:
// a rate is never below RATE_MIN, so that every resync comes to its end; nothing is copied in
// "settling" and "quiet".

export interface ClientWindow {
  /** Requests that were answered. */
  readonly count: number;
  readonly p99Us: number;
}

/** The clients of the node's volumes. */
export interface ClientSight {
  /** A window begins. */
  mark(): void;
  /** Since mark(). */
  read(): ClientWindow;
}

/** Aimed at: with its swings latency then stays within twice what it is without resyncs. */
const GROWTH = 1.5;
/** What is added to latency before it counts: less is noise. */
const SLACK_US = 100;
const MIB = 1048576;
export const RATE_FIRST: number = 16 * MIB;
export const RATE_MIN: number = 8 * MIB;
const RATE_MAX = 16384 * MIB;
const SETTLE_MS = 50;
const WINDOW_MS = 250;
const WINDOW_MAX_MS = 1000;
/** A window with so many requests says something about one in a hundred. */
const WINDOW_REQUESTS = 200;
/** With fewer requests than this in a window there are no clients to speak of. */
const REQUESTS_MIN = 10;
/** A quiet moment that nobody uses ends after this time. */
const NOBODY_MS = 100;
const QUIET_EVERY_MS = 5000;
const BASELINE_MAX_AGE_MS = 30_000;
const BASELINES = 3;
/** How the rate grows from window to window: far from where it was too high last, and near it. */
const FAR = 1.25;
const NEAR = 1.05;
const NEAR_FROM = 0.7;
/** For so long a rate that was too high is remembered. */
const CEILING_MS = 8000;
/** A rate that is not made use of is no proof that more would do. */
const USED_PART = 0.7;

type Phase = "settling" | "quiet" | "resuming" | "running";

export class LatencyGovernor {
  bytesPerSecond: number = RATE_FIRST;
  private readonly clients: ClientSight;
  private phase: Phase = "running";
  private sinceMs = -Infinity;
  private runningSinceMs = -Infinity;
  private movedBytes = 0;
  /** p99 without resyncs, the newest last. */
  private readonly baselines: number[] = [];
  private baselineMs = -Infinity;
  /** The rate that was too high last. */
  private ceiling = Infinity;
  private ceilingMs = -Infinity;

  constructor(clients: ClientSight) {
    this.clients = clients;
  }

  /** Nothing may be copied for now. */
  get isQuiet(): boolean {
    return this.phase === "settling" || this.phase === "quiet";
  }

  /** What clients' p99 may be now; Infinity = there is nothing to go by. */
  get allowedUs(): number {
    if (this.baselines.length === 0) return Infinity;
    const sorted = this.baselines.toSorted((a, b) => a - b);
    const baseline = sorted[Math.floor(sorted.length / 2)];
    return Math.max(baseline * GROWTH, baseline + SLACK_US);
  }

  /** Resyncs begin after none was under way. */
  start(nowMs: number, movedBytes: number): void {
    this.dropOldBaselines(nowMs);
    if (this.baselines.length === 0) this.enter("settling", nowMs, movedBytes);
    else this.enter("resuming", nowMs, movedBytes);
  }

  /** Called every few milliseconds; `movedBytes`: by all resyncs together, ever. */
  step(nowMs: number, movedBytes: number): void {
    const elapsedMs = nowMs - this.sinceMs;
    switch (this.phase) {
      case "settling":
        if (elapsedMs >= SETTLE_MS) this.enter("quiet", nowMs, movedBytes);
        return;
      case "quiet":
        this.stepQuiet(elapsedMs, nowMs, movedBytes);
        return;
      case "resuming":
        if (elapsedMs < SETTLE_MS) return;
        this.runningSinceMs = nowMs;
        this.enter("running", nowMs, movedBytes);
        return;
      case "running":
        this.stepRunning(elapsedMs, nowMs, movedBytes);
    }
  }

  private enter(phase: Phase, nowMs: number, movedBytes: number): void {
    this.phase = phase;
    this.sinceMs = nowMs;
    this.movedBytes = movedBytes;
    if (phase === "quiet" || phase === "running") this.clients.mark();
  }

  private isWindowOver(elapsedMs: number, { count }: ClientWindow): boolean {
    return elapsedMs >= (count >= WINDOW_REQUESTS ? WINDOW_MS : WINDOW_MAX_MS);
  }

  private stepQuiet(elapsedMs: number, nowMs: number, movedBytes: number): void {
    if (elapsedMs < NOBODY_MS) return;
    const window = this.clients.read();
    if (window.count > 0 && !this.isWindowOver(elapsedMs, window)) return;
    if (window.count >= REQUESTS_MIN) {
      this.baselines.push(window.p99Us);
      if (this.baselines.length > BASELINES) this.baselines.shift();
      this.baselineMs = nowMs;
    }
    this.enter("resuming", nowMs, movedBytes);
  }

  private stepRunning(elapsedMs: number, nowMs: number, movedBytes: number): void {
    if (elapsedMs < WINDOW_MS) return;
    const window = this.clients.read();
    const isIdle = window.count < REQUESTS_MIN;
    if (!isIdle && !this.isWindowOver(elapsedMs, window)) return;
    this.dropOldBaselines(nowMs);
    if (!isIdle && this.baselines.length === 0) {
      this.enter("settling", nowMs, movedBytes);
      return;
    }
    const used = ((movedBytes - this.movedBytes) * 1000) / elapsedMs;
    if (!isIdle && window.p99Us > this.allowedUs) this.fall(window.p99Us, used, nowMs);
    else if (used >= this.bytesPerSecond * USED_PART) this.grow(isIdle, window.p99Us, nowMs);
    const isQuietDue = !isIdle && nowMs - this.runningSinceMs >= QUIET_EVERY_MS;
    this.enter(isQuietDue ? "settling" : "running", nowMs, movedBytes);
  }

  /** By as much as latency is too high, within bounds. */
  private fall(p99Us: number, usedBytesPerSecond: number, nowMs: number): void {
    const factor = Math.min(0.85, Math.max(0.6, this.allowedUs / p99Us));
    const rate = Math.min(this.bytesPerSecond, usedBytesPerSecond);
    this.ceiling = rate;
    this.ceilingMs = nowMs;
    this.bytesPerSecond = Math.max(RATE_MIN, rate * factor);
  }

  private grow(isIdle: boolean, p99Us: number, nowMs: number): void {
    if (isIdle || nowMs - this.ceilingMs > CEILING_MS) this.ceiling = Infinity;
    const { bytesPerSecond: rate, ceiling } = this;
    const isNear = rate > ceiling * NEAR_FROM || p99Us > this.allowedUs * NEAR_FROM;
    const factor = isIdle ? 2 : isNear ? NEAR : FAR;
    this.bytesPerSecond = Math.min(RATE_MAX, rate * factor);
  }

  private dropOldBaselines(nowMs: number): void {
    if (nowMs - this.baselineMs > BASELINE_MAX_AGE_MS) this.baselines.length = 0;
  }
}
