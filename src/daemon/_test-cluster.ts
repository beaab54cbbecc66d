// A cluster for tests: data planes in this process, a disk file each, links through proxies that
// can be cut, and records in memory.

import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { createServer, connect as dial, type Server, type Socket } from "node:net";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type {
  ClusterBacking,
  FrontState,
  OwnerStats,
  ReplicaPlace,
  VolumeRecordsHost,
} from "../ports/cluster-plane.ts";
import type { VolumeSpec } from "../ports/data-plane.ts";
import type { OwnedRecord, RecordEntry } from "../ports/volume-records.ts";
import { compareReplicas } from "../testing/store/compare-replicas.ts";
import { MIB, type PlaneOptions, TestPlane, until, volume } from "./_test-plane.ts";
import type { ReactorDataPlane } from "./data-plane.ts";
import { makeDisk } from "./disk-file.ts";

const DISK_BYTES = 256 * MIB;
export const VOLUME_BYTES: number = 16 * MIB;

/** The way from one node to another. */
class TestPath {
  readonly server: Server;
  private readonly sockets: Set<Socket> = new Set();
  connectionCount = 0;
  /** Attempts that met a way that was not open, and when the last one did. */
  refusedCount = 0;
  refusedAtMs = 0;
  /** "cut": connections break, and none is made. "held": nothing passes, and nothing breaks. */
  state: "open" | "cut" | "held" = "open";

  constructor(target: () => number) {
    this.server = createServer((socket) => this.join(socket, target()));
    this.server.listen(0, "127.0.0.1");
  }

  get port(): number {
    return (this.server.address() as { port: number }).port;
  }

  private join(near: Socket, port: number): void {
    if (this.state !== "open") {
      this.refusedCount += 1;
      this.refusedAtMs = performance.now();
      near.on("error", () => undefined);
      near.destroy();
      return;
    }
    this.connectionCount += 1;
    const far = dial(port, "127.0.0.1");
    this.forward(near, far);
    this.forward(far, near);
  }

  private forward(from: Socket, to: Socket): void {
    this.sockets.add(from);
    from.setNoDelay(true);
    from.on("data", (bytes) => {
      if (this.state !== "held") to.write(bytes);
    });
    from.on("error", () => undefined);
    from.on("close", () => {
      this.sockets.delete(from);
      to.destroy();
    });
  }

  /** Breaks what is there; with `state` open, what comes next is let through. */
  break(state: "open" | "cut" = "cut"): void {
    this.state = state;
    for (const socket of [...this.sockets]) socket.resetAndDestroy();
  }

  close(): void {
    this.break();
    this.server.close();
  }
}

export class TestNode {
  readonly nodeId: string = randomUUID();
  readonly diskId: string = randomUUID();
  /** It reaches the metadata. */
  isConnected = true;
  readonly told: OwnerStats[] = [];
  readonly fronts: FrontState[] = [];
  port = 0;
  private readonly test: TestPlane;

  constructor(test: TestPlane) {
    this.test = test;
  }

  get plane(): ReactorDataPlane {
    return this.test.plane;
  }

  get lines(): TestPlane["lines"] {
    return this.test.lines;
  }

  get place(): ReplicaPlace {
    return { nodeId: this.nodeId, diskId: this.diskId };
  }

  get diskPath(): string {
    return this.test.path("disk");
  }

  async openDisk(): Promise<void> {
    const { diskId: id, diskPath: path } = this;
    const spec = { id, name: "disk", path, incarnationSeen: 0, cleanSeen: false };
    await this.plane.openDisk(spec);
  }

  async attach(spec: VolumeSpec, at?: string): Promise<string> {
    const socketPath = at ?? this.test.path(`${spec.name}.sock`);
    await this.plane.attach(this.test.attachment(spec, { socketPath }));
    return socketPath;
  }

  stats(spec: VolumeSpec): OwnerStats | undefined {
    return this.plane.ownerStats().find(({ volumeId }) => volumeId === spec.id);
  }
}

export class TestCluster {
  readonly nodes: readonly TestNode[];
  readonly records: Map<string, RecordEntry> = new Map();
  private readonly paths: Map<string, TestPath> = new Map();
  private revision = 1;

  private constructor(nodes: readonly TestNode[]) {
    this.nodes = nodes;
  }

