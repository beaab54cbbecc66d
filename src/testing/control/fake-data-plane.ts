// A DataPlane without data: it keeps the contract of ports/data-plane.ts over real (sparse) files
// and real listening sockets, refuses what the contract forbids, and fails on demand. The control
// plane's tests run over it.

import { existsSync, statSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { chmod } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { RingstoreError } from "../../base/error.ts";
import type {
  ClassicSpec,
  ElsewhereTarget,
  PortalStats,
  TargetPath,
} from "../../ports/classic-plane.ts";
import type {
  AttachmentSpec,
  DataPlane,
  LatencySummary,
  OpenOptions,
  ReactorStats,
  VolumeSpec,
  VolumeStats,
} from "../../ports/data-plane.ts";
import type { ReservationRecord } from "../../ports/reservation-record.ts";
import type { HeldUnitSpec, PlacementGroup, ScsiSpec } from "../../ports/scsi-plane.ts";
import type { StoreDiskFacts, StoreDiskSpec, StoreDiskStats } from "../../ports/store-disk.ts";
import {
  type FakeDiskFile,
  factsOfDiskFile,
  readDiskFile,
  writeDiskFile,
} from "./fake-disk-file.ts";

export type FakeMethod =
  | "openVolume"
  | "closeVolume"
  | "deleteBacking"
  | "resizeVolume"
  | "attach"
  | "attachClassic"
  | "attachScsi"
  | "openController"
  | "holdUnit"
  | "dropUnit"
  | "detach"
  | "openDisk"
  | "closeDisk"
  | "stop";

interface OpenVolume {
  spec: VolumeSpec;
  sizeBytes: number;
  attachment: AttachmentSpec | ClassicSpec | ScsiSpec | null;
  server: Server | null;
}

const LATENCY: LatencySummary = {
  count: 4,
  sum: 100,
  buckets: [
    [10, 1],
    [100, 4],
  ],
  p50: 20,
  p99: 50,
  p999: 60,
};

export class FakeDataPlane implements DataPlane {
  /** Every call, as `method volume-name`. */
  readonly calls: string[] = [];
  readonly open: Map<string, OpenVolume> = new Map();
  /** Volume ids whose front-end has started rings. */
  readonly connected: Set<string> = new Set();
  /** Open disks of the store by id. */
  readonly disks: Map<string, StoreDiskSpec> = new Map();
  readonly extraDiskStats: Map<string, Partial<StoreDiskStats>> = new Map();
  readonly extraStats: Map<string, Partial<VolumeStats>> = new Map();
  portals: readonly PortalStats[] = [];
  /** Where the portal of this node listens. */
  portalAddress = "127.0.0.1:3260";
  elsewhere: readonly ElsewhereTarget[] = [];
  /** Portals of other nodes that initiators of a target were told of, by the volume's id. */
  readonly paths: Map<string, readonly TargetPath[]> = new Map();
  /** What targets in standby, or about to be served, were told of reservations. */
  readonly toldReservations: Map<string, ReservationRecord> = new Map();
  groups: readonly PlacementGroup[] = [];
  /** Controllers to which front-ends may connect. */
  readonly controllers: Set<string> = new Set();
  /** Places of units that are still to come, by volume. */
  readonly held: Map<string, HeldUnitSpec> = new Map();
  /** Controllers that are on another reactor than the cluster. */
  readonly farControllers: Set<string> = new Set();
  stopped = false;
  /** Consulted before each call: throw to fail it, return a promise to delay it. */
  intercept: (method: FakeMethod, name: string) => void | Promise<void> = () => undefined;

  async #enter(method: FakeMethod, name: string): Promise<void> {
    this.calls.push(`${method} ${name}`);
    if (this.stopped) throw new Error(`${method} after stop`);
    await this.intercept(method, name);
  }

  #find(volumeId: string): OpenVolume {
    const volume = this.open.get(volumeId);
    if (volume === undefined) throw new Error(`volume ${volumeId} is not open`);
    return volume;
  }

  async openVolume(spec: VolumeSpec, options: OpenOptions): Promise<void> {
    await this.#enter("openVolume", spec.name);
    if (this.open.has(spec.id)) throw new Error(`volume ${spec.id} is open already`);
    if (spec.backing.kind === "file") openFile(spec.backing.path, spec.sizeBytes, options.create);
    else if (spec.backing.kind === "store") this.#openInStore(spec, spec.backing, options.create);
    else if (spec.backing.kind === "cluster") await this.openOwner(spec);
    else if (!options.create) throw new Error(`${spec.backing.kind} must be opened with create`);
    const { sizeBytes } = spec;
    this.open.set(spec.id, { spec, sizeBytes, attachment: null, server: null });
  }

  /** Of a plane that takes part in a cluster. */
  protected async openOwner(spec: VolumeSpec): Promise<void> {
    throw new Error(`volume ${spec.name}: this plane is in no cluster`);
  }

  #openInStore(spec: VolumeSpec, backing: { readonly diskId: string }, create: boolean): void {
    this.#changeDisk(backing.diskId, (disk) => {
      const present = disk.volumes[spec.id];
      if (create) disk.volumes[spec.id] = spec.sizeBytes;
      else if (present === undefined) throw new RingstoreError("VOLUME_UNKNOWN", "no such volume");
      else if (present < spec.sizeBytes) throw new Error("the store has a smaller volume");
    });
  }

  #changeDisk(diskId: string, change: (disk: FakeDiskFile) => void): void {
    const spec = this.disks.get(diskId);
    if (spec === undefined) throw new Error(`disk ${diskId} is not open`);
    const disk = readDiskFile(spec.path) as FakeDiskFile;
    change(disk);
    writeDiskFile(spec.path, disk);
  }

  async openDisk(spec: StoreDiskSpec): Promise<StoreDiskFacts> {
    await this.#enter("openDisk", spec.name);
    if (this.disks.has(spec.id)) throw new Error(`disk ${spec.id} is open already`);
    const disk = readDiskFile(spec.path);
    const stale = (what: string): RingstoreError =>
      new RingstoreError("DISK_STALE", `${spec.path} ${what}`);
    if (disk === null) throw stale("is blank");
    if (disk.store !== spec.id) throw stale("is another disk");
    if (disk.incarnation < spec.incarnationSeen) throw stale("was rolled back");
    disk.incarnation += 1;
    disk.clean = false;
    writeDiskFile(spec.path, disk);
    this.disks.set(spec.id, spec);
    return factsOfDiskFile(disk);
  }

  async closeDisk(diskId: string): Promise<void> {
    const spec = this.disks.get(diskId);
    if (spec === undefined) throw new Error(`disk ${diskId} is not open`);
    await this.#enter("closeDisk", spec.name);
    for (const { spec: volume } of this.open.values()) {
      const { backing } = volume;
      if (backing.kind === "store" && backing.diskId === diskId)
        throw new Error("volumes are open");
    }
    this.#changeDisk(diskId, (disk) => {
      disk.clean = true;
    });
    this.disks.delete(diskId);
  }

  diskStats(): readonly StoreDiskStats[] {
    return [...this.disks.values()].map(({ id, path }) => {
      const disk = readDiskFile(path) as FakeDiskFile;
      const usedBytes = Object.keys(disk.volumes).length * 4096;
      const totalBytes = disk.diskBytes / 2;
      return {
        diskId: id,
        phase: "ready",
        progress: { step: "", doneBytes: 0, totalBytes: 0 },
        usage: {
          totalBytes,
          usedBytes,
          freeBytes: totalBytes - usedBytes,
          quarantinedBytes: 0,
          badBlockCount: 0,
          scrubPositionBytes: 0,
          ringBytes: 4096,
          ringUsedBytes: 1024,
          uncertainCount: 0,
        },
        counters: { groups: 3 },
        health: [],
        ...this.extraDiskStats.get(id),
      };
    });
  }

  async closeVolume(volumeId: string): Promise<void> {
    const volume = this.#find(volumeId);
    await this.#enter("closeVolume", volume.spec.name);
    if (volume.attachment !== null) throw new Error(`volume ${volumeId} is attached`);
    this.open.delete(volumeId);
  }

  async deleteBacking(spec: VolumeSpec): Promise<void> {
    await this.#enter("deleteBacking", spec.name);
    if (this.open.has(spec.id)) throw new Error(`volume ${spec.id} is open`);
    if (spec.backing.kind === "file" && existsSync(spec.backing.path)) {
      unlinkSync(spec.backing.path);
    }
    if (spec.backing.kind === "store") {
      this.#changeDisk(spec.backing.diskId, (disk) => void delete disk.volumes[spec.id]);
    }
  }

  async resizeVolume(volumeId: string, sizeBytes: number): Promise<void> {
    const volume = this.#find(volumeId);
    await this.#enter("resizeVolume", volume.spec.name);
    const { backing, id } = volume.spec;
    if (backing.kind === "file") truncateSync(backing.path, sizeBytes);
    if (backing.kind === "store") {
      this.#changeDisk(backing.diskId, (disk) => {
        disk.volumes[id] = sizeBytes;
      });
    }
    volume.sizeBytes = sizeBytes;
  }

  async attach(spec: AttachmentSpec): Promise<void> {
    const volume = this.#find(spec.volumeId);
    await this.#enter("attach", volume.spec.name);
    if (volume.attachment !== null) throw new Error(`volume ${spec.volumeId} is attached`);
    // Left over by a killed predecessor.
    if (existsSync(spec.socketPath)) unlinkSync(spec.socketPath);
    const server = createServer((socket) => socket.on("error", () => undefined));
    await new Promise<void>((resolve, reject) => {
      server.on("error", reject);
      server.listen(spec.socketPath, resolve);
    });
    await chmod(spec.socketPath, spec.socketMode);
    volume.attachment = spec;
    volume.server = server;
  }

  async attachClassic(spec: ClassicSpec): Promise<string> {
    const volume = this.#find(spec.volumeId);
    await this.#enter("attachClassic", volume.spec.name);
    if (volume.attachment !== null) throw new Error(`volume ${spec.volumeId} is attached`);
    volume.attachment = spec;
    this.paths.delete(spec.volumeId);
    this.toldReservations.delete(spec.volumeId);
    return this.portalAddress;
  }

  async openPortal(): Promise<string> {
    return this.portalAddress;
  }

  async leadElsewhere(targets: readonly ElsewhereTarget[]): Promise<void> {
    this.elsewhere = targets;
  }

  async setPaths(volumeId: string, others: readonly TargetPath[]): Promise<void> {
    this.paths.set(volumeId, others);
  }

  async setReservations(volumeId: string, record: ReservationRecord): Promise<void> {
    this.toldReservations.set(volumeId, record);
  }

  placeTogether(groups: readonly PlacementGroup[]): void {
    this.groups = groups;
  }

  async attachScsi(spec: ScsiSpec): Promise<void> {
    const volume = this.#find(spec.volumeId);
    await this.#enter("attachScsi", volume.spec.name);
    if (volume.attachment !== null) throw new Error(`volume ${spec.volumeId} is attached`);
    const { controller, lun } = spec;
    const isOther = (unit: ScsiSpec | HeldUnitSpec): boolean =>
      unit.lun === lun && unit.volumeId !== spec.volumeId;
    if (this.#unitsOf(controller).some(isOther)) throw new Error(`LUN ${lun} is there twice`);
    this.held.delete(spec.volumeId);
    volume.attachment = spec;
    if (spec.listens) this.controllers.add(controller);
  }

  #unitsOf(controller: string): readonly (ScsiSpec | HeldUnitSpec)[] {
    const units = [...this.open.values()].flatMap(({ attachment }) =>
      attachment !== null && "controller" in attachment ? [attachment] : [],
    );
    return [...units, ...this.held.values()].filter((unit) => unit.controller === controller);
  }

  async holdUnit(spec: HeldUnitSpec): Promise<void> {
    await this.#enter("holdUnit", spec.name);
    const attachment = this.open.get(spec.volumeId)?.attachment ?? null;
    if (attachment === null) this.held.set(spec.volumeId, spec);
  }

  async dropUnit(volumeId: string): Promise<void> {
    const spec = this.held.get(volumeId);
    if (spec === undefined) return;
    await this.#enter("dropUnit", spec.name);
    this.held.delete(volumeId);
    this.#closeControllers();
  }

  requireNearCluster(controller: string): void {
    if (!this.farControllers.has(controller)) return;
    throw new RingstoreError("CONTROLLER_ELSEWHERE", `controller ${controller} is on reactor 1`);
  }

  #closeControllers(): void {
    for (const name of this.controllers) {
      if (this.#unitsOf(name).length === 0) this.controllers.delete(name);
    }
  }

  async openController(controller: string): Promise<void> {
    await this.#enter("openController", controller);
    if (this.#unitsOf(controller).length > 0) this.controllers.add(controller);
  }

  portalStats(): readonly PortalStats[] {
    return this.portals;
  }

  async detach(volumeId: string): Promise<void> {
    const volume = this.#find(volumeId);
    await this.#enter("detach", volume.spec.name);
    volume.server?.close();
    volume.server = null;
    volume.attachment = null;
    this.#closeControllers();
    this.connected.delete(volumeId);
  }

  volumeStats(): readonly VolumeStats[] {
    const attached = [...this.open.values()].filter((volume) => volume.attachment !== null);
    return attached.map(({ spec }) => ({
      volumeId: spec.id,
      readCount: 8,
      readBytes: 32_768,
      writeCount: 2,
      writeBytes: 8192,
      flushCount: 1,
      discardCount: 0,
      errorCount: 0,
      commandCount: 0,
      inflightCount: 0,
      readLatencyUs: LATENCY,
      writeLatencyUs: LATENCY,
      sessionCount: this.connected.has(spec.id) ? 1 : 0,
      connected: this.connected.has(spec.id),
      ringErrorCount: 0,
      lateKickCount: 0,
      lateInterruptCount: 0,
      health: [],
      ...this.extraStats.get(spec.id),
    }));
  }

  reactorStats(): readonly ReactorStats[] {
    return [
      {
        index: 0,
        volumeCount: this.open.size,
        loopCount: 10,
        sleepCount: 3,
        enterCount: 7,
        busyUs: 1_500_000,
        pollUs: 500_000,
      },
    ];
  }

  async responds(): Promise<boolean> {
    return !this.stopped;
  }

  async stop(): Promise<readonly string[]> {
    await this.#enter("stop", "");
    for (const volume of this.open.values()) volume.server?.close();
    this.open.clear();
    const diskIds = [...this.disks.keys()];
    for (const diskId of diskIds) await this.closeDisk(diskId);
    this.stopped = true;
    this.dropEverything();
    return diskIds;
  }

  /** What the kernel does when the process is killed. */
  dropEverything(): void {
    for (const volume of this.open.values()) volume.server?.close();
    this.open.clear();
    this.held.clear();
    this.disks.clear();
  }
}

function openFile(path: string, sizeBytes: number, create: boolean): void {
  if (create) writeFileSync(path, "", { flag: "wx" });
  if (!existsSync(path)) {
    throw new RingstoreError("BACKING_NOT_FOUND", `${path} does not exist`);
  }
  if (create) truncateSync(path, sizeBytes);
  if (statSync(path).size < sizeBytes) {
    throw new RingstoreError("BACKING_TOO_SMALL", `${path} is smaller than ${sizeBytes} bytes`);
  }
}
