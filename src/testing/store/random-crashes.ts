// Longer random runs on one medium that is opened again and again: two volumes under deep queues, a
// third that comes and goes, with every second seed a replica whose owners take it over from each
// other, slow operations, and ends of every kind: clean stops, dead processes
// whose writes land late, power cuts. After each everything is read; at the end the books are checked.

import { Prng } from "../../base/index.ts";
import { NO_BUGS, type PlantedBugs } from "../../chunk/planted.ts";
import { type CheckedClient, ModelVolume, SimMedia, SimMemory } from "../sim/index.ts";
import { checkBooks, checkQuiet, readAll } from "./crash-points.ts";
import { type CrashSpec, crashSpec } from "./crash-program.ts";
import { step } from "./program.ts";
import { checkReplica } from "./replica-check.ts";
import { ReplicaModel } from "./replica-model.ts";
import { REPLICA_UUID, ReplicaSession } from "./replica-session.ts";
import { formatMedia, SimStore } from "./sim-store.ts";

/** Room for three volumes and little more, or for twice as much. */
const DISK_BYTES: readonly number[] = [7798784, 9437184];
/** For the replica's extent and its pages. */
const REPLICA_BYTES: number = 1572864;
const SIZE_BYTES = 262144;
const GUEST_UUIDS = [
  "11111111-2222-3333-4444-555555555555",
  "22222222-2222-3333-4444-555555555555",
] as const;
const PASSING_UUID = "33333333-2222-3333-4444-555555555555";
const DEPTH_MAX = 24;

export interface RandomCrashOptions {
  readonly planted?: PlantedBugs;
  /** False: a successor does not wait for the writes of a dead process. */
  readonly exclusive?: boolean;
  readonly rounds?: number;
  readonly requests?: number;
}

export interface RandomCrashCounts {
  requests: number;
  powerCuts: number;
  deaths: number;
  stops: number;
  lateWrites: number;
  handOvers: number;
  uncertainSlabs: number;
  checkedSectors: number;
}

/** Throws when anything is not as it must be. */
export function randomCrashes(seed: number, options: RandomCrashOptions = {}): RandomCrashCounts {
  return new RandomRun(seed, options).run();
}

class RandomRun {
  private readonly counts: RandomCrashCounts = {
    requests: 0,
    powerCuts: 0,
    deaths: 0,
    stops: 0,
    lateWrites: 0,
    handOvers: 0,
    uncertainSlabs: 0,
    checkedSectors: 0,
  };
  private readonly seed: number;
  private readonly options: RandomCrashOptions;
  private readonly prng: Prng;
  private readonly spec: CrashSpec;
  private readonly media: SimMedia;
  private readonly memory: SimMemory = new SimMemory();
  private readonly models: ModelVolume[] = GUEST_UUIDS.map(() => new ModelVolume());
  private readonly replica: ReplicaModel = new ReplicaModel();
  private session: ReplicaSession | null = null;
  /** Of the volume that comes and goes; null while it may be there or not. */
  private passing: ModelVolume | null = null;
  private openCount = 0;

  constructor(seed: number, options: RandomCrashOptions) {
    this.seed = seed;
    this.options = options;
    this.prng = new Prng(seed ^ 0x61c88647);
    const spec = crashSpec(seed, options.planted ?? NO_BUGS);
    // Every volume has an extent of its own, and a deleted one may hold two more for a while.
    this.spec = { ...spec, format: { ...spec.format, extentCount: 6 + (spec.hasReplica ? 1 : 0) } };
    const volatileCache = spec.isVolatile;
    const replicaBytes = spec.hasReplica ? REPLICA_BYTES : 0;
    const capacityBytes = DISK_BYTES[seed % 2] + replicaBytes;
    this.media = new SimMedia({ capacityBytes, volatileCache });
    formatMedia(this.media, this.spec.format);
  }

  run(): RandomCrashCounts {
    for (let round = 0; round < (this.options.rounds ?? 5); round++) {
      const store = this.open();
      const clients = this.clients(store);
      if (this.spec.hasReplica) this.enterReplica(store);
      this.load(store, clients);
      this.end(store, clients);
    }
    const last = this.open();
    this.clients(last);
    if (this.spec.hasReplica) this.enterReplica(last);
    this.session?.replica.close();
    last.closeVolumes();
    checkBooks(last);
    this.counts.checkedSectors += this.replica.content.checkedSectors;
    for (const model of this.models) this.counts.checkedSectors += model.checkedSectors;
    return this.counts;
  }

  private open(): SimStore {
    this.openCount += 1;
    this.memory.reset();
    const { media, memory, spec } = this;
    const store = new SimStore({
      media,
      memory,
      seed: this.seed * 97 + this.openCount,
      store: spec.store,
      disk: { exclusive: this.options.exclusive ?? true },
    });
    store.disk.faults.add({ kind: "slow", on: "read", chance: 0.08, delayUs: 3000 });
    store.disk.faults.add({ kind: "slow", on: "write", chance: 0.04, delayUs: 1500 });
    const error = store.open();
    if (error !== null) throw error;
    return store;
  }