  static async start(
    t: TestContext,
    nodeCount: number,
    options: PlaneOptions = {},
  ): Promise<TestCluster> {
    const planes: TestPlane[] = [];
    for (let at = 0; at < nodeCount; at++) planes.push(await TestPlane.start(t, options));
    const cluster = new TestCluster(planes.map((plane) => new TestNode(plane)));
    t.after(() => {
      for (const path of cluster.paths.values()) path.close();
    });
    const key = randomBytes(32);
    const clusterId = randomUUID();
    for (const node of cluster.nodes) {
      const { diskId: id, diskPath: path, nodeId } = node;
      const facts = { id, path, label: "test", sizeBytes: DISK_BYTES, force: false } as const;
      const random = { journalId: randomBytes(4).readUInt32LE(), nowMs: Date.now() };
      const kind = { allocation: "sparse", durability: "write-through" } as const;
      makeDisk({ ...facts, ...kind }, random, () => undefined);
      const identity = { clusterId, nodeId, incarnation: 1 };
      const listen = { host: "127.0.0.1", port: 0 };
      const modules = {
        records: cluster.host(node),
        ownerChanged: (stats: OwnerStats) => void node.told.push(stats),
        frontChanged: (state: FrontState) => void node.fronts.push(state),
      };
      ({ port: node.port } = await node.plane.startCluster({ identity, key, listen }, modules));
      await node.openDisk();
    }
    await cluster.joinAll();
    const isJoined = (node: TestNode): boolean =>
      node.plane.peerStats().filter(({ state }) => state === "up").length === nodeCount - 1;
    await until(() => cluster.nodes.every(isJoined), "every link is up");
    return cluster;
  }

  private async joinAll(): Promise<void> {
    for (const from of this.nodes) {
      const others = this.nodes.filter((node) => node !== from);
      for (const to of others) {
        this.paths.set(`${from.nodeId}>${to.nodeId}`, new TestPath(() => to.port));
      }
      await sleep(20);
      await from.plane.setPeers(
        others.map((to) => ({
          nodeId: to.nodeId,
          host: "localhost",
          port: this.path(from, to).port,
        })),
      );
    }
  }

  path(from: TestNode, to: TestNode): TestPath {
    return this.paths.get(`${from.nodeId}>${to.nodeId}`) as TestPath;
  }

  /** All ways between the node and others. */
  pathsOf(node: TestNode): TestPath[] {
    const isOf = ([name]: [string, TestPath]): boolean => name.includes(node.nodeId);
    return [...this.paths].filter(isOf).map(([, path]) => path);
  }

  private host(node: TestNode): VolumeRecordsHost {
    return {
      read: async (volumeId) => {
        await sleep(1);
        return node.isConnected ? (this.records.get(volumeId) ?? null) : null;
      },
      swap: async (volumeId, revision, record) => {
        await sleep(1);
        if (!node.isConnected) return { outcome: "unknown" };
        const found = this.records.get(volumeId) as RecordEntry;
        if (found.revision !== revision) return { outcome: "conflict", found };
        this.revision += 1;
        this.records.set(volumeId, { record, revision: this.revision });
        return { outcome: "applied", revision: this.revision };
      },
    };
  }

  record(spec: VolumeSpec): OwnedRecord {
    return (this.records.get(spec.id) as RecordEntry).record;
  }

  /** Somebody plans: the list of members is changed while the volume is owned. */
  change(spec: VolumeSpec, make: (record: OwnedRecord) => OwnedRecord): void {
    const made = make(this.record(spec));
    const record = { ...made, membershipVersion: made.membershipVersion + 1 };
    this.revision += 1;
    this.records.set(spec.id, { record, revision: this.revision });
  }

  /** A volume with copies on the disks of those nodes. */
  async make(name: string, members: readonly TestNode[]): Promise<VolumeSpec> {
    const spec = volume(name, { kind: "null" }, { sizeBytes: VOLUME_BYTES, serial: name });
    for (const { plane, diskId } of members) {
      await plane.makeReplica(diskId, { volumeId: spec.id, sizeBytes: VOLUME_BYTES });
    }
    this.revision += 1;
    const record: OwnedRecord = {
      epoch: 0,
      owner: null,
      state: "clean",
      members: members.map(({ diskId }) => diskId),
      out: [],
      membershipVersion: 1,
      clusterGeneration: 1,
    };
    this.records.set(spec.id, { record, revision: this.revision });
    return spec;
  }

  /** Opens the volume at the node, which becomes its owner. */
  async own(
    spec: VolumeSpec,
    node: TestNode,
    members: readonly TestNode[],
    deadPredecessor: string | null = null,
  ): Promise<void> {
    const backing = { ...this.backing(node, members), deadPredecessor };
    await node.plane.openVolume({ ...spec, backing }, { create: false });
  }

  /** Nobody was put out; all planes stop; the owner has surrendered; both copies are equal. */
  async endsEqual(spec: VolumeSpec, one: TestNode, other: TestNode): Promise<void> {
    assert.deepEqual(this.record(spec).out, []);
    await Promise.all(this.nodes.map(({ plane }) => plane.stop()));
    assert.equal(this.record(spec).state, "clean", "a stop surrenders");
    compareReplicas([one.diskPath, other.diskPath], spec.id, spec.sizeBytes);
  }

  /** As a run of the node's daemon that has not been seen yet. */
  backing(node: TestNode, members: readonly TestNode[], isStandby = false): ClusterBacking {
    return {
      kind: "cluster",
      owner: `${node.nodeId} ${randomUUID()}`,
      members: members.map(({ place }) => place),
      deadPredecessor: null,
      isStandby,
    };
  }
}
