// What a reactor thread does: sets up its reactor, carries out the main thread's commands from
// within the loop, and ends when it is told to. Started by reactor-worker.ts.
//
// Invariants:
//  - the thread never returns to Node's event loop: commands are taken from the port when the
//    eventfd says so, timers are the reactor's, no promise is ever waited for (its continuation
//    would not run);
//  - a RingstoreError is an answer; anything else that is thrown ends the process.

import { type MessagePort, receiveMessageOnPort } from "node:worker_threads";
import { assert, RingstoreError } from "../base/index.ts";
import { Workspace } from "../local/index.ts";
import type { ReadinessHandler, TimerHandler, VolumeSpec } from "../ports/index.ts";
import { Reactor, type ReactorObserver } from "../reactor/index.ts";
import { eventClear, POLLIN, SystemClock, SystemMemory, setAffinity } from "../sys/index.ts";
import { LogRingWriter, REACTOR_COUNTERS, RingLog, reactorCounters } from "../telemetry/index.ts";
import { ReactorClassic } from "./reactor-classic.ts";
import { ReactorCluster } from "./reactor-cluster.ts";
import { ReactorDisks } from "./reactor-disks.ts";
import type {
  ClassicCommand,
  ClusterCommand,
  ReactorCommand,
  ReactorMessage,
  ReactorRequest,
  ReactorStart,
  ScsiCommand,
  WireError,
} from "./reactor-protocol.ts";
import { ReactorScsi } from "./reactor-scsi.ts";
import { ReactorUnits } from "./reactor-units.ts";
import { ReactorVolume, refusal } from "./reactor-volume.ts";

const GAUGE_PERIOD_MS = 1000;
const TIMER_GAUGES = 1;
const TIMER_STOP = 2;
/** Of a stop's patience, for owned volumes to say "clean": links and disks need the rest. */
const SURRENDER_PART = 0.5;

/** Copies the reactor's counters to where the main thread reads them. */
class CounterPublisher implements ReactorObserver {
  private readonly cells: Float64Array;
  private readonly writer: LogRingWriter;
  volumeCount = 0;
  commandCount = 0;

  constructor(shared: SharedArrayBuffer, writer: LogRingWriter) {
    this.cells = reactorCounters(shared).values;
    this.writer = writer;
  }

  observe(reactor: Reactor): void {
    const { cells } = this;
    const { counters, ring, requests } = reactor;
    cells[REACTOR_COUNTERS.loopCount] = counters.loopCount;
    cells[REACTOR_COUNTERS.sleepCount] = counters.sleepCount;
    cells[REACTOR_COUNTERS.enterCount] = ring.enterCount;
    cells[REACTOR_COUNTERS.busyUs] = counters.busyUs;
    cells[REACTOR_COUNTERS.pollUs] = counters.pollUs;
    cells[REACTOR_COUNTERS.timerCount] = counters.timerCount;
    cells[REACTOR_COUNTERS.completionCount] = ring.reapedCount;
    cells[REACTOR_COUNTERS.submissionCount] = ring.submittedCount;
    cells[REACTOR_COUNTERS.mailboxMessageCount] = this.commandCount;
    cells[REACTOR_COUNTERS.slotsInUse] = requests.capacity - requests.freeSlots;
    cells[REACTOR_COUNTERS.volumeCount] = this.volumeCount;
    cells[REACTOR_COUNTERS.longestLoopUs] = counters.longestLoopUs;
    cells[REACTOR_COUNTERS.logDroppedCount] = this.writer.droppedCount;
  }
}

export class ReactorLoop implements ReadinessHandler, TimerHandler {
  readonly reactor: Reactor;
  private readonly start: ReactorStart;
  private readonly port: MessagePort;
  private readonly publisher: CounterPublisher;
  private readonly log: RingLog;
  private readonly workspace: Workspace;
  private readonly volumes: Map<string, ReactorVolume> = new Map();
  private readonly disks: ReactorDisks;
  private readonly units: ReactorUnits;
  private readonly scsi: ReactorScsi;
  private cluster: ReactorCluster | null = null;
  private classic: ReactorClassic | null = null;
  private stopPatienceMs = 0;
  private stopId = -1;
  private stopTimer = -1;
  private cleanDiskIds: readonly string[] = [];

