// A cluster in one process: the embedded metadata server, and nodes that are the daemon's whole
// control plane over fake data planes, each with a data directory of its own.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeCluster } from "../../daemon/cluster-making.ts";
import type { ClusterTimings } from "../../daemon/cluster-timings.ts";
import { DaemonControl } from "../../daemon/control.ts";
import type { DaemonCluster } from "../../daemon/no-cluster.ts";
import { readOrMakeIdentity } from "../../daemon/node-identity.ts";
import { nodeStateFs } from "../../daemon/state-fs.ts";
import { diskBecameReady } from "../../daemon/volume-recovery.ts";
import { EtcdMetaStore } from "../../meta/index.ts";
import { MetaServer } from "../../meta/server/server.ts";
import type { Volume, VolumeCreate } from "../../model/types.ts";
import { freePort } from "../../sys/index.ts";
import { FakeClusterPlane } from "./fake-cluster-plane.ts";
import { HostFixture, temporaryDirectory } from "./host-fixture.ts";

const FAST: ClusterTimings = {
  leaseTtlMs: 2000,
  metaTimeoutMs: 1000,
  settleMs: 1500,
  copiesMs: 1500,
  deleteMs: 1500,
  drainMs: 200,
  // On a busy machine a holder's answer takes a while: it must not pass for none.
  takeOverMs: 3000,
  handOverMs: 3000,
  abandonedMs: 2500,
  lookMs: 200,
  freeReportMs: 50,
  repairAfterMs: Number.POSITIVE_INFINITY,
  retryFirstMs: 50,
  retryMaxMs: 300,
};

const PATIENCE_MS = 20_000;
/** A look that was under way when its node ended may still write a file. */
const REMOVED = { recursive: true, force: true, maxRetries: 10, retryDelay: 50 } as const;
const LOCAL = { transport: "unix", name: "local" } as const;
const REALLY = { dryRun: false } as const;

