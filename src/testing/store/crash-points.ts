// Crash-point enumeration of the store: a program is recorded, and for every crash point a bounded
// number of the states that a crash may leave is recovered, read whole and compared with the model;
// then the store is stopped and its books are checked on the medium. Some states go on: another
// program is recorded from there, and every crash of that one is checked likewise.
//
// One memory serves all states of a run, and media share their blocks: a state costs what it reads.

import { Prng } from "../../base/index.ts";
import { NO_BUGS, type PlantedBugs } from "../../chunk/planted.ts";
import {
  type CrashState,
  crashPoints,
  crashStates,
  ModelVolume,
  SimClient,
  SimMedia,
  SimMemory,
  type SimTrace,
} from "../sim/index.ts";
import { type CrashMark, type CrashSpec, crashSpec, openOn, record } from "./crash-program.ts";
import { checkReplica, fence, readImage, writeImage } from "./replica-check.ts";
import { ReplicaModel } from "./replica-model.ts";
import { isFailure, REPLICA_UUID } from "./replica-session.ts";
import { formatMedia, type SimStore, VOLUME_UUID } from "./sim-store.ts";
import { walkMedium } from "./walk-medium.ts";

const MEMORY_BYTES: number = 6 * 1048576;
const DISK_BYTES: number = 5 * 1048576;
/** For the replica's extent and its pages. */
const REPLICA_BYTES: number = 1572864;
const READ_BYTES = 65536;
/** One state in so many goes on with a program of its own. */
const SECOND_EVERY = 97;
const SECOND_STEPS = 6;
/** One uncertain state in so many is opened once more, and repaired. */
const KEPT_EVERY = 4;

export interface CrashCounts {
  programs: number;
  points: number;
  states: number;
  /** States of a crash after a crash. */
  secondStates: number;
  /** States with a replica in them. */
  replicaStates: number;
  /** Of these with slabs that a crash had taken a write from: opened once more. */
  uncertainStates: number;
  uncertainWrites: number;
  checkedSectors: number;
}

export interface CrashRunOptions {
  readonly planted?: PlantedBugs;
  /** States tried at each crash point (default 10). */
  readonly statesPerPoint?: number;
  /** Stops after so many states of a seed (default: all). */
  readonly statesMax?: number;
  /** Stops between two states when it says so. */
  readonly isOver?: () => boolean;
}

/** A state that a crash may leave was not recovered as it must be. */
class CrashFound extends Error {
  override readonly name = "CrashFound";
}

export class CrashEnumeration {
  readonly counts: CrashCounts = {
    programs: 0,
    points: 0,
    states: 0,
    secondStates: 0,
    replicaStates: 0,
    uncertainStates: 0,
    uncertainWrites: 0,
    checkedSectors: 0,
  };
  private readonly memory: SimMemory = new SimMemory(MEMORY_BYTES);
  private readonly planted: PlantedBugs;
  private readonly statesPerPoint: number;
  private readonly isOver: () => boolean;

  constructor(options: CrashRunOptions = {}) {
    this.planted = options.planted ?? NO_BUGS;
    this.statesPerPoint = options.statesPerPoint ?? 10;
    const { isOver, statesMax = Number.POSITIVE_INFINITY } = options;
    this.isOver = () => this.counts.states >= statesMax || isOver?.() === true;
  }

  /** Everything about one seed. Throws CrashFound. */
  run(seed: number): void {
    const spec = crashSpec(seed, this.planted);
    const capacityBytes = DISK_BYTES + (spec.hasReplica ? REPLICA_BYTES : 0);
    const media = new SimMedia({ capacityBytes, volatileCache: spec.isVolatile });
    formatMedia(media, spec.format);
    const start = { model: new ModelVolume(), isCreated: false, replica: new ReplicaModel() };
    const where = `seed ${seed}`;
    const trace = this.named(`${where}, recording`, seed, () =>
      record(media, spec, start, this.memory, seed),
    );
    this.counts.programs += 1;
    this.enumerate(trace, spec, seed, where, true);
  }

