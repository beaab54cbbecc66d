// A DataPlane without data: it keeps the contract of ports/data-plane.ts over real (sparse) files
// and real listening sockets, refuses what the contract forbids, and fails on demand. The control
// plane's tests run over it.

import { existsSync, statSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { chmod } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { RingstoreError } from "../../base/error.ts";
import type {
  AttachmentSpec,
  DataPlane,
  LatencySummary,
  ReactorStats,
  VolumeSpec,
  VolumeStats,
} from "../../ports/data-plane.ts";

export type FakeMethod =
  | "openVolume"
  | "closeVolume"
  | "deleteBacking"
  | "resizeVolume"
  | "attach"
  | "detach"
  | "stop";

interface OpenVolume {
  spec: VolumeSpec;
  sizeBytes: number;
  attachment: AttachmentSpec | null;
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
  readonly extraStats: Map<string, Partial<VolumeStats>> = new Map();
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

  async openVolume(spec: VolumeSpec, options: { readonly create: boolean }): Promise<void> {
    await this.#enter("openVolume", spec.name);
    if (this.open.has(spec.id)) throw new Error(`volume ${spec.id} is open already`);
    if (spec.backing.kind === "file") openFile(spec.backing.path, spec.sizeBytes, options.create);
    else if (!options.create) throw new Error(`${spec.backing.kind} must be opened with create`);
    const { sizeBytes } = spec;
    this.open.set(spec.id, { spec, sizeBytes, attachment: null, server: null });
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
  }

  async resizeVolume(volumeId: string, sizeBytes: number): Promise<void> {
    const volume = this.#find(volumeId);
    await this.#enter("resizeVolume", volume.spec.name);
    if (volume.spec.backing.kind === "file") truncateSync(volume.spec.backing.path, sizeBytes);
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

  async detach(volumeId: string): Promise<void> {
    const volume = this.#find(volumeId);
    await this.#enter("detach", volume.spec.name);
    volume.server?.close();
    volume.server = null;
    volume.attachment = null;
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
      inflightCount: 0,
      readLatencyUs: LATENCY,
      writeLatencyUs: LATENCY,
      sessionCount: this.connected.has(spec.id) ? 1 : 0,
      connected: this.connected.has(spec.id),
      ringErrorCount: 0,
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

  async stop(): Promise<void> {
    await this.#enter("stop", "");
    this.stopped = true;
    this.dropEverything();
  }

  /** What the kernel does when the process is killed. */
  dropEverything(): void {
    for (const volume of this.open.values()) volume.server?.close();
    this.open.clear();
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
