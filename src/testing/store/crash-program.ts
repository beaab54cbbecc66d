// A short random program on a tiny store, recorded: every write of every class, flushes, pauses in
// which the store marks what is in place, and stops, clean or not, in the middle. The trace carries
// the model as it was after each change, so that it says what must hold at every crash point. With
// every second seed a replica is written beside the volume, by owners who take it over from each other.

import { Prng } from "../../base/index.ts";
import type { FormatOptions, StoreOptions } from "../../chunk/index.ts";
import { NO_BUGS, type PlantedBugs } from "../../chunk/planted.ts";
import type { CheckedClient, ModelVolume, SimMedia, SimMemory, SimTrace } from "../sim/index.ts";
import { step } from "./program.ts";
import type { ReplicaModel } from "./replica-model.ts";
import { REPLICA_UUID, ReplicaSession } from "./replica-session.ts";
import { SimStore, VOLUME_UUID } from "./sim-store.ts";

/** What a trace's marks hold. */
export interface CrashMark {
  readonly model: ModelVolume;
  /** The volume's creation has been acknowledged. */
  readonly isCreated: boolean;
  readonly replica: ReplicaModel;
}

export interface CrashSpec {
  readonly hasReplica: boolean;
  readonly isVolatile: boolean;
  readonly format: Partial<FormatOptions>;
  readonly store: StoreOptions;
  readonly sizeBytes: number;
  readonly stepCount: number;
}

/** As small as the format allows: two of the largest groups, a log of a few blocks. */
const RING_BYTES_MIN = 139264;
const BLOCK = 4096;
const SIZE_BYTES = 262144;
const FAST = { order: "shuffled", latencyMinUs: 10, latencyMaxUs: 120 } as const;

export function crashSpec(seed: number, planted: PlantedBugs = NO_BUGS): CrashSpec {
  const prng = new Prng(seed ^ 0x2545f491);
  const isVolatile = prng.chance(0.5);
  const hasReplica = seed % 2 === 0;
  return {
    hasReplica,
    isVolatile,
    format: {
      durability: isVolatile ? "volatile" : "plp",
      ringBytes: RING_BYTES_MIN + prng.below(3) * 8 * BLOCK,
      logBytes: (6 + prng.below(8)) * BLOCK,
      extentCount: hasReplica ? 3 : 2,
    },
    store: {
      pageCacheCount: prng.between(4, 12),
      operationCount: prng.between(12, 48),
      bufferCount: prng.between(2, 6),
      freshBlocksMin: [1, 4, 16][prng.below(3)],
      writeBackAt: [0, 0.25, 0.5][prng.below(3)],
      planted,
    },
    sizeBytes: SIZE_BYTES,
    // With a replica each step does more, and each state takes longer to check.
    stepCount: Math.ceil(prng.between(10, 40) / (hasReplica ? 2 : 1)),
  };
}

export function openOn(
  media: SimMedia,
  spec: CrashSpec,
  memory: SimMemory,
  seed: number,
): SimStore {
  memory.reset();
  return new SimStore({ media, seed, memory, store: spec.store, disk: FAST });
}

/** Runs a program from where `start` is, and records everything the disk is asked and does. */
export function record(
  media: SimMedia,
  spec: CrashSpec,
  start: CrashMark,
  memory: SimMemory,
  seed: number,
): SimTrace {
  return new Recording(media, spec, start, memory, seed).run();
}

class Recording {
  private readonly media: SimMedia;
  private readonly spec: CrashSpec;
  private readonly memory: SimMemory;
  private readonly seed: number;
  private readonly prng: Prng;
  private readonly trace: SimTrace;
  private readonly model: ModelVolume;
  private readonly replica: ReplicaModel;
  private session: ReplicaSession | null = null;
  private isCreated: boolean;
  private openCount = 0;

  constructor(media: SimMedia, spec: CrashSpec, start: CrashMark, memory: SimMemory, seed: number) {
    this.media = media;
    this.spec = spec;
    this.memory = memory;
    this.seed = seed;
    this.prng = new Prng(seed);
    this.model = start.model;
    this.isCreated = start.isCreated;
    this.replica = start.replica;
    this.trace = media.startTrace();
  }

  private mark(): void {
    const { model, isCreated, replica } = this;
    this.trace.mark({ model: model.fork(), isCreated, replica: replica.fork() });
  }

  run(): SimTrace {
    this.mark();
    let [store, client] = this.open();
    for (let index = 0; index < this.spec.stepCount; index++) {
      if (this.prng.chance(0.04)) {
        this.stop(store, client);
        [store, client] = this.open();
      } else {
        this.step(store, client);
      }
    }
    // Whatever is still on its way is part of the last crash points.
    if (this.prng.chance(0.3)) store.scheduler.runFor(120_000);
    if (this.prng.chance(0.3)) this.stop(store, client);
    else this.abandon(store);
    return this.trace;
  }

  private open(): [SimStore, CheckedClient] {
    const { spec, media, memory } = this;
    this.openCount += 1;
    const store = openOn(media, spec, memory, this.seed * 31 + this.openCount);
    const error = store.open();
    if (error !== null) throw error;
    if (!store.store.listVolumes().some(({ uuid }) => uuid === VOLUME_UUID)) {
      store.createVolume(spec.sizeBytes);
    }
    this.isCreated = true;
    this.mark();
    if (spec.hasReplica) this.enterReplica(store);
    return [store, store.client(this.model, this.prng.chance(0.5), () => this.mark())];
  }

  private enterReplica(store: SimStore): void {
    const { replica, spec } = this;
    if (!store.store.listVolumes().some(({ uuid }) => uuid === REPLICA_UUID)) {
      store.createVolume(spec.sizeBytes, REPLICA_UUID, true);
    }
    replica.isCreated = true;
    this.mark();
    const { prng, sizeBytes } = { prng: this.prng, sizeBytes: spec.sizeBytes };
    this.session = new ReplicaSession(store, replica, prng, sizeBytes, () => this.mark());
    this.session.enter(replica.epochAsked + 1);
  }

  /** What is on its way to volume and replica. */
  private inflightCount(client: CheckedClient): number {
    return client.inflightCount + (this.session?.inflightCount ?? 0);
  }

  private step(store: SimStore, client: CheckedClient): void {
    if (this.session !== null && this.prng.chance(0.5)) {
      if (this.prng.chance(0.08)) this.session = this.session.handOver();
      else this.session.step();
      this.mark();
      if (this.prng.chance(0.4)) return;
    }
    if (this.prng.chance(0.12)) {
      // Longer than the store waits before it marks what is in place.
      store.scheduler.runFor(this.prng.between(60_000, 130_000));
      return;
    }
    step(client, this.prng, this.spec.sizeBytes);
    this.mark();
    const depth = this.prng.chance(0.5) ? 0 : this.prng.below(6);
    store.scheduler.runUntil(() => this.inflightCount(client) <= depth, "requests");
  }

  /** A clean stop, or the death of the process. */
  private stop(store: SimStore, client: CheckedClient): void {
    if (this.prng.chance(0.5)) {
      store.scheduler.runUntil(() => this.inflightCount(client) === 0, "the last requests");
      this.session?.replica.close();
      this.session = null;
      store.close();
    } else {
      this.abandon(store);
    }
  }

  private abandon(store: SimStore): void {
    store.disk.crash({ kind: "process" });
    store.reactor.stop();
    this.session = null;
    this.model.crashed();
    this.replica.crashed();
    this.mark();
  }
}