  /** Throws RingstoreError when this machine cannot run a reactor. */
  constructor(start: ReactorStart, port: MessagePort) {
    this.start = start;
    this.port = port;
    if (start.cpus.length > 0) this.pin(start.cpus);
    const writer = new LogRingWriter(start.logRings[start.index] as SharedArrayBuffer);
    this.publisher = new CounterPublisher(start.counters, writer);
    this.log = new RingLog(
      { reactorIndex: start.index, levelMin: "debug" },
      { writer, wallTimeMs: () => Date.now() },
    );
    this.reactor = new Reactor(start.options, {
      memory: new SystemMemory(),
      clock: new SystemClock(),
      log: this.log,
      observer: this.publisher,
    });
    const { requests, memory } = this.reactor;
    this.workspace = new Workspace({}, { requests, memory });
    const { reactor, workspace } = this;
    this.disks = new ReactorDisks({
      reactor,
      workspace,
      changed: (stats) => this.send({ kind: "disk", stats }),
      scrubMibPerSecond: start.scrubMibPerSecond ?? 0,
    });
    const send = (message: ReactorMessage): void => this.send(message);
    this.units = new ReactorUnits({ reactor, copier: workspace.copier, send });
    this.scsi = new ReactorScsi({ reactor, units: this.units, trustMemory: start.trustMemory });
    this.reactor.watch(start.wakeFd, POLLIN, this, 0);
    this.reactor.setTimer(GAUGE_PERIOD_MS, this, TIMER_GAUGES);
  }

  private pin(cpus: readonly number[]): void {
    if (setAffinity(cpus) >= 0) return;
    const message = `reactor ${this.start.index} cannot run on CPU ${cpus.join(", ")}`;
    throw refusal("INVALID_REQUEST", message, "Name CPUs that this process may use.");
  }

  /** Serves until it is told to stop. */
  run(): void {
    this.send({ kind: "ready" });
    this.reactor.run();
    this.finish();
  }

  private send(message: ReactorMessage): void {
    this.port.postMessage(message);
  }

  /** ReadinessHandler: the main thread has posted something. */
  ready(_tag: number, _events: number): void {
    eventClear(this.start.wakeFd);
    for (;;) {
      const received = receiveMessageOnPort(this.port) as { message: ReactorRequest } | undefined;
      if (received === undefined) return;
      this.publisher.commandCount += 1;
      this.carryOut(received.message);
    }
  }

  private carryOut({ id, command }: ReactorRequest): void {
    this.carryOutNow(id, () => this.dispatch(id, command));
  }

  /** Answers when `work` returns true, or throws what is an answer. */
  private carryOutNow(id: number, work: () => boolean): void {
    try {
      if (work()) this.answer(id);
    } catch (error) {
      if (!(error instanceof RingstoreError)) throw error;
      this.answer(id, toWire(error));
    }
  }

  private answer(id: number, error: WireError | null = null, value: unknown = null): void {
    this.send({ kind: "answer", id, error, value });
  }

  /** For what answers later: null, or why it could not be done. */
  private answerLater(id: number): (error: RingstoreError | null, value?: unknown) => void {
    return (error, value = null) => this.answer(id, error === null ? null : toWire(error), value);
  }

  /** True when the command is done; otherwise it answers by itself, later. */
  private dispatch(id: number, command: ReactorCommand): boolean {
    switch (command.op) {
      case "open":
        return this.open(id, command);
      case "close":
        this.close(command.volumeId);
        return true;
      case "resize":
        return this.resize(id, command);
      case "attach":
        this.requireDetached(command.spec.volumeId).attach(command.spec);
        return true;
      case "startPortal":
      case "attachClassic":
      case "setRedirects":
      case "setPaths":
      case "setReservations":
        return this.dispatchClassic(command);
      case "attachScsi":
      case "listenScsi":
      case "holdUnit":
      case "dropUnit":
      case "reservationSaved":
        return this.dispatchScsi(id, command);
      case "detach":
        this.find(command.volumeId).detach(() => this.answer(id));
        return false;
      case "openDisk":
        this.disks.open(command.spec, command.backing, this.answerLater(id));
        return false;
      case "closeDisk":
        this.cluster?.letGo(command.diskId);
        this.disks.close(command.diskId, this.answerLater(id));
        return false;
      case "deleteStored":
        this.disks.deleteVolume(command.diskId, command.volumeId, this.answerLater(id));
        return false;
      case "ping":
        return true;
      case "stop":
        this.stop(id, command.patienceMs);
        return false;
      case "startCluster":
        this.startCluster(command);
        return true;
      default:
        this.requireCluster().dispatch(command, this.answerLater(id));
        return false;
    }
  }

