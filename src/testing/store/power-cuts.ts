// Power cuts of a store on a real file, one after the other: load, a cut at any submit or completion,
// what was not durable dropped or torn, the offline checker, a new store on the same file, everything
// read back. The seed decides what is asked and what the cut does; how far each request had come is
// the machine's choice, so a failure names its seed but may take a few tries to come again.

import { closeSync, openSync, truncateSync } from "node:fs";
import { MIB, Prng } from "../../base/index.ts";
import { checkDisk, type FormatOptions, type StoreOptions } from "../../chunk/index.ts";
import { NO_BUGS, type PlantedBugs } from "../../chunk/planted.ts";
import * as sys from "../../sys/index.ts";
import { ModelVolume } from "../sim/index.ts";
import { CutRig, fileIo, formatFile, LifeMemory, openFile } from "./cut-rig.ts";
import { step } from "./program.ts";
import { SMALL_FORMAT, SMALL_OPTIONS } from "./sim-store.ts";

export interface PowerCutOptions {
  /** Made, or written over. */
  readonly path: string;
  readonly seed: number;
  readonly roundCount: number;
  readonly planted?: PlantedBugs;
  /** Stops between two rounds when it says so. */
  readonly isOver?: () => boolean;
}

export interface PowerCutCounts {
  cuts: number;
  /** Of those, while the store was recovering from the one before. */
  cutsAtStart: number;
  pendingWrites: number;
  changedBlocks: number;
  checkedSectors: number;
}

/** What was acknowledged is gone, or what was never written is there. */
export class CutFound extends Error {
  override readonly name = "CutFound";
}

const DISK_BYTES: number = 8 * MIB;
const VOLUME_BYTES: number = 2 * MIB;
const STEPS_MAX = 400;
const EVENTS_MAX = 900;
const DEPTH_MAX = 24;
/** Longer than the store waits before it marks what is in place. */
const PAUSE_MS = 60;

export class PowerCuts {
  readonly counts: PowerCutCounts = {
    cuts: 0,
    cutsAtStart: 0,
    pendingWrites: 0,
    changedBlocks: 0,
    checkedSectors: 0,
  };
  private readonly options: PowerCutOptions;
  private readonly store: StoreOptions;
  private readonly prng: Prng;
  private readonly model: ModelVolume = new ModelVolume();

  constructor(options: PowerCutOptions) {
    this.options = options;
    this.prng = new Prng(options.seed);
    this.store = { ...SMALL_OPTIONS, planted: options.planted ?? NO_BUGS };
  }

  /** Throws CutFound. */
  run(): PowerCutCounts {
    const { path, roundCount, isOver, seed } = this.options;
    closeSync(openSync(path, "w"));
    truncateSync(path, DISK_BYTES);
    const format: FormatOptions = { ...SMALL_FORMAT, durability: "volatile" };
    formatFile(path, DISK_BYTES, format);
    this.life((rig) => {
      rig.createVolume(VOLUME_BYTES);
      rig.close();
    });
    for (let round = 0; round < roundCount && isOver?.() !== true; round++) {
      try {
        this.round();
      } catch (cause) {
        throw new CutFound(`seed ${seed}, round ${round}: ${(cause as Error).message}`, { cause });
      }
    }
    this.life((rig) => {
      rig.openVolume();
      rig.verify(VOLUME_BYTES);
      rig.close();
    });
    this.checkOffline();
    this.counts.checkedSectors = this.model.checkedSectors;
    return this.counts;
  }

  /** A life of the store that ends well. */
  private life(body: (rig: CutRig) => void): void {
    const rig = this.rig();
    try {
      rig.open();
      body(rig);
    } finally {
      rig.end();
    }
  }

  private rig(): CutRig {
    const { path } = this.options;
    return new CutRig({ path, sizeBytes: DISK_BYTES, store: this.store, model: this.model });
  }

  private round(): void {
    const { prng, counts } = this;
    const rig = this.rig();
    try {
      // Some cuts come while the store still recovers from the one before.
      const early = prng.chance(0.2);
      if (early) rig.disk.eventsLeft = prng.between(1, 60);
      if (rig.open()) this.work(rig);
      else counts.cutsAtStart += 1;
      const cut = rig.cut(prng);
      counts.cuts += 1;
      counts.pendingWrites += cut.pending;
      counts.changedBlocks += cut.changedBlocks;
      this.model.crashed();
    } finally {
      rig.end();
    }
    this.checkOffline();
  }

  /** Everything as it was, then more of it, until the power goes. */
  private work(rig: CutRig): void {
    const { prng } = this;
    rig.openVolume();
    rig.verify(VOLUME_BYTES);
    rig.disk.eventsLeft = Math.min(rig.disk.eventsLeft, prng.between(1, EVENTS_MAX));
    for (let index = 0; index < STEPS_MAX && !rig.disk.isCut; index++) {
      if (prng.chance(0.005)) rig.pause(PAUSE_MS);
      step(rig, prng, VOLUME_BYTES);
      const depth = prng.below(DEPTH_MAX);
      rig.runUntil(() => rig.inflightCount <= depth);
    }
  }

  private checkOffline(): void {
    const memory = new LifeMemory();
    const fd = openFile(this.options.path);
    const errors: string[] = [];
    checkDisk(fileIo(fd, DISK_BYTES), memory, {
      finding: ({ severity, where, message }) => {
        if (severity === "error") errors.push(`${where}: ${message}`);
      },
      progress: () => undefined,
    });
    sys.close(fd);
    memory.freeAll();
    if (errors.length > 0) throw new CutFound(`the checker found: ${errors.join("; ")}`);
  }
}
