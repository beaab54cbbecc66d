// @hot
// One ring of a session: what the front-end told us of it, and while it runs, the virtqueue that
// serves it. A ring is two independent bits, started and enabled (specification, "Ring states"):
//
//   told:     num, addresses, base, kick, call, err descriptors
//   runs:     told enough, enabled, memory translates           -> RingQueue polls
//   draining: stopTaking; what the device has is still answered -> when all is answered, drained
//
// Invariants:
//  - while draining or stopped nothing is taken from the ring; nothing taken is dropped;
//  - the ring areas are closed only when the device has let go (deviceCount 0);
//  - a broken ring stays broken until the front-end stops it; it is signalled on the err
//    descriptor once, and other rings never notice.

import { assert } from "../base/index.ts";
import type { Poller, ReactorPort } from "../ports/index.ts";
import { closeReceived, drainNoWait, fstatNoWait, POLLIN, S_IFMT } from "../sys/index.ts";
import {
  type BlkMeter,
  type BlkQueueModules,
  brokenName,
  COUNTER_KICK,
  F_EVENT_IDX,
  F_RING_PACKED,
  hasFeature,
  type RingLog,
} from "../virtio/index.ts";
import type { DescriptorBudget } from "./descriptor-budget.ts";
import type { DirtyLog } from "./dirty-log.ts";
import type { GuestDevice, RingQueue } from "./guest-device.ts";
import type { InflightRegion } from "./inflight.ts";
import { PackedInflight } from "./inflight-packed.ts";
import { SplitInflight } from "./inflight-split.ts";
import type { MemoryTable } from "./memory-table.ts";
import { isWatchable, Notifier } from "./notifier.ts";
import { QueueReactor } from "./queue-reactor.ts";
import { closeRingAreas, openRingAreas, type RingAreas } from "./ring-area.ts";
import { type LateOwner, SecondLook } from "./second-look.ts";

export const RING_STOPPED = 0;
export const RING_RUNNING = 1;
export const RING_DRAINING = 2;

/** A ring without a kick descriptor asks to be polled: awake as others, then this often. */
const KICKLESS_POLL_MS = 1;

/** What a ring asks of its session. */
export interface RingOwner extends LateOwner {
  /** The driver kicked a ring that does not run: it may be possible to start it now. */
  ringKicked(ring: Vring): void;
  /** Everything taken has been answered: the drain that was asked for is over. */
  ringDrained(ring: Vring): void;
  /** The guest broke the rules, or the ring's memory is gone. */
  ringBroken(ring: Vring, reason: string): void;
}

export interface VringModules {
  readonly reactor: ReactorPort;
  readonly guest: GuestDevice;
  readonly meter: BlkMeter;
  readonly memory: MemoryTable;
  readonly descriptors: DescriptorBudget;
  readonly owner: RingOwner;
}

export interface VringStart {
  readonly featuresLow: number;
  readonly featuresHigh: number;
  readonly inflight: InflightRegion | null;
}

export class Vring implements Poller, RingLog {
  readonly index: number;
  state: number = RING_STOPPED;
  size = 0;
  base = 0;
  addressesSet = false;
  descriptorAddress = 0;
  driverAddress = 0;
  deviceAddress = 0;
  logUsed = false;
  logAddress = 0;
  enabled = false;
  /** A kick descriptor, or the word that there is none, was given. */
  kickGiven = false;
  /** Why the ring is broken, or "". */
  broken = "";

  private readonly modules: VringModules;
  private readonly reactor: ReactorPort;
  private readonly call: Notifier;
  private readonly error: Notifier;
  private kickFd = -1;
  private watchId = -1;
  /** A pipe or socket fills up unless it is read; an eventfd only counts. */
  private kickFills = false;
  private kicked = false;
  private timerPending = false;
  private readonly secondLook: SecondLook;
  private queue: RingQueue | null = null;
  private areas: RingAreas | null = null;
  /** Its areas lie in no region: not tried again before memory, addresses or size change. */
  private waitsForMemory = false;
  /** It ran since its kick descriptor was given. */
  private ran = false;
  private dirtyLog: DirtyLog | null = null;
  private descriptorGuest = 0;