  private startCluster(command: ClusterCommand & { readonly op: "startCluster" }): void {
    assert(this.cluster === null, "the cluster is started once");
    const { reactor, workspace, disks } = this;
    const send = (message: ReactorMessage): void => this.send(message);
    this.cluster = new ReactorCluster(command, { reactor, workspace, disks, send });
  }

  /** True where it is answered. */
  private dispatchClassic(command: ClassicCommand): boolean {
    if (command.op === "startPortal") {
      assert(this.classic === null, "a portal is started once");
      const { reactor, units } = this;
      const send = (message: ReactorMessage): void => this.send(message);
      this.classic = new ReactorClassic(command, { reactor, units, send });
      return true;
    }
    const { classic } = this;
    assert(classic !== null, "the classic path without a portal");
    if (command.op === "attachClassic") {
      this.requireDetached(command.spec.volumeId).attachClassic(command.spec, classic);
      return true;
    }
    if (command.op === "setReservations") {
      classic.setReservations(command.volumeId, command.record);
      return true;
    }
    if (command.op === "setRedirects") classic.setRedirects(command.redirects);
    else classic.setPaths(command.volumeId, command.others);
    return false;
  }

  /** True where it is answered now. */
  private dispatchScsi(id: number, command: ScsiCommand): boolean {
    if (command.op === "listenScsi") {
      this.scsi.listen(command.controller);
      return true;
    }
    if (command.op === "reservationSaved") {
      this.units.reservationSaved(command.saveId, command.result);
      return false;
    }
    if (command.op === "dropUnit") {
      this.scsi.drop(command.volumeId, () => this.answer(id));
      return false;
    }
    // One of that name whose last unit has just gone is waited for.
    this.scsi.whenSettled(command.spec.controller, () => {
      this.carryOutNow(id, () => {
        if (command.op === "holdUnit") this.scsi.hold(command.spec);
        else this.requireDetached(command.spec.volumeId).attachScsi(command.spec, this.scsi);
        return true;
      });
    });
    return false;
  }

  private requireCluster(): ReactorCluster {
    if (this.cluster !== null) return this.cluster;
    throw refusal("INVALID_REQUEST", "this node has not joined a cluster since it was started");
  }

  private find(volumeId: string): ReactorVolume {
    const volume = this.volumes.get(volumeId);
    if (volume === undefined) throw refusal("VOLUME_NOT_FOUND", `volume ${volumeId} is not open`);
    return volume;
  }

  /** True when it is done; a volume in the store may be made first. */
  private open(id: number, command: ReactorCommand & { readonly op: "open" }): boolean {
    const { spec, backing, meter } = command;
    if (this.volumes.has(spec.id)) {
      throw refusal("VOLUME_BUSY", `volume ${spec.name} is open already`);
    }
    if (backing.kind === "cluster") {
      this.addVolume(spec, this.requireCluster().openVolume(spec, meter), meter);
      return true;
    }
    if (backing.kind !== "store") {
      this.addVolume(spec, backing, meter);
      return true;
    }
    const answer = this.answerLater(id);
    this.disks.openVolume(spec, backing, (error, device) => {
      if (device !== null) this.addVolume(spec, { kind: "made", device }, meter);
      answer(error);
    });
    return false;
  }

  private addVolume(
    spec: VolumeSpec,
    backing: ConstructorParameters<typeof ReactorVolume>[1],
    meter: SharedArrayBuffer,
  ): void {
    const { reactor, workspace } = this;
    const { trustMemory } = this.start;
    const volume = new ReactorVolume(spec, backing, meter, { reactor, workspace, trustMemory });
    this.volumes.set(spec.id, volume);
    this.publisher.volumeCount = this.volumes.size;
  }