  private enumerate(
    trace: SimTrace,
    spec: CrashSpec,
    seed: number,
    where: string,
    isFirst: boolean,
  ): void {
    for (const point of crashPoints(trace)) {
      this.counts.points += 1;
      const mark = trace.marks(point).at(-1) as CrashMark;
      const options = {
        subsetsMax: spec.hasReplica ? Math.ceil(this.statesPerPoint / 2) : this.statesPerPoint,
        tornVariants: 2,
        garbage: (seed + point) % 3 === 0,
        seed: seed + point,
      };
      let index = 0;
      for (const state of crashStates(trace, point, options)) {
        if (this.isOver()) return;
        const name = `${where}, point ${point} of ${trace.events.length}, state ${index}`;
        this.one(state, spec, mark, seed, name, isFirst);
        index += 1;
      }
    }
  }

  private one(
    state: CrashState,
    spec: CrashSpec,
    mark: CrashMark,
    seed: number,
    name: string,
    isFirst: boolean,
  ): void {
    const { counts } = this;
    counts.states += 1;
    if (!isFirst) counts.secondStates += 1;
    const goesOn = isFirst && counts.states % SECOND_EVERY === 0;
    const again = goesOn ? SimMedia.over(state.media.history.durable.fork(), state.media) : null;
    this.named(name, seed, () => this.check(state.media, spec, mark));
    if (again === null) return;
    const model = mark.model.fork();
    const replica = mark.replica.fork();
    model.crashed();
    replica.crashed();
    const start = { model, isCreated: mark.isCreated, replica };
    const second = { ...spec, stepCount: SECOND_STEPS };
    const trace = this.named(`${name}, then`, seed, () =>
      record(again, second, start, this.memory, seed + counts.states),
    );
    this.enumerate(trace, second, seed, `${name}, then`, false);
  }

  /** Runs it, and says where and how to get there again when it throws. */
  private named<T>(name: string, seed: number, run: () => T): T {
    try {
      return run();
    } catch (error) {
      const replay = `RINGSTORE_SEED=${seed} npm test -- store/crash-points`;
      const { message } = error as Error;
      throw new CrashFound(`${name}: ${message}\n  replay: ${replay}`, { cause: error });
    }
  }

  private check(media: SimMedia, spec: CrashSpec, mark: CrashMark): void {
    const { model, isCreated } = mark;
    const before = model.checkedSectors;
    const store = openOn(media, spec, this.memory, this.counts.states);
    const error = store.open();
    if (error !== null) throw error;
    const isThere = store.store.listVolumes().some(({ uuid }) => uuid === VOLUME_UUID);
    if (isCreated && !isThere) throw new Error("the volume is gone");
    if (isThere) readCrashed(store, model, spec.sizeBytes);
    const uncertain = spec.hasReplica ? this.checkReplica(store, spec, mark) : [];
    const { readRetries } = store.store.usage().counters;
    if (readRetries > 0) throw new Error("a read did not match at first");
    this.counts.uncertainWrites += store.store.usage().recovery?.uncertain.length ?? 0;
    checkBooks(store);
    if (uncertain.length > 0 && this.counts.states % KEPT_EVERY === 0) {
      this.checkKept(media, spec, mark, uncertain);
    }
    this.counts.checkedSectors += model.checkedSectors - before;
  }

  /** The replica as a new owner finds it. Returns its uncertain slabs. */
  private checkReplica(store: SimStore, spec: CrashSpec, mark: CrashMark): readonly number[] {
    const { replica: model } = mark;
    const isThere = store.store.listVolumes().some(({ uuid }) => uuid === REPLICA_UUID);
    if (model.isCreated && !isThere) throw new Error("the replica is gone");
    if (!isThere) return [];
    this.counts.replicaStates += 1;
    const before = model.content.checkedSectors;
    const prng = new Prng(this.counts.states);
    const compare = (offset: number, data: Uint8Array): void =>
      model.content.checkCrashed(offset, data);
    const { replica, uncertainSlabs } = checkReplica(store, model, spec.sizeBytes, prng, compare);
    replica.close();
    this.counts.checkedSectors += model.content.checkedSectors - before;
    return uncertainSlabs;
  }