  constructor(index: number, modules: VringModules) {
    this.index = index;
    this.modules = modules;
    this.reactor = modules.reactor;
    this.call = new Notifier(modules.reactor);
    this.error = new Notifier(modules.reactor);
    this.secondLook = new SecondLook(modules, this);
  }

  // What the front-end tells ----------------------------------------------------------------------

  /** Takes ownership of `fd`, -1 = none. Returns what is wrong with it, or null. */
  // @cold
  setKick(fd: number): string | null {
    if (fd >= 0 && !isWatchable(fd)) {
      closeReceived(fd);
      return "a kick descriptor that is no eventfd, pipe or socket";
    }
    const refused = this.reserve(fd, this.kickFd >= 0);
    if (refused !== null) return refused;
    this.closeKick(fd < 0);
    this.kickFd = fd;
    this.kickGiven = true;
    if (fd >= 0) {
      this.kickFills = (statusOf(fd) & S_IFMT) !== 0;
      this.watchId = this.reactor.watch(fd, POLLIN, this, 0);
    }
    // A kick may have been lost with the old descriptor: look once.
    if (this.state === RING_RUNNING) this.reactor.activate(this);
    return null;
  }

  /** Room for `fd` in the budget, besides what it replaces; closes it when there is none. */
  // @cold
  private reserve(fd: number, replaces: boolean): string | null {
    if (fd < 0) return null;
    const refused = replaces ? null : this.modules.descriptors.take();
    if (refused !== null) closeReceived(fd);
    return refused;
  }

  /** Closes the kick descriptor; `giveBack` unless another one follows in its place. */
  // @cold
  private closeKick(giveBack: boolean): void {
    if (this.watchId >= 0) this.reactor.unwatch(this.watchId);
    this.watchId = -1;
    if (this.kickFd >= 0) {
      closeReceived(this.kickFd);
      if (giveBack) this.modules.descriptors.give();
    }
    this.kickFd = -1;
  }

  /** As setKick. A running ring is signalled: an interrupt may have been lost. */
  // @cold
  setCall(fd: number): string | null {
    const refused = this.setNotifier(this.call, fd);
    if (refused === null && this.state !== RING_STOPPED) this.call.signal();
    return refused;
  }

  // @cold
  private setNotifier(notifier: Notifier, fd: number): string | null {
    const had = notifier.hasDescriptor;
    const refused = this.reserve(fd, had);
    if (refused !== null) return refused;
    notifier.set(fd);
    if (had && fd < 0) this.modules.descriptors.give();
    return null;
  }

  /** A disabled ring takes nothing; what it took is still answered. */
  // @cold
  setEnabled(enabled: boolean): void {
    if (this.enabled === enabled) return;
    this.enabled = enabled;
    if (enabled && this.state === RING_RUNNING) this.reactor.activate(this);
  }

  // @cold
  setError(fd: number): string | null {
    const refused = this.setNotifier(this.error, fd);
    if (refused === null && this.broken !== "") this.error.signal();
    return refused;
  }

  /** Enough is known to try to start. */
  get startable(): boolean {
    return (
      this.state === RING_STOPPED &&
      this.enabled &&
      this.kickGiven &&
      this.addressesSet &&
      this.size > 0 &&
      !this.waitsForMemory &&
      this.broken === ""
    );
  }

  /** Memory, addresses or size are others now: a ring that waits for memory is tried again. */
  // @cold
  memoryChanged(): void {
    this.waitsForMemory = false;
  }

  // Running ---------------------------------------------------------------------------------------

