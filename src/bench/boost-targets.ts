// The two back-ends of the Boost comparison, started when first needed and kept for the run: for
// each backing one volume of ours and one export of qemu-storage-daemon, on files of their own that
// were written through once. A daemon per poll window, because that is a setting of the daemon.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LoadReport } from "../load/index.ts";
import { SystemMemory } from "../sys/index.ts";
import { Daemon } from "../testing/daemon.ts";
import { Qsd } from "../testing/qsd.ts";
import { prewrite } from "../testing/store/real-rig.ts";
import { type Backing, FILE_BYTES, type Row } from "./boost-rows.ts";

type Measure = (socketPath: string, work: Row["work"]) => Promise<LoadReport>;

const TMPFS = "/dev/shm";

export class BoostTargets {
  private readonly daemons: Map<number, Daemon> = new Map();
  private readonly sockets: Map<string, string> = new Map();
  private readonly qsds: Map<Backing, Qsd> = new Map();
  private readonly folders: Map<Backing, string> = new Map();
  private readonly files: Map<string, string> = new Map();
  private readonly tmpfsAio: "threads" | "io_uring";

  constructor(options: { readonly tmpfsAio: "threads" | "io_uring" }) {
    this.tmpfsAio = options.tmpfsAio;
  }

  async ours(row: Row, measure: Measure): Promise<LoadReport> {
    const socket = await this.ourSocket(row.backing, row.pollUs);
    return measure(socket, row.work);
  }

  async theirs(row: Row, measure: Measure): Promise<LoadReport> {
    return measure((await this.qsd(row.backing)).socketPath, row.work);
  }

  /** qemu-storage-daemon with one export of that backing. */
  async qsd(backing: Backing): Promise<Qsd> {
    const known = this.qsds.get(backing);
    if (known !== undefined) return known;
    const qsd = await this.startQsd(backing);
    this.qsds.set(backing, qsd);
    return qsd;
  }

  /** Of our daemon with that poll window, once it serves something. */
  daemonPid(pollUs: number): number {
    return this.daemons.get(pollUs)?.pid ?? 0;
  }

  private async startQsd(backing: Backing): Promise<Qsd> {
    if (backing === "null") {
      return Qsd.start({ backing: { kind: "null", sizeBytes: FILE_BYTES }, queueCount: 4 });
    }
    const direct = backing === "disk";
    const aio = direct ? "io_uring" : this.tmpfsAio;
    const path = this.file(backing, "theirs");
    return Qsd.start({ backing: { kind: "file", path, direct, aio }, queueCount: 4 });
  }

  async ourSocket(backing: Backing, pollUs: number): Promise<string> {
    const key = `${backing}-${pollUs}`;
    const known = this.sockets.get(key);
    if (known !== undefined) return known;
    let daemon = this.daemons.get(pollUs);
    if (daemon === undefined) {
      daemon = await Daemon.start({ flags: ["--poll-us", String(pollUs)] });
      this.daemons.set(pollUs, daemon);
    }
    const args =
      backing === "null"
        ? ["--size", String(FILE_BYTES), "--backing", "null"]
        : ["--backing", "file", "--path", this.file(backing, `ours-${pollUs}`)];
    const socket = await daemon.volume(backing, args);
    this.sockets.set(key, socket);
    return socket;
  }

  /** A file whose blocks are all allocated and written. */
  private file(backing: Backing, name: string): string {
    let folder = this.folders.get(backing);
    if (folder === undefined) {
      folder = mkdtempSync(join(backing === "tmpfs" ? TMPFS : tmpdir(), "rs-bench-"));
      this.folders.set(backing, folder);
    }
    const path = join(folder, name);
    if (this.files.has(path)) return path;
    prewrite(path, FILE_BYTES, new SystemMemory());
    this.files.set(path, path);
    return path;
  }

  async stop(): Promise<void> {
    for (const daemon of this.daemons.values()) await daemon.stop();
    for (const qsd of this.qsds.values()) await qsd.stop();
    for (const folder of this.folders.values()) rmSync(folder, { recursive: true, force: true });
  }
}
