// A target process: one reactor serving vhost-user devices, without a control plane, told what to
// do over a socket pair by the test that started it (target.ts). Ends when the test does.
//
// Invariants: the reactor's thread is the main thread and never returns to Node's event loop, as
// in the daemon; nothing here blocks on the test, which may be busy being a guest.

import { readdirSync, readFileSync } from "node:fs";
import { alignDown, EAGAIN } from "../base/index.ts";
import { Workspace } from "../local/index.ts";
import { PIECE_BYTES } from "../local/memory-device.ts";
import type { Arena, Log, LogFields, LogLevel, ReadinessHandler } from "../ports/index.ts";
import { Reactor } from "../reactor/index.ts";
import { LogicalUnit, Reservations, ScsiEngine, VolatileReservationStore } from "../scsi/index.ts";
import * as sys from "../sys/index.ts";
import { cPrctl } from "../sys/libc.ts";
import { VolumeMeter } from "../telemetry/index.ts";
import {
  BlkModel,
  ScsiModel,
  type VhostDeviceOptions,
  VhostUserDevice,
} from "../vhost-user/index.ts";
import type { MemoryTable } from "../vhost-user/memory-table.ts";
import { HeldDevice, LeakingTable, type OpenBacking, openBacking } from "./target-devices.ts";
import {
  CONTROL_FD,
  type TargetCounts,
  type TargetDeviceCounts,
  type TargetDeviceOptions,
  type TargetMessage,
  type TargetRequest,
} from "./target-protocol.ts";

const SCSI_TASKS = 512;
const PR_SET_PDEATHSIG = 1;
const DEFAULT_SIZE_BYTES = 64 * 1024 * 1024;
const UNSENT_MAX = 20_000;
const BUFFER_BYTES = 65536;
/** A full socket is tried again this often. */
const RETRY_MS = 5;

/** Memory that knows how many pieces of it are in use, apart from what volumes hold. */
class CountedMemory extends sys.SystemMemory {
  arenaCount = 0;

  override allocate(bytes: number): Arena {
    if (bytes < PIECE_BYTES) this.arenaCount += 1;
    return super.allocate(bytes);
  }

  override free(arena: Arena): void {
    if (arena.bytes < PIECE_BYTES) this.arenaCount -= 1;
    super.free(arena);
  }
}

/** The control channel: lines in, lines out, never blocking. */
class Control implements ReadinessHandler, Log {
  private readonly arena: Arena;
  private readonly unsent: Buffer[] = [];
  private readonly received: { fds: number[]; truncated: boolean } = { fds: [], truncated: false };
  private text = "";
  private reactor: Reactor | null = null;
  private retrying = false;
  private readonly onRequest: (id: number, request: TargetRequest) => void;

  constructor(memory: sys.SystemMemory, onRequest: (id: number, request: TargetRequest) => void) {
    this.arena = memory.allocate(BUFFER_BYTES);
    this.onRequest = onRequest;
  }

  attach(reactor: Reactor): void {
    this.reactor = reactor;
    reactor.watch(CONTROL_FD, sys.POLLIN, this, 0);
  }

  log(level: LogLevel, event: string, fields: LogFields = {}): void {
    if (this.unsent.length < UNSENT_MAX) this.send({ log: { level, event, fields } });
  }

  send(message: TargetMessage): void {
    this.unsent.push(Buffer.from(`${JSON.stringify(message)}\n`));
    this.flush();
  }

  private flush(): void {
    while (this.unsent.length > 0) {
      const next = this.unsent[0] as Buffer;
      const piece = next.subarray(0, BUFFER_BYTES / 2);
      this.arena.u8.set(piece, BUFFER_BYTES / 2);
      const at = this.arena.address + BUFFER_BYTES / 2;
      const result = sys.send(CONTROL_FD, at, piece.length, []);
      if (result === -EAGAIN) {
        this.retryLater();
        return;
      }
      if (result < 0) process.exit(0);
      if (result === next.length) this.unsent.shift();
      else this.unsent[0] = next.subarray(result);
    }
  }