/** Waits until `holds`, or fails with what `describe` says then. */
export async function until(
  holds: () => boolean | Promise<boolean>,
  describe: () => string = () => String(holds),
): Promise<void> {
  const endMs = performance.now() + PATIENCE_MS;
  while (!(await holds())) {
    if (performance.now() > endMs) throw new Error(`it never came true: ${describe()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** The work is refused with that code; message and advice together have those words. */
export async function refused(work: Promise<unknown>, code: string, words: RegExp): Promise<void> {
  await assert.rejects(work, (error: { code?: string; message: string; advice?: string }) => {
    assert.equal(error.code, code, error.message);
    assert.match(`${error.message} ${error.advice}`, words);
    return true;
  });
}

export class NodeFixture {
  readonly name: string;
  readonly root: string;
  readonly address: string;
  readonly plane: FakeClusterPlane = new FakeClusterPlane();
  readonly fixture: HostFixture;
  readonly cluster: DaemonCluster;
  readonly control: DaemonControl;
  readonly #timings: ClusterTimings;

  constructor(name: string, address: string, root: string, timings: ClusterTimings = FAST) {
    this.#timings = timings;
    this.name = name;
    this.address = address;
    this.root = root;
    this.fixture = new HostFixture(root, [], { dataPlane: this.plane, uuid: randomUUID });
    const { host, disks, paths, defects } = this.fixture;
    const now = (): Date => new Date();
    const parts = { host, root: paths.root, dataPlane: this.plane, fs: nodeStateFs };
    const identity = async (): Promise<string> =>
      (await readOrMakeIdentity(paths.nodePath, nodeStateFs, now)).id;
    this.cluster = makeCluster(parts, identity, timings);
    disks.becameReady = (diskId) => {
      void diskBecameReady(host, diskId).catch((error) => void defects.push(error));
      this.cluster.diskBecameReady();
    };
    disks.becameFailed = () => this.cluster.diskBecameFailed();
    const options = { version: "1", nodeId: "", startedAt: now(), volumeMetrics: false };
    this.control = new DaemonControl(
      { ...options, listenWarning: null },
      {
        host,
        cluster: this.cluster,
        clusterVolumes: () => this.cluster.volumes,
        nowMs: () => performance.now(),
      },
    );
  }

  /** As the daemon does it at its start. */
  async start(): Promise<this> {
    await this.cluster.prepare();
    await this.fixture.recover();
    this.cluster.begin();
    return this;
  }

  async addDisk(name: string, sizeBytes: number): Promise<void> {
    const path = join(this.root, `${name}.disk`);
    await this.control.createDisk({ path, name, sizeBytes }, LOCAL, REALLY);
    await this.fixture.settleDisks();
  }

  create(request: VolumeCreate): Promise<Volume> {
    return this.control.create(request, LOCAL, REALLY);
  }

  diskId(name: string): string {
    return this.control.showDisk(name).id;
  }

  /** It ends at once, and is seen to be gone at once. */
  async end(): Promise<void> {
    this.fixture.kill();
    await this.cluster.stop();
  }

  /** The next life of the node, over what the last one left. */
  async restart(): Promise<NodeFixture> {
    await this.end();
    return await new NodeFixture(this.name, this.address, this.root, this.#timings).start();
  }
}

export class ClusterFixture {
  readonly directory: string = mkdtempSync(join(tmpdir(), "rs-ctl-"));
  readonly nodes: NodeFixture[] = [];
  /** Of nodes that are made from here on. */
  timings: Partial<ClusterTimings> = {};
  #server: MetaServer | null = null;
  #address = "127.0.0.1:0";

  static async start(): Promise<ClusterFixture> {
    const scene = new ClusterFixture();
    await scene.startMetadata();
    return scene;
  }

  get endpoint(): string {
    return this.#address;
  }

  async startMetadata(): Promise<void> {
    const directory = join(this.directory, "meta");
    const fatal = (error: unknown): never => {
      throw error;
    };
    const log = { log: () => undefined };
    this.#server = await MetaServer.start({ directory, listen: this.#address, log, fatal });
    this.#address = this.#server.address;
  }

  async stopMetadata(): Promise<void> {
    await this.#server?.stop();
    this.#server = null;
  }

  store(): EtcdMetaStore {
    return new EtcdMetaStore({ endpoints: [this.endpoint], timeoutMs: 2000 });
  }

  /** A node that is in no cluster. */
  async node(
    name: string,
    timings: ClusterTimings = { ...FAST, ...this.timings },
  ): Promise<NodeFixture> {
    const address = `127.0.0.1:${freePort("127.0.0.1")}`;
    const node = new NodeFixture(name, address, temporaryDirectory(), timings);
    this.nodes.push(node);
    return await node.start();
  }

  /** Nodes of one cluster, each with a disk `d`. */
  async cluster(...names: readonly string[]): Promise<NodeFixture[]> {
    const made: NodeFixture[] = [];
    for (const name of names) {
      const node = await this.node(name);
      await node.addDisk("d", 2 ** 31);
      const here = { address: node.address, nodeName: name };
      const first = made[0];
      if (first === undefined) {
        const request = { name: "prod", metadata: [this.endpoint], ...here };
        await node.cluster.init(request, REALLY);
      } else {
        const { token } = await first.cluster.token();
        await node.cluster.join({ token, ...here }, REALLY);
      }
      made.push(node);
    }
    for (const node of made) await until(() => this.#isSettled(node, names.length));
    return made;
  }

  async #isSettled({ cluster }: NodeFixture, count: number): Promise<boolean> {
    const nodes = await cluster.listNodes();
    return (
      nodes.length === count &&
      nodes.every(({ state, disks }) => state === "alive" && disks.length > 0)
    );
  }

  /** In the place of a node that ended. */
  async restart(node: NodeFixture): Promise<NodeFixture> {
    const next = await node.restart();
    this.nodes[this.nodes.indexOf(node)] = next;
    return next;
  }

  async end(): Promise<void> {
    for (const node of this.nodes) await node.end();
    await this.stopMetadata();
    for (const { root } of this.nodes) rmSync(root, REMOVED);
    rmSync(this.directory, REMOVED);
  }
}