  /**
   * Maps the areas, recovers what the inflight region says, and lets the queue run. False when the
   * memory does not hold the ring (yet): tried again when memory or addresses change.
   */
  // @cold
  start(options: VringStart): boolean {
    assert(this.startable, "a ring started before it was ready");
    const packed = hasFeature(options.featuresLow, options.featuresHigh, F_RING_PACKED);
    if (!this.openAreas(packed)) return false;
    const { descriptors, driver, device } = this.areas as RingAreas;
    let tracker: SplitInflight | PackedInflight | null = null;
    let resubmit: Uint16Array | null = null;
    let base = this.base;
    const { inflight } = options;
    if (inflight !== null && this.index < inflight.geometry.queueCount) {
      const regionSize = inflight.geometry.queueSize;
      if (inflight.packed !== packed) {
        return this.fail("an inflight region made for the other kind of ring");
      }
      if (this.size > regionSize) return this.fail("a ring larger than its inflight region");
      const window = inflight.window(this.index);
      tracker = packed
        ? new PackedInflight(window, regionSize)
        : new SplitInflight(window, regionSize);
      const found = this.recover(tracker, regionSize);
      if (typeof found === "string") return this.fail(found);
      if (found !== null) {
        base = found.base;
        resubmit = Uint16Array.from(found.heads);
      }
    }
    const queue = this.modules.guest.newQueue(this.index, {
      reactor: this.queueReactor(),
      breakHandler: { ringBroken: (_index, reason) => this.queueBroken(reason) },
      ring: this,
    });
    const reason = queue.start({
      ring: {
        size: this.size,
        descriptors,
        driver,
        device,
        base,
        featuresLow: options.featuresLow,
        featuresHigh: options.featuresHigh,
        memory: this.modules.memory,
        tracker,
        ringLog: this.dirtyLog === null ? null : this,
      },
      notifier: this.call,
      resubmit,
    });
    if (reason !== 0) {
      queue.close();
      return this.fail(brokenName(reason));
    }
    this.queue = queue;
    const exact = hasFeature(options.featuresLow, options.featuresHigh, F_EVENT_IDX);
    this.secondLook.start(queue, exact);
    this.state = RING_RUNNING;
    this.ran = true;
    this.reactor.addPoller(this);
    return true;
  }

  // @cold
  private recover(
    tracker: SplitInflight | PackedInflight,
    regionSize: number,
  ): { readonly heads: readonly number[]; readonly base: number } | string | null {
    const { descriptors, device } = this.areas as RingAreas;
    if (tracker instanceof PackedInflight) {
      return tracker.recover(this.base, descriptors, this.size, regionSize);
    }
    if (!device.pull(0, 4)) return "the used ring cannot be read";
    const usedIndex = Atomics.load(device.u16, 1);
    return tracker.recover(usedIndex, this.size, regionSize);
  }

  /** The reactor as the queue sees it: its flushes come to us, so that we notice a drain's end. */
  // @cold
  private queueReactor(): BlkQueueModules["reactor"] {
    return new QueueReactor(this.reactor, this);
  }

  // @cold
  private fail(reason: string): boolean {
    this.closeAreas();
    this.markBroken(reason);
    return true;
  }

  // @cold
  private openAreas(packed: boolean): boolean {
    assert(this.areas === null, "ring areas opened twice");
    const { memory } = this.modules;
    const areas = openRingAreas(memory, this.reactor.memory, this, { size: this.size, packed });
    if (areas === null) {
      this.waitsForMemory = true;
      // Memory may be told after the ring. But a ring that ran has lost it, and a kick says that
      // the driver believes the ring to be in the memory that there is.
      if (this.ran || (this.kicked && memory.count > 0)) {
        this.markBroken("the ring lies outside the memory regions");
      }
      return false;
    }
    if (typeof areas === "string") {
      this.markBroken(areas);
      return false;
    }
    this.areas = areas;
    this.descriptorGuest = areas.descriptorGuest;
    return true;
  }

  // @cold
  private closeAreas(): void {
    if (this.areas !== null) closeRingAreas(this.areas);
    this.areas = null;
  }

  // @cold
  private queueBroken(reason: number): void {
    this.markBroken(brokenName(reason));
  }

  // @cold
  private markBroken(reason: string): void {
    if (this.broken !== "") return;
    this.broken = reason;
    this.error.signal();
    this.modules.owner.ringBroken(this, reason);
  }

  /** Migration: log writes to the ring itself while `log` is set. */
  // @cold
  setDirtyLog(log: DirtyLog | null): void {
    const used = log !== null && this.logUsed ? log : null;
    this.dirtyLog = used;
    if (this.queue !== null) this.queue.setRingLog(used === null ? null : this);
  }

  usedRingWritten(offsetBytes: number, bytes: number): void {
    if (this.dirtyLog !== null) this.dirtyLog.mark(this.logAddress + offsetBytes, bytes);
  }

  descriptorRingWritten(offsetBytes: number, bytes: number): void {
    if (this.dirtyLog !== null) this.dirtyLog.mark(this.descriptorGuest + offsetBytes, bytes);
  }