  private retryLater(): void {
    if (this.retrying || this.reactor === null) return;
    this.retrying = true;
    this.reactor.setTimer(RETRY_MS, this, 0);
  }

  timerFired(): void {
    this.retrying = false;
    this.flush();
  }

  ready(_tag: number, events: number): void {
    if (events < 0) process.exit(1);
    for (;;) {
      const result = sys.receive(CONTROL_FD, this.arena.address, BUFFER_BYTES / 2, this.received);
      if (result === -EAGAIN) return;
      // The test has gone.
      if (result <= 0) process.exit(0);
      this.take(Buffer.from(this.arena.u8.subarray(0, result)).toString("latin1"));
    }
  }

  private take(text: string): void {
    const lines = (this.text + text).split("\n");
    this.text = lines.pop() as string;
    for (const line of lines) {
      const { id, ...request } = JSON.parse(line) as TargetRequest & { id: number };
      this.onRequest(id, request as TargetRequest);
    }
  }
}

class TargetVhostDevice extends VhostUserDevice {
  leaksRegion = false;

  override newMemoryTable(): MemoryTable {
    if (!this.leaksRegion) return super.newMemoryTable();
    return new LeakingTable(this.reactor.memory, this.reactor.memory.allocate(65536));
  }
}

interface Volume {
  readonly backing: OpenBacking;
  readonly held: HeldDevice;
  readonly meter: VolumeMeter;
  readonly device: TargetVhostDevice;
  readonly scsi: { readonly model: ScsiModel; readonly unit: LogicalUnit } | null;
}

class Target {
  private readonly memory = new CountedMemory();
  private readonly clock = new sys.SystemClock();
  private readonly control: Control;
  private readonly reactor: Reactor;
  private readonly workspace: Workspace;
  private readonly volumes = new Map<string, Volume>();
  private readonly engine: ScsiEngine;

  constructor(pollMaxUs: number) {
    this.control = new Control(this.memory, (id, request) => this.answer(id, request));
    this.reactor = new Reactor(
      { requestSlots: 1024, ringEntries: 256, watchesMax: 4096, timersMax: 1024, pollMaxUs },
      { memory: this.memory, clock: this.clock, log: this.control },
    );
    const { requests } = this.reactor;
    this.workspace = new Workspace({}, { requests, memory: this.memory });
    const { copier } = this.workspace;
    this.engine = new ScsiEngine({ requests, memory: this.memory, copier }, SCSI_TASKS);
  }

  run(): void {
    this.control.attach(this.reactor);
    this.reactor.run();
  }

  private answer(id: number, request: TargetRequest): void {
    try {
      if (request.op === "remove") {
        this.remove(request.name, () => this.control.send({ id, result: null }));
        return;
      }
      this.control.send({ id, result: this.perform(request) });
    } catch (error) {
      this.control.send({ id, error: error instanceof Error ? error.message : String(error) });
    }
  }

  private perform(request: Exclude<TargetRequest, { op: "remove" }>): unknown {
    if (request.op === "add") return this.add(request.device, request.socketPath);
    if (request.op === "counts") return this.counts();
    const volume = this.volume(request.name);
    if (request.op === "hold") volume.held.setHeld(request.held);
    else if (request.op === "plug") this.plug(volume, request.lun, request.isThere);
    else {
      volume.backing.resize(request.sizeBytes);
      volume.device.capacityChanged();
      volume.scsi?.unit.capacityChanged();
    }
    return null;
  }

  private volume(name: string): Volume {
    const volume = this.volumes.get(name);
    if (volume === undefined) throw new Error(`the target has no device ${name}`);
    return volume;
  }

