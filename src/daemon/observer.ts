// Looks at the data plane's counters now and then: front-ends that came and went and health that
// changed become events, disks of the store that fail or find corruption too; differences become
// rates. Slow on purpose: an idle daemon must stay idle,
// and whoever wants live figures asks for them.

import type { EventType, IoRate } from "../model/types.ts";
import type { VolumeStats } from "../ports/data-plane.ts";
import type { VolumeHost } from "./volume-host.ts";

const TICK_MS = 15_000;
/** A rate over less than this says more about batching than about load. */
const WINDOW_MIN_MS = 500;

interface Seen {
  readonly connected: boolean;
  readonly healthCodes: string;
}

interface SeenDisk {
  readonly isFailed: boolean;
  readonly badBlockCount: number;
  readonly health: string;
}

const UNSEEN_DISK: SeenDisk = { isFailed: false, badBlockCount: 0, health: "" };

interface Sample {
  readonly atMs: number;
  readonly byId: ReadonlyMap<string, VolumeStats>;
}

const NO_RATE: IoRate = {
  readsPerSecond: 0,
  readBytesPerSecond: 0,
  writesPerSecond: 0,
  writeBytesPerSecond: 0,
};

/** Volumes that are served and not declared here: the cluster's. */
export type OthersServed = () => readonly (readonly [id: string, name: string])[];

export class Observer {
  readonly #host: VolumeHost;
  readonly #others: OthersServed;
  readonly #nowMs: () => number;
  readonly #seen = new Map<string, Seen>();
  readonly #seenDisks = new Map<string, SeenDisk>();
  #sample: Sample | null = null;
  #rate: IoRate = NO_RATE;
  #timer: NodeJS.Timeout | null = null;

  /** `nowMs` is monotonic. */
  constructor(host: VolumeHost, nowMs: () => number, others: OthersServed) {
    this.#host = host;
    this.#others = others;
    this.#nowMs = nowMs;
  }

  start(): void {
    this.#timer = setInterval(() => this.look(), TICK_MS);
    this.#timer.unref();
    this.look();
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  /** Also called by the data plane when something changed. */
  look(): void {
    const byId = this.#host.statsById();
    this.#takeSample(byId);
    const present = new Set<string>();
    for (const [id, name] of [...this.#host.served(), ...this.#others()]) {
      const stats = byId.get(id);
      if (stats === undefined) continue;
      present.add(id);
      this.#compare(name, stats);
    }
    for (const id of this.#seen.keys()) if (!present.has(id)) this.#seen.delete(id);
    this.#lookAtDisks();
  }

  #lookAtDisks(): void {
    const { disks, log } = this.#host.modules;
    const stats = disks.statsById();
    for (const entry of disks.entries.values()) {
      const { id, name } = entry.declared;
      const now = stats.get(id);
      if (now === undefined || now.phase === "opening") {
        this.#seenDisks.delete(id);
        continue;
      }
      const before = this.#seenDisks.get(id) ?? UNSEEN_DISK;
      const isFailed = now.phase === "failed";
      const { badBlockCount } = now.usage;
      const health = now.health.map((item) => `${item.code}: ${item.message}`).join("; ");
      this.#seenDisks.set(id, { isFailed, badBlockCount, health });
      const tell = (type: EventType, message: string): void => {
        disks.modules.events.addDisk(type, name, message);
        log.log("error", type, { disk: name, message });
      };
      if (isFailed && !before.isFailed) {
        tell("disk.failed", "a write failed: writes are refused");
        disks.becameFailed();
      }
      if (badBlockCount > before.badBlockCount) {
        tell("disk.corruption", `${badBlockCount} blocks do not match their checksums`);
      }
      if (health !== before.health) tell("disk.health", health === "" ? "healthy again" : health);
    }
  }

  #compare(name: string, stats: VolumeStats): void {
    const { events, log } = this.#host.modules;
    const before = this.#seen.get(stats.volumeId);
    const codes = stats.health.map((item) => item.code).sort();
    const now: Seen = { connected: stats.connected, healthCodes: codes.join(" ") };
    this.#seen.set(stats.volumeId, now);
    if (now.connected !== (before?.connected ?? false)) {
      const type = now.connected ? "volume.connected" : "volume.disconnected";
      events.add(type, name, this.#sessionText(name, now.connected));
    }
    if (now.healthCodes !== (before?.healthCodes ?? "")) {
      const text = stats.health.map((item) => `${item.code}: ${item.message}`).join("; ");
      events.add("volume.health", name, text === "" ? "healthy again" : text);
      log.log(text === "" ? "info" : "warn", "volume.health", { volume: name, health: text });
    }
  }

  #sessionText(name: string, isConnected: boolean): string {
    const classic = this.#host.entries.get(name)?.declared.attachment?.classic;
    if (classic !== undefined) {
      return isConnected ? "an initiator has logged in" : "no initiator is logged in any more";
    }
    return `a front-end ${isConnected ? "started" : "stopped"} its rings`;
  }

  #takeSample(byId: ReadonlyMap<string, VolumeStats>): void {
    const atMs = this.#nowMs();
    if (this.#sample === null) {
      this.#sample = { atMs, byId };
      return;
    }
    const windowMs = atMs - this.#sample.atMs;
    if (windowMs < WINDOW_MIN_MS) return;
    this.#rate = rateBetween(this.#sample.byId, byId, windowMs / 1000);
    this.#sample = { atMs, byId };
  }

  /** Over the time since the last look, or the window before when that was just now. */
  rate(): IoRate {
    this.look();
    return this.#rate;
  }
}

function rateBetween(
  before: ReadonlyMap<string, VolumeStats>,
  now: ReadonlyMap<string, VolumeStats>,
  seconds: number,
): IoRate {
  const perSecond = (field: "readCount" | "readBytes" | "writeCount" | "writeBytes"): number => {
    let sum = 0;
    for (const [id, stats] of now) {
      // A volume attached anew counts from zero.
      sum += Math.max(0, stats[field] - (before.get(id)?.[field] ?? 0));
    }
    return sum / seconds;
  };
  return {
    readsPerSecond: perSecond("readCount"),
    readBytesPerSecond: perSecond("readBytes"),
    writesPerSecond: perSecond("writeCount"),
    writeBytesPerSecond: perSecond("writeBytes"),
  };
}