  // Stopping --------------------------------------------------------------------------------------

  /** Takes nothing more; owner.ringDrained is called when all is answered, maybe at once. */
  // @cold
  drain(): void {
    assert(this.state === RING_RUNNING, "only a running ring can be drained");
    const queue = this.queue as RingQueue;
    this.finishResubmitting(queue);
    queue.stopTaking();
    this.state = RING_DRAINING;
    this.reactor.requestFlush(this);
  }

  /** What a predecessor left in flight belongs to what was taken: it is part of the drain. */
  // @cold
  private finishResubmitting(queue: RingQueue): void {
    while (queue.resubmitCount > 0 && queue.brokenReason === 0) {
      if (queue.poll() === 0) break;
    }
  }

  // @cold
  private finishDrain(queue: RingQueue): void {
    this.reactor.removePoller(this);
    this.secondLook.stop();
    this.base = queue.base;
    queue.close();
    this.queue = null;
    this.closeAreas();
    this.state = RING_STOPPED;
    this.modules.owner.ringDrained(this);
  }

  /** The front-end stopped the ring: its kick is over, a new start needs a new one. */
  // @cold
  forgetKick(): void {
    assert(this.state === RING_STOPPED, "kick taken from a running ring");
    this.closeKick(true);
    this.kickGiven = false;
    this.kicked = false;
    this.ran = false;
    this.broken = "";
  }

  /** Back to what a new session starts with. */
  // @cold
  reset(): void {
    this.forgetKick();
    this.setNotifier(this.call, -1);
    this.setNotifier(this.error, -1);
    this.size = 0;
    this.base = 0;
    this.addressesSet = false;
    this.enabled = false;
    this.logUsed = false;
  }

  // Poller ----------------------------------------------------------------------------------------

  poll(): number {
    const queue = this.queue;
    if (queue === null || !this.enabled) return 0;
    return queue.poll();
  }

  arm(): boolean {
    const queue = this.queue;
    if (queue === null || !this.enabled) return false;
    if (queue.arm()) return true;
    // Without a kick descriptor nobody can wake us: come back and look.
    if (this.kickFd < 0) this.wakeTimer();
    this.secondLook.slept();
    return false;
  }

  disarm(): void {
    const queue = this.queue;
    this.secondLook.woke();
    if (queue !== null && this.enabled) queue.disarm();
  }

  flush(): void {
    const queue = this.queue;
    if (queue === null) return;
    queue.flush();
    if (this.state === RING_DRAINING && queue.deviceCount === 0) this.finishDrain(queue);
  }

  /** Requests that the device still has; guest memory is in use until this is 0. */
  get deviceCount(): number {
    return this.queue === null ? 0 : this.queue.deviceCount;
  }

  private wakeTimer(): void {
    if (this.timerPending || this.state !== RING_RUNNING || this.broken !== "") return;
    this.timerPending = true;
    this.reactor.setTimer(KICKLESS_POLL_MS, this, 0);
  }

  timerFired(_tag: number): void {
    this.timerPending = false;
    if (this.state === RING_RUNNING) this.reactor.activate(this);
  }

  /** ReadinessHandler: the kick descriptor has news. */
  ready(_tag: number, events: number): void {
    if (events < 0) {
      // The watch has ended by itself: the descriptor cannot be polled.
      this.watchId = -1;
      this.markBroken("the kick descriptor cannot be watched");
      return;
    }
    const counters = this.modules.meter.counters;
    counters[COUNTER_KICK] = (counters[COUNTER_KICK] as number) + 1;
    if (this.kickFills) drainNoWait(this.kickFd);
    this.kicked = true;
    this.waitsForMemory = false;
    if (this.state === RING_RUNNING) this.reactor.activate(this);
    else if (this.state === RING_STOPPED) this.modules.owner.ringKicked(this);
    // The other end is gone: nothing more will come, and the poll would report that for ever.
    if ((events & POLLIN) === 0) this.dropWatch();
  }

  // @cold
  private dropWatch(): void {
    if (this.watchId >= 0) this.reactor.unwatch(this.watchId);
    this.watchId = -1;
  }
}

function statusOf(fd: number): number {
  const status = fstatNoWait(fd);
  return typeof status === "number" ? 0 : status.mode;
}