  private add(options: TargetDeviceOptions, socketPath: string): null {
    const { name } = options;
    const readOnly = options.readOnly ?? false;
    const { reactor, workspace, memory } = this;
    const backing = openBacking(
      options.backing ?? { kind: "memory" },
      {
        sizeBytes: options.sizeBytes ?? DEFAULT_SIZE_BYTES,
        blockBytes: options.blockBytes ?? 512,
        serial: options.serial ?? name,
        readOnly,
      },
      { reactor, workspace },
    );
    const bug = options.plantedBug ?? null;
    const held = new HeldDevice(backing.device, bug, { requests: reactor.requests, memory });
    const meter = new VolumeMeter();
    const vhostOptions: VhostDeviceOptions = {
      name,
      socketPath,
      socketMode: 0o600,
      socketGroupId: -1,
      trustMemory: options.trustMemory ?? false,
    };
    const scsi = options.scsi === undefined ? null : this.controller(options, held, meter);
    const model =
      scsi?.model ??
      new BlkModel(held, {
        queueCountMax: options.queueCountMax ?? 16,
        packedAllowed: options.packedAllowed ?? true,
        readOnly,
        meter,
      });
    const device = new TargetVhostDevice(reactor, model, vhostOptions);
    device.leaksRegion = bug === "leak-region";
    sys.check(device.listen(), "listen", socketPath);
    this.volumes.set(name, { backing, held, meter, device, scsi });
    return null;
  }

  private controller(
    options: TargetDeviceOptions,
    held: HeldDevice,
    meter: VolumeMeter,
  ): { readonly model: ScsiModel; readonly unit: LogicalUnit } {
    const transportId = new Uint8Array(24);
    transportId[0] = 0x0f;
    transportId.set(Buffer.from(options.name).subarray(0, 20), 4);
    const model = new ScsiModel(this.engine, this.reactor, {
      requestQueueCount: options.queueCountMax ?? 16,
      packedAllowed: options.packedAllowed ?? true,
      meter,
      identity: { transportId, relativePort: 1 },
    });
    const other = options.scsi?.sharesWith;
    const shared = other === undefined ? null : this.volume(other).scsi;
    const unit = shared?.unit ?? this.unit(options.name);
    if (shared === null) unit.setDevice(held);
    model.addUnit(0, unit, meter);
    return { model, unit };
  }

  private unit(serial: string): LogicalUnit {
    const naa = Uint8Array.of(0x60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, this.volumes.size);
    return new LogicalUnit({
      identity: { naa, vendor: "RINGSTOR", product: "VOLUME", revision: "1", serial },
      reservations: new Reservations(new VolatileReservationStore()),
      groups: [],
    });
  }

  private plug(volume: Volume, lun: number, isThere: boolean): void {
    if (volume.scsi === null) throw new Error("only a virtio-scsi controller has units");
    const { model, unit } = volume.scsi;
    if (isThere) model.addUnit(lun, unit, volume.meter);
    else model.removeUnit(lun, () => undefined);
  }

  private remove(name: string, done: () => void): void {
    const volume = this.volume(name);
    volume.device.close(() => {
      volume.backing.close();
      this.volumes.delete(name);
      done();
    });
  }

  private counts(): TargetCounts {
    const devices: Record<string, TargetDeviceCounts> = {};
    for (const [name, { device, held, meter }] of this.volumes) {
      devices[name] = {
        sessionCount: device.sessionCount,
        connected: device.connected,
        heldCount: held.heldCount,
        counters: meter.block.snapshot(),
      };
    }
    const { reactor } = this;
    const maps = readFileSync("/proc/self/maps", "latin1");
    return {
      fdCount: readdirSync("/proc/self/fd").length - 1,
      sharedMapCount: maps.match(/^\S+ ...s /gm)?.length ?? 0,
      arenaCount: this.memory.arenaCount,
      watchCount: reactor.watchCount,
      timerCount: reactor.timerCount,
      pollerCount: reactor.pollerCount,
      freeSlotCount: reactor.requests.freeSlots,
      threadCount: readdirSync("/proc/self/task").length,
      rssBytes: alignDown(process.memoryUsage.rss(), 4096),
      loopCount: reactor.counters.loopCount,
      devices,
    };
  }
}

cPrctl(PR_SET_PDEATHSIG, sys.SIGKILL, 0, 0, 0);
new Target(Number(process.argv[2] ?? "0")).run();
