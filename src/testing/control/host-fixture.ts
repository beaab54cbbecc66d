// A VolumeHost over a temporary directory, the fake data plane and a file system that can be
// stopped like a killed process: for tests of operations, crashes and recovery without a process.

import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ClassicKeeper } from "../../daemon/classic-keeper.ts";
import {
  type DataDirectory,
  layOutDataDirectory,
  makeDataDirectory,
} from "../../daemon/data-directory.ts";
import { DiskHost } from "../../daemon/disk-host.ts";
import { openDeclared } from "../../daemon/disk-opening.ts";
import { EventLog } from "../../daemon/event-log.ts";
import { nodeStateFs, type StateFs } from "../../daemon/state-fs.ts";
import { DISK_STATE, StateStore, VOLUME_STATE } from "../../daemon/state-store.ts";
import { VolumeHost } from "../../daemon/volume-host.ts";
import {
  diskBecameReady,
  finishStart,
  placeDeclared,
  serveDeclared,
} from "../../daemon/volume-recovery.ts";
import type { DeclaredVolume } from "../../model/declared.ts";
import type { LogFields } from "../../ports/log.ts";
import { FakeDataPlane } from "./fake-data-plane.ts";
import { FakeDiskTools } from "./fake-disk-file.ts";

export function temporaryDirectory(): string {
  return mkdtempSync(join(tmpdir(), "ringstore-"));
}

/** Never settles: what a killed process would have done next. */
export function never<T>(): Promise<T> {
  return new Promise(() => undefined);
}

/** Counts the steps that leave a mark outside the process, and stops the world before one. */
class Steps {
  /** Names of the steps taken so far. */
  readonly taken: string[] = [];
  /** The step with this number never happens, nor does anything after it. */
  stopBefore: number = Number.POSITIVE_INFINITY;
  stopped: () => void = () => undefined;

  async take(name: string): Promise<void> {
    if (this.taken.length >= this.stopBefore) {
      this.stopped();
      await never();
    }
    this.taken.push(name);
  }
}

/** Every change is a step. */
class SteppedFs implements StateFs {
  readonly #steps: Steps;

  constructor(steps: Steps) {
    this.#steps = steps;
  }

  list(directory: string): readonly string[] {
    return nodeStateFs.list(directory);
  }

  read(path: string): string {
    return nodeStateFs.read(path);
  }

  async writeDurably(path: string, text: string): Promise<void> {
    // A crash in the middle of writing leaves a part.
    await this.#steps.take("begin write");
    await nodeStateFs.writeDurably(path, text.slice(0, text.length / 2));
    await this.#steps.take("end write");
    await nodeStateFs.writeDurably(path, text);
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#steps.take("rename");
    await nodeStateFs.rename(from, to);
  }

  async remove(path: string): Promise<void> {
    await this.#steps.take("remove");
    await nodeStateFs.remove(path);
  }

  async syncDirectory(path: string): Promise<void> {
    await this.#steps.take("sync directory");
    await nodeStateFs.syncDirectory(path);
  }
}

export interface LogLine {
  readonly level: string;
  readonly event: string;
  readonly fields: LogFields;
}

export class HostFixture {
  readonly root: string;
  readonly paths: DataDirectory;
  readonly steps: Steps = new Steps();
  readonly dataPlane: FakeDataPlane;
  readonly host: VolumeHost;
  readonly log: LogLine[] = [];
  readonly defects: unknown[] = [];
  readonly store: StateStore<DeclaredVolume>;
  readonly diskTools: FakeDiskTools = new FakeDiskTools();
  readonly disks: DiskHost;
  #uuidCount = 0;

  /** `root`: of an earlier fixture, to start again over what it left. */
  constructor(
    root: string = temporaryDirectory(),
    allowPaths: readonly string[] = [],
    parts: { readonly dataPlane?: FakeDataPlane; readonly uuid?: () => string } = {},
  ) {
    this.root = root;
    this.dataPlane = parts.dataPlane ?? new FakeDataPlane();
    this.paths = layOutDataDirectory(join(root, "data"), "");
    makeDataDirectory(this.paths, -1);
    const fs = new SteppedFs(this.steps);
    this.store = new StateStore(this.paths.stateDirectory, fs, VOLUME_STATE);
    const diskStore = new StateStore(this.paths.diskDirectory, fs, DISK_STATE);
    const now = (): Date => new Date("2026-01-02T03:04:05.678Z");
    this.dataPlane.intercept = async (method, name) => {
      if (method !== "stop") await this.steps.take(`${method} ${name}`);
    };
    this.diskTools.intercept = async (step) => await this.steps.take(step);
    const shared = {
      dataPlane: this.dataPlane,
      events: new EventLog(now),
      log: {
        log: (level: string, event: string, fields: LogFields = {}) =>
          void this.log.push({ level, event, fields }),
      },
      now,
      uuid: parts.uuid ?? (() => this.#uuid()),
      fatal: (error: unknown) => void this.defects.push(error),
    };
    this.disks = new DiskHost({ ...shared, store: diskStore, tools: this.diskTools });
    this.host = new VolumeHost(
      { paths: this.paths, socketGroupId: -1, allowPaths },
      {
        ...shared,
        store: this.store,
        disks: this.disks,
        classic: new ClassicKeeper(this.paths.iscsiDirectory, fs),
      },
    );
    this.disks.becameReady = (diskId) => {
      void diskBecameReady(this.host, diskId).catch(shared.fatal);
    };
  }

  #uuid(): string {
    this.#uuidCount += 1;
    const tail = String(this.#uuidCount).padStart(12, "0");
    // Another incarnation makes other ids.
    return `${process.pid.toString(16).padStart(8, "0")}-0000-4000-8000-${tail}`;
  }

  /** What the daemon does at its start. */
  async recover(): Promise<void> {
    const state = this.store.load();
    placeDeclared(this.host, state);
    openDeclared(this.disks, this.disks.modules.store.load());
    await serveDeclared(this.host, state);
    await finishStart(this.host, state);
    await this.settleDisks();
  }

  /** Until no disk is being opened, formatted or checked, and what follows from it is done. */
  async settleDisks(): Promise<void> {
    const entries = [...this.disks.entries.values()];
    for (const entry of entries) await entry.opening;
    const isBusy = (): boolean =>
      entries.some((entry) => entry.busy) ||
      [...this.host.entries.values()].some((entry) => entry.busy);
    while (isBusy()) await new Promise((resolve) => setTimeout(resolve, 1));
  }

  /** What is left when the process is killed: files and stale sockets, nothing held. */
  kill(): void {
    this.host.stopping = true;
    for (const entry of this.host.entries.values()) entry.cancelRetry();
    this.disks.stop();
    this.dataPlane.dropEverything();
  }

  dataFiles(): readonly string[] {
    return readdirSync(this.paths.volumeDirectory);
  }

  stateFiles(): readonly string[] {
    return readdirSync(this.paths.stateDirectory).filter((name) => !name.startsWith("."));
  }

  remove(): void {
    this.kill();
    rmSync(this.root, { recursive: true, force: true });
  }
}