  /** A volume in the store first has its size changed there, durably. */
  private resize(id: number, command: ReactorCommand & { readonly op: "resize" }): boolean {
    const { volumeId, sizeBytes, backingBytes } = command;
    const volume = this.find(volumeId);
    const { backing } = volume.spec;
    if (backing.kind !== "store") {
      volume.resize(sizeBytes, backingBytes);
      return true;
    }
    const answer = this.answerLater(id);
    this.disks.resizeVolume(backing.diskId, volumeId, sizeBytes, (error) => {
      if (error === null) volume.resize(sizeBytes, sizeBytes);
      answer(error);
    });
    return false;
  }

  private requireDetached(volumeId: string): ReactorVolume {
    const volume = this.find(volumeId);
    if (!volume.attached) return volume;
    throw refusal("VOLUME_ATTACHED", `volume ${volume.spec.name} is still attached`);
  }

  private close(volumeId: string): void {
    const volume = this.find(volumeId);
    if (!volume.idle) {
      throw refusal("VOLUME_ATTACHED", `volume ${volume.spec.name} is still in use`);
    }
    volume.close();
    this.cluster?.owned.forget(volumeId);
    this.volumes.delete(volumeId);
    this.publisher.volumeCount = this.volumes.size;
  }

  timerFired(tag: number): void {
    if (tag === TIMER_STOP) {
      this.reportHanging();
      return;
    }
    const nowUs = this.reactor.loopTimeUs;
    for (const volume of this.volumes.values()) volume.updateGauges(nowUs);
    this.disks.report();
    this.cluster?.look();
    this.classic?.look();
    this.scsi.look();
    this.log.reportLost();
    this.reactor.setTimer(GAUGE_PERIOD_MS, this, TIMER_GAUGES);
  }

  // The end ---------------------------------------------------------------------------------------

  /**
   * Drains every volume. When that takes too long the main thread is told so and ends the process,
   * where the lock on its file fences what still hangs. This thread then goes on: one that ends
   * with I/O in the kernel waits there for it, and the main thread would wait for this one.
   */
  private stop(id: number, patienceMs: number): void {
    assert(this.stopId < 0, "stopped twice");
    this.stopId = id;
    this.stopPatienceMs = patienceMs;
    this.stopTimer = this.reactor.setTimer(patienceMs, this, TIMER_STOP);
    this.scsi.end(() => this.detachAll());
  }

  private detachAll(): void {
    let waiting = this.volumes.size;
    if (waiting === 0) this.closeAll();
    for (const volume of [...this.volumes.values()]) {
      volume.detach(() => {
        waiting -= 1;
        if (waiting === 0) this.closeAll();
      });
    }
  }

  /** Every volume is detached, and with it drained. */
  private closeAll(): void {
    const { classic } = this;
    if (classic === null) this.closeServed();
    else classic.close(() => this.closeServed());
  }

  /** Owned volumes say in their records that they are clean. */
  private closeServed(): void {
    const { cluster } = this;
    if (cluster === null) {
      this.closeVolumes();
      this.closeDisks();
      return;
    }
    cluster.owned.surrenderAll(this.stopPatienceMs * SURRENDER_PART, () => {
      this.closeVolumes();
      cluster.close(() => this.closeDisks());
    });
  }

  private closeVolumes(): void {
    for (const volume of this.volumes.values()) volume.close();
    this.volumes.clear();
  }

  private closeDisks(): void {
    this.disks.closeAll((diskIds) => {
      this.cleanDiskIds = diskIds;
      this.reactor.stop();
    });
  }

  private reportHanging(): void {
    this.stopTimer = -1;
    this.log.log("error", "reactor.not_drained", { reactor: this.start.index });
    this.send({ kind: "stopped", drained: false });
    this.answer(this.stopId);
  }

  private finish(): void {
    this.publisher.observe(this.reactor);
    // What is still in the ring are polls, which end with it.
    this.reactor.close();
    if (this.stopTimer < 0) return;
    this.send({ kind: "stopped", drained: true });
    this.answer(this.stopId, null, this.cleanDiskIds);
  }
}

export function toWire(error: RingstoreError): WireError {
  return { code: error.code, message: error.message, advice: error.advice };
}
