// qemu-storage-daemon as a vhost-user-blk back-end, for tests of the driving side and for
// comparisons: started with one export on a socket of its own, ended by its process id.

import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { processCpuUs } from "../load/index.ts";
import { ForeignProgram } from "./foreign-program.ts";

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
  private readonly program: ForeignProgram;

  private constructor(program: ForeignProgram) {
    this.program = program;
    this.socketPath = socketIn(program.folder);
  }

  /** Starts the daemon and waits until its socket is there. */
  static async start(options: QsdOptions): Promise<Qsd> {
    const args = (folder: string): string[] => argumentsOf(options, socketIn(folder));
    const program = new ForeignProgram({ program: PROGRAM, prefix: "ringstore-qsd-", args });
    const qsd = new Qsd(program);
    try {
      await program.until(() => existsSync(qsd.socketPath), START_TIMEOUT_MS);
    } catch (error) {
      await qsd.stop();
      throw error;
    }
    return qsd;
  }

  get pid(): number {
    return this.program.pid;
  }

  /** CPU time used so far, in microseconds. */
  cpuUs(): number {
    return processCpuUs(this.pid);
  }

  /** SIGKILL; the folder with the socket stays until stop(). */
  kill(): void {
    this.program.kill();
  }

  /** Ends the daemon and removes its folder. */
  async stop(): Promise<void> {
    await this.program.stop(STOP_TIMEOUT_MS);
  }
}

function socketIn(folder: string): string {
  return join(folder, "socket");
}

function argumentsOf(options: QsdOptions, socketPath: string): string[] {
  const { backing, pollMaxNs, logicalBlockBytes } = options;
  const node = backing.kind === "file" ? "f0" : "d0";
  const poll = pollMaxNs === undefined ? "" : `,poll-max-ns=${pollMaxNs}`;
  const block = logicalBlockBytes === undefined ? "" : `,logical-block-size=${logicalBlockBytes}`;
  return [
    "--object",
    `iothread,id=io0${poll}`,
    "--blockdev",
    blockdev(backing),
    "--export",
    `type=vhost-user-blk,id=e0,node-name=${node},addr.type=unix,addr.path=${socketPath},` +
      `writable=${options.writable === false ? "off" : "on"},` +
      `num-queues=${options.queueCount ?? 1},iothread=io0${block}`,
  ];
}
