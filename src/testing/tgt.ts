// tgt, the iSCSI target of Debian's package of that name, with one file as its logical unit: what
// the classic path is compared with. A daemon of its own on a port and a control socket of its own,
// ended by its process id; nothing that the machine's own tgt serves is seen or touched.

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { freePort } from "../sys/index.ts";

const HOST = "127.0.0.1";
const NAME = "iqn.2024-01.io.ringstore:tgt";
/** Its unit 0 is the controller. */
const LUN = 1;
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 10_000;
const POLL_MS = 20;
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
  readonly pid: number;
  private readonly child: ChildProcess;
  private readonly folder: string;
  private stderr = "";

  private constructor(child: ChildProcess, folder: string, port: number) {
    this.child = child;
    this.folder = folder;
    this.pid = child.pid ?? 0;
    this.url = `iscsi://${HOST}:${port}/${NAME}/${LUN}`;
    child.on("error", (error) => {
      this.stderr += error.message;
    });
    child.stderr?.on("data", (text: Buffer) => {
      this.stderr += text.toString("utf8").slice(0, 4096);
    });
  }

  /** Wants root, as tgtd does. */
  static async start({ path, store }: TgtOptions): Promise<Tgt> {
    if (process.getuid?.() !== 0) throw new Error("tgtd runs as root alone: run this as root");
    const port = freePort(HOST);
    const folder = mkdtempSync(join(tmpdir(), "ringstore-tgt-"));
    const args = ["-f", "-C", CONTROL, "--iscsi", `portal=${HOST}:${port}`];
    const child = spawn("tgtd", args, {
      env: environment(folder),
      stdio: ["ignore", "ignore", "pipe"],
    });
    const tgt = new Tgt(child, folder, port);
    try {
      await tgt.untilAnswers();
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

  private async untilAnswers(): Promise<void> {
    const deadline = Date.now() + START_TIMEOUT_MS;
    for (;;) {
      try {
        await this.admin(["--op", "show", "--mode", "sys"]);
        return;
      } catch (error) {
        const isOver = this.child.exitCode !== null || Date.now() > deadline;
        if (isOver) throw new Error(`tgtd does not answer: ${this.stderr}${error}`);
      }
      await sleep(POLL_MS);
    }
  }

  private async admin(args: readonly string[]): Promise<string> {
    const all = ["-C", CONTROL, "--lld", "iscsi", ...args];
    const { stdout } = await run("tgtadm", all, { env: environment(this.folder) });
    return stdout;
  }

  async stop(): Promise<void> {
    const { child } = this;
    if (child.exitCode === null && child.signalCode === null && this.pid !== 0) {
      const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
      // It takes SIGTERM only without sessions, and writes nothing at its end.
      child.kill("SIGKILL");
      await Promise.race([ended, sleep(STOP_TIMEOUT_MS)]);
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Its control socket lies in a folder of ours. */
function environment(folder: string): NodeJS.ProcessEnv {
  return { ...process.env, TGT_IPC_SOCKET: join(folder, "socket") };
}