  /** Uncertain slabs outlive another stop and start, until they are written whole. */
  private checkKept(
    media: SimMedia,
    spec: CrashSpec,
    mark: CrashMark,
    slabs: readonly number[],
  ): void {
    this.counts.uncertainStates += 1;
    const store = openOn(media, spec, this.memory, this.counts.states);
    const error = store.open();
    if (error !== null) throw error;
    const handler = { replicaCompleted: () => undefined };
    const replica = store.store.openReplica(REPLICA_UUID, { name: "kept", handler });
    const told = (epoch: number): string => {
      const answer = fence(store, replica, epoch);
      if (isFailure(answer)) throw new Error(answer.message);
      return answer.uncertain.map(({ slab }) => slab).join();
    };
    const epoch = mark.replica.epochAsked + 2;
    if (told(epoch) !== slabs.join()) throw new Error(`uncertain slabs ${slabs} were forgotten`);
    const [first, ...others] = slabs;
    const { image, data } = readImage(store, replica, first);
    const failure = writeImage(store, replica, first, image, data);
    if (failure !== null) throw new Error(`slab ${first} is not written: ${failure.message}`);
    if (told(epoch) !== others.join()) throw new Error(`slab ${first} is uncertain for ever`);
    const again = readImage(store, replica, first);
    const isSame = again.data.every((byte, index) => byte === data[index]);
    if (!isSame || again.image.states !== image.states || again.image.sequence !== image.sequence) {
      throw new Error(`slab ${first} is not what was written to it`);
    }
    replica.close();
    checkBooks(store);
  }
}

/** The same as readAll, of a model that serves other states too. */
function readCrashed(store: SimStore, model: ModelVolume, sizeBytes: number): void {
  const { reactor, memory, scheduler } = store;
  const client = new SimClient({ reactor, memory, device: store.openVolume() });
  for (let at = 0; at < sizeBytes; at += READ_BYTES) {
    client.read(at, READ_BYTES, ({ result, offsetBytes, data }) => {
      if (result !== 0) throw new Error(`a read ended with ${result}`);
      model.checkCrashed(offsetBytes, data);
    });
  }
  scheduler.runUntil(() => client.inflightCount === 0, "reads");
}

/** Reads everything, in some order, a few requests at a time. */
export function readAll(store: SimStore, model: ModelVolume, sizeBytes: number): void {
  const client = store.client(model);
  const first = new Prng(store.scheduler.seed).below(sizeBytes / READ_BYTES);
  for (let index = 0; index < sizeBytes / READ_BYTES; index++) {
    client.read(((first + index) * READ_BYTES) % sizeBytes, READ_BYTES);
    store.scheduler.runUntil(() => client.inflightCount < 4, "reads");
  }
  store.scheduler.runUntil(() => client.inflightCount === 0, "the last reads");
}

/** Stops the store cleanly: nothing was called bad, and every slab is accounted for. */
export function checkBooks(store: SimStore): void {
  checkQuiet(store);
  store.close();
  const books = walkMedium(store.media);
  const { usedBytes, freeBytes, totalBytes } = store.store.usage();
  if (usedBytes !== books.usedSlabs * 65536) {
    throw new Error(`${usedBytes} bytes are said to be in use, ${books.usedSlabs} slabs are`);
  }
  const { ringUsedBytes } = store.store.usage();
  if (ringUsedBytes !== 0) throw new Error(`${ringUsedBytes} bytes of the ring belong to nothing`);
  if (usedBytes + freeBytes !== totalBytes) {
    throw new Error(`${totalBytes - usedBytes - freeBytes} bytes are neither used nor free`);
  }
}

/** Nothing was called bad. */
export function checkQuiet(store: SimStore): void {
  const { badBlockCount, damagedPageCount } = store.store.usage();
  if (badBlockCount > 0) throw new Error(`false alarm: ${badBlockCount} bad blocks`);
  if (damagedPageCount > 0) throw new Error(`false alarm: ${damagedPageCount} damaged pages`);
}
