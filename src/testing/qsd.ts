// qemu-storage-daemon as a vhost-user-blk back-end, for tests of the driving side and for
// comparisons: started with one export on a socket of its own, ended by its process id.

import { type ChildProcess, spawn } from "node:child_process";
import { accessSync, constants, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { processCpuUs } from "../load/index.ts";

const PROGRAM = "qemu-storage-daemon";
const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 30_000;

export type QsdBacking =
  /** Nothing behind it: reads leave the buffer as it is, writes vanish. */
  | { readonly kind: "null"; readonly sizeBytes: number }
  | {
      readonly kind: "file";
      readonly path: string;
      /** O_DIRECT and Linux AIO or io_uring. */
      readonly direct: boolean;
      readonly aio: "threads" | "native" | "io_uring";
    }
  /** A logical unit, by its URL. */
  | { readonly kind: "iscsi"; readonly url: string };

export interface QsdOptions {
  readonly backing: QsdBacking;
  /** Default 1. */
  readonly queueCount?: number;
  readonly writable?: boolean;
  /** Longest busy polling of its iothread; undefined leaves its default (32 us). */
  readonly pollMaxNs?: number;
  readonly logicalBlockBytes?: number;
}

/** True when qemu-storage-daemon is installed. */
export function qsdInstalled(): boolean {
  for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
    try {
      accessSync(join(folder, PROGRAM), constants.X_OK);
      return true;
    } catch {
      // Not in this folder.
    }
  }
  return false;
}

function blockdev(backing: QsdBacking): string {
  if (backing.kind === "null") {
    return `driver=null-co,node-name=d0,size=${backing.sizeBytes},read-zeroes=off`;
  }
  if (backing.kind === "iscsi") {
    const [, portal = "", target = "", lun = "0"] =
      /^iscsi:\/\/([^/]+)\/([^/]+)\/(\d+)$/.exec(backing.url) ?? [];
    return `driver=iscsi,node-name=d0,transport=tcp,portal=${portal},target=${target},lun=${lun}`;
  }
  const cache = `cache.direct=${backing.direct ? "on" : "off"}`;
  const file = `driver=file,node-name=f0,filename=${backing.path},${cache},aio=${backing.aio}`;
  return `${file},discard=unmap`;
}

export class Qsd {
  readonly socketPath: string;
  private readonly child: ChildProcess;
  private readonly folder: string;
  private stderr = "";

  private constructor(child: ChildProcess, folder: string, socketPath: string) {
    this.child = child;
    this.folder = folder;
    this.socketPath = socketPath;
    child.on("error", (error) => {
      this.stderr += error.message;
    });
    child.stderr?.on("data", (text: Buffer) => {
      this.stderr += text.toString("utf8").slice(0, 4096);
    });
  }

  /** Starts the daemon and waits until its socket is there. */
  static async start(options: QsdOptions): Promise<Qsd> {
    const folder = mkdtempSync(join(tmpdir(), "ringstore-qsd-"));
    const socketPath = join(folder, "socket");
    const node = options.backing.kind === "file" ? "f0" : "d0";
    const poll = options.pollMaxNs === undefined ? "" : `,poll-max-ns=${options.pollMaxNs}`;
    const block =
      options.logicalBlockBytes === undefined
        ? ""
        : `,logical-block-size=${options.logicalBlockBytes}`;
    const args = [
      "--object",
      `iothread,id=io0${poll}`,
      "--blockdev",
      blockdev(options.backing),
      "--export",
      `type=vhost-user-blk,id=e0,node-name=${node},addr.type=unix,addr.path=${socketPath},` +
        `writable=${options.writable === false ? "off" : "on"},` +
        `num-queues=${options.queueCount ?? 1},iothread=io0${block}`,
    ];
    const child = spawn(PROGRAM, args, { stdio: ["ignore", "ignore", "pipe"] });
    const qsd = new Qsd(child, folder, socketPath);
    try {
      await qsd.waitForSocket();
    } catch (error) {
      await qsd.stop();
      throw error;
    }
    return qsd;
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  private async waitForSocket(): Promise<void> {
    const deadline = Date.now() + START_TIMEOUT_MS;
    while (!existsSync(this.socketPath)) {
      const gone = this.child.pid === undefined || this.child.exitCode !== null;
      if (gone || Date.now() > deadline) {
        throw new Error(`${PROGRAM} did not start: ${this.stderr}`);
      }
      await sleep(10);
    }
  }

  /** CPU time used so far, in microseconds. */
  cpuUs(): number {
    return processCpuUs(this.pid);
  }

  /** SIGKILL; the folder with the socket stays until stop(). */
  kill(): void {
    this.child.kill("SIGKILL");
  }

  /** Ends the daemon and removes its folder. */
  async stop(): Promise<void> {
    const runs = this.child.pid !== undefined && this.child.exitCode === null;
    if (runs && this.child.signalCode === null) {
      const ended = new Promise<void>((resolve) => this.child.once("exit", () => resolve()));
      this.child.kill("SIGTERM");
      const timer = setTimeout(() => this.child.kill("SIGKILL"), STOP_TIMEOUT_MS);
      await ended;
      clearTimeout(timer);
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}
