// The cluster that `npm start` leaves running: the metadata server, and three daemons with a disk
// file each. The first is the daemon that serves the plain volume too. All on 127.0.0.1; ports are
// chosen once and kept, because nodes find each other by them.

import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort } from "../../sys/index.ts";
import { type BackgroundOptions, daemonOptions, ensureProcess, killProcess } from "./background.ts";
import { askTool } from "./tool.ts";

const HOST = "127.0.0.1";
const DISK_SIZE = "1G";
const STOP_ORDER_METADATA = 20;
const DISK_READY_MS = 120_000;
const HEARD_MS = 60_000;
const POLL_MS = 100;

interface Ports {
  readonly metadata: number;
  readonly nodes: readonly number[];
}

export interface ShowNode {
  readonly name: string;
  readonly data: string;
  readonly process: BackgroundOptions;
}

export class ShowCluster {
  readonly nodes: readonly ShowNode[];
  private readonly state: string;
  private readonly ports: Ports;
  private readonly say: (text: string) => void;

  private constructor(
    parts: { readonly state: string; readonly ports: Ports; readonly nodes: readonly ShowNode[] },
    say: (text: string) => void,
  ) {
    this.state = parts.state;
    this.ports = parts.ports;
    this.nodes = parts.nodes;
    this.say = say;
  }

  /** `firstData`: the data directory of the daemon that runs already. */
  static async start(
    state: string,
    firstData: string,
    say: (text: string) => void,
  ): Promise<ShowCluster> {
    const ports = readOrChoosePorts(join(state, "ports.json"));
    const nodes = ports.nodes.map((_, index) => {
      const name = `node${index + 1}`;
      const data = index === 0 ? firstData : join(state, name);
      return { name, data, process: daemonOptions(state, index === 0 ? "ringstored" : name, data) };
    });
    const cluster = new ShowCluster({ state, ports, nodes }, say);
    await cluster.ensureAll();
    return cluster;
  }

  private async ensureAll(): Promise<void> {
    const { metadata } = this.ports;
    const data = join(this.state, "metadata");
    mkdirSync(data, { recursive: true, mode: 0o700 });
    await ensureProcess({
      stateDirectory: this.state,
      name: "metadata",
      args: ["--role", "meta", "--data", data, "--listen", `${HOST}:${metadata}`],
      stopOrder: STOP_ORDER_METADATA,
      answers: () => listens(metadata),
    });
    for (const [index, node] of this.nodes.entries()) {
      mkdirSync(node.data, { recursive: true, mode: 0o700 });
      await ensureProcess(node.process);
      await this.ensureDisk(node);
      await this.ensureMember(index, node);
      await this.untilHeard(node);
    }
  }

  /** A daemon that has just started has not heard of the metadata yet. */
  private async untilHeard(node: ShowNode): Promise<void> {
    const deadline = Date.now() + HEARD_MS;
    for (;;) {
      const view = (await this.tool(node, ["cluster", "show"])) as {
        readonly metadata: { readonly reachable: boolean };
      };
      if (view.metadata.reachable) return;
      if (Date.now() > deadline) throw new Error(`${node.name} does not reach the metadata`);
      await sleep(POLL_MS);
    }
  }

  async tool(node: ShowNode, args: readonly string[]): Promise<unknown> {
    return await askTool(node.data, args);
  }

  private async ensureDisk(node: ShowNode): Promise<void> {
    const name = `${node.name}-disk`;
    const { disks } = (await this.tool(node, ["disk", "list"])) as {
      readonly disks: readonly { readonly name: string; readonly state: string }[];
    };
    if (!disks.some((disk) => disk.name === name)) {
      const path = join(this.state, `${name}.img`);
      await this.tool(node, ["disk", "init", path, "--size", DISK_SIZE, "--label", name]);
    }
    const deadline = Date.now() + DISK_READY_MS;
    for (;;) {
      const disk = (await this.tool(node, ["disk", "show", name])) as { readonly state: string };
      if (disk.state === "ready") return;
      if (Date.now() > deadline) throw new Error(`disk ${name} is ${disk.state}`);
      await sleep(POLL_MS);
    }
  }

  private async ensureMember(index: number, node: ShowNode): Promise<void> {
    if ((await this.tool(node, ["cluster", "show"])) !== null) return;
    const address = `${HOST}:${this.ports.nodes[index]}`;
    const common = ["--address", address, "--node-name", node.name];
    if (index === 0) {
      const metadata = `${HOST}:${this.ports.metadata}`;
      await this.tool(node, ["cluster", "init", "trio", "--metadata", metadata, ...common]);
      this.say(`${node.name} has made the cluster trio.`);
      return;
    }
    const first = this.nodes[0] as ShowNode;
    const { token } = (await this.tool(first, ["cluster", "token"])) as { readonly token: string };
    const tokenFile = join(this.state, "token");
    writeFileSync(tokenFile, token, { mode: 0o600 });
    try {
      await this.tool(node, ["cluster", "join", "--cluster-token-file", tokenFile, ...common]);
    } finally {
      rmSync(tokenFile);
    }
    this.say(`${node.name} has joined it.`);
  }

  nodeNamed(name: string): ShowNode {
    return this.nodes.find((node) => node.name === name) as ShowNode;
  }

  /** kill -9, as a power failure would. */
  async kill(node: ShowNode): Promise<void> {
    await killProcess(node.process);
  }

  async restart(node: ShowNode): Promise<void> {
    await ensureProcess(node.process);
  }
}

function readOrChoosePorts(path: string): Ports {
  if (existsSync(path)) return JSON.parse(readFileSync(path, "utf8")) as Ports;
  const ports = {
    metadata: freePort(HOST),
    nodes: [freePort(HOST), freePort(HOST), freePort(HOST)],
  };
  writeFileSync(path, `${JSON.stringify(ports)}\n`, { mode: 0o600 });
  return ports;
}

async function listens(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(port, HOST);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}