  /** Reads every volume, and returns a client for each. */
  private clients(store: SimStore): CheckedClient[] {
    const there = new Set(store.store.listVolumes().map(({ uuid }) => uuid));
    return GUEST_UUIDS.map((uuid, index) => {
      if (!there.has(uuid)) {
        if (this.openCount > 1) throw new Error(`volume ${index} is gone`);
        store.createVolume(SIZE_BYTES, uuid);
      }
      store.openVolume(uuid);
      readAll(store, this.models[index], SIZE_BYTES);
      checkQuiet(store);
      return store.client(this.models[index], this.prng.chance(0.5));
    });
  }

  /** Looks at the replica as a new owner does, and lets one in. */
  private enterReplica(store: SimStore): void {
    const { replica: model, prng } = this;
    const isThere = store.store.listVolumes().some(({ uuid }) => uuid === REPLICA_UUID);
    if (model.isCreated && !isThere) throw new Error("the replica is gone");
    if (isThere) {
      const { content } = model;
      const checked = checkReplica(store, model, SIZE_BYTES, prng, (offset, data) =>
        content.endRead(content.startRead(offset, data.length), 0, data),
      );
      this.counts.uncertainSlabs += checked.uncertainSlabs.length;
      checked.replica.close();
      // The check's own fence was answered as well.
      model.epochAsked += 1;
      model.epochAnswered = model.epochAsked;
    } else {
      store.createVolume(SIZE_BYTES, REPLICA_UUID, true);
    }
    model.isCreated = true;
    this.session = new ReplicaSession(store, model, prng, SIZE_BYTES, () => undefined);
    this.session.enter(model.epochAsked + 1);
  }

  private stepReplica(session: ReplicaSession): void {
    if (this.prng.chance(0.04)) {
      this.session = session.handOver();
      this.counts.handOvers += 1;
    } else session.step();
  }

  private load(store: SimStore, clients: readonly CheckedClient[]): void {
    const { prng } = this;
    for (let request = 0; request < (this.options.requests ?? 250); request++) {
      step(clients[prng.below(clients.length)], prng, SIZE_BYTES);
      this.counts.requests += 1;
      if (this.session !== null && prng.chance(0.5)) this.stepReplica(this.session);
      // Where nobody has waited for them, a dead process's writes land at any moment.
      if (prng.chance(0.05)) this.media.landLateWrites();
      if (prng.chance(0.02)) store.scheduler.runFor(prng.between(60_000, 130_000));
      if (prng.chance(0.03)) this.passVolume(store, clients);
      const depth = prng.below(DEPTH_MAX);
      const isCalm = (): boolean =>
        clients.every((one) => one.inflightCount <= depth) &&
        (this.session?.inflightCount ?? 0) <= depth;
      store.scheduler.runUntil(isCalm, "requests");
    }
  }

  /** A volume is made, written and deleted again beside the others: a new one reads as zeroes. */
  private passVolume(store: SimStore, clients: readonly CheckedClient[]): void {
    const there = store.store.listVolumes().some(({ uuid }) => uuid === PASSING_UUID);
    if (there && this.prng.chance(0.6)) {
      const error = store.deleteVolume(PASSING_UUID);
      if (error !== null) throw error;
      this.passing = null;
      return;
    }
    if (!there) {
      try {
        store.createVolume(SIZE_BYTES, PASSING_UUID);
      } catch {
        // The last one is still being given back.
        return;
      }
      this.passing = new ModelVolume();
    }
    if (this.passing === null) return;
    const volume = store.openVolume(PASSING_UUID);
    readAll(store, this.passing, SIZE_BYTES);
    const client = store.client(this.passing);
    for (let count = 0; count < 6; count++) step(client, this.prng, SIZE_BYTES);
    store.scheduler.runUntil(() => client.inflightCount === 0, "the passing volume");
    volume.close();
    if (clients.length === 0) throw new Error("nobody is disturbed");
  }

  private end(store: SimStore, clients: readonly CheckedClient[]): void {
    const { prng, counts } = this;
    checkQuiet(store);
    const kind = prng.below(3);
    if (kind === 0) {
      counts.stops += 1;
      const isOver = (): boolean => (this.session?.inflightCount ?? 0) === 0;
      store.scheduler.runUntil(isOver, "the owner's last");
      this.session?.replica.close();
      this.session = null;
      store.scheduler.runUntil(() => clients.every((one) => one.inflightCount === 0), "the last");
      store.closeVolumes();
      store.close();
      return;
    }
    const isPower = kind === 1;
    if (isPower) counts.powerCuts += 1;
    else counts.deaths += 1;
    const chances = { garbageChance: prng.chance(0.3) ? 0.3 : 0 };
    store.disk.crash({ kind: isPower ? "power" : "process", chances, lateChance: 0.5 });
    counts.lateWrites += this.media.lateWritesPending;
    // Power gone, the kernel that had them is gone too.
    if (isPower) this.media.dropLateWrites();
    store.reactor.stop();
    for (const model of this.models) model.crashed();
    this.session = null;
    this.replica.crashed();
    this.passing = null;
  }
}
