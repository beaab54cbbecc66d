// tgt, the iSCSI target of Debian's package of that name, with one file as its logical unit: what
// the classic path is compared with. A daemon of its own on a port and a control socket of its own,
// ended by its process id; nothing that the machine's own tgt serves is seen or touched.

import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { freePort } from "../sys/index.ts";
import { ForeignProgram } from "./foreign-program.ts";

const HOST = "127.0.0.1";
const NAME = "iqn.2024-01.io.ringstore:tgt";
/** Its unit 0 is the controller. */
const LUN = 1;
const START_TIMEOUT_MS = 30_000;
/** Of the control socket's name, which lies in a folder of its own anyway. */
const CONTROL = "1";
const run = promisify(execFile);

export interface TgtOptions {
  readonly path: string;
  /** "rdwr": threads, through the page cache. "aio": O_DIRECT, Linux AIO. */
  readonly store: "rdwr" | "aio";
}

export class Tgt {
  readonly url: string;
  private readonly program: ForeignProgram;

  private constructor(program: ForeignProgram, port: number) {
    this.program = program;
    this.url = `iscsi://${HOST}:${port}/${NAME}/${LUN}`;
  }

  /** Wants root, as tgtd does. */
  static async start({ path, store }: TgtOptions): Promise<Tgt> {
    if (process.getuid?.() !== 0) throw new Error("tgtd runs as root alone: run this as root");
    const port = freePort(HOST);
    const args = (): string[] => ["-f", "-C", CONTROL, "--iscsi", `portal=${HOST}:${port}`];
    const program = new ForeignProgram({
      program: "tgtd",
      prefix: "ringstore-tgt-",
      args,
      env: environment,
    });
    const tgt = new Tgt(program, port);
    try {
      await program.until(() => tgt.answers(), START_TIMEOUT_MS);
      const target = ["--mode", "target", "--tid", "1"];
      await tgt.admin(["--op", "new", ...target, "-T", NAME]);
      const unit = ["--mode", "logicalunit", "--tid", "1", "--lun", String(LUN)];
      await tgt.admin(["--op", "new", ...unit, "-b", path, "--bstype", store]);
      await tgt.admin(["--op", "bind", ...target, "-I", "ALL"]);
    } catch (error) {
      await tgt.stop();
      throw error;
    }
    return tgt;
  }

  get pid(): number {
    return this.program.pid;
  }

  private async answers(): Promise<boolean> {
    try {
      await this.admin(["--op", "show", "--mode", "sys"]);
      return true;
    } catch {
      return false;
    }
  }

  private async admin(args: readonly string[]): Promise<void> {
    const all = ["-C", CONTROL, "--lld", "iscsi", ...args];
    await run("tgtadm", all, { env: environment(this.program.folder) });
  }

  async stop(): Promise<void> {
    // It takes SIGTERM only without sessions, and writes nothing at its end.
    await this.program.stop(0);
  }
}

/** Its control socket lies in a folder of ours. */
function environment(folder: string): NodeJS.ProcessEnv {
  return { ...process.env, TGT_IPC_SOCKET: join(folder, "socket") };
}
