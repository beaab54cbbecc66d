// What late DMA needs to show itself. A killed process's reads go on for as long as the disk takes;
// they can only be seen by a successor that answers before they have landed. So:
//
//   - many large reads are in flight: 128 of 256 KiB to 1 MiB, O_DIRECT;
//   - the disk has more to do than that: somebody else reads from it as well (the ballast);
//   - the successor reads through the page cache, where all of the file is: it answers at once.
//
// The guests' side fills each buffer with a pattern when its read has completed and looks again
// half a second later (load/canary.ts).

import {
  closeSync,
  fsyncSync,
  openSync,
  renameSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { KIB, MIB } from "../../base/index.ts";
import {
  type LoadOptions,
  type LoadProcess,
  type LoadReport,
  startLoad,
} from "../../load/index.ts";
import type { VolumeCreate } from "../../model/types.ts";
import { Daemon } from "../daemon.ts";
import { Target } from "../target.ts";
import { apiOf, attachVolumes, untilAnswering } from "./api.ts";
import { Cleanup } from "./cleanup.ts";
import { diskFolder } from "./places.ts";
import { messageOf, type SuiteContext, type SuiteResult } from "./suite.ts";

export const LATE_DMA_FILE_BYTES: number = 384 * MIB;
const BALLAST_FILE_BYTES: number = 256 * MIB;
const BALLAST_DEPTH = 120;
const RUNTIME_MS_MAX = 10 * 60_000;
const POLL_MS = 5;
const NAME = "disk";
/** A daemon has started and asked for the lock by then. */
const STANDBY_MS = 1000;
const TAKEOVER_TIMEOUT_MS = 30_000;
const CYCLE_KILLS = 25;

/** As many and as large as a guest's memory of 1 GiB has room for, with the canary's share. */
export const LATE_DMA_LOAD: Omit<LoadOptions, "socketPath"> = {
  depth: 128,
  blockBytes: 256 * KIB,
  blockBytesMax: MIB,
  alignBytes: 256 * KIB,
  readPercent: 100,
  reconnect: true,
  canary: true,
  warmupMs: 0,
  runtimeMs: RUNTIME_MS_MAX,
};

/** Makes a file that is on the disk, where holes are never read from, and in the page cache. */
export function filledFile(path: string, bytes: number): string {
  const fd = openSync(path, "w");
  const chunk = Buffer.alloc(MIB, 0x3c);
  for (let at = 0; at < bytes; at += MIB) writeSync(fd, chunk);
  fsyncSync(fd);
  closeSync(fd);
  return path;
}

/** Resolves when the load measures; rejects when it ends before. */
export async function startMeasuring(cleanup: Cleanup, options: LoadOptions): Promise<LoadProcess> {
  let line = "";
  const load = startLoad({ ...options, progress: (text) => void (line = text) });
  cleanup.after(() => load.kill());
  let failure: Error | null = null;
  load.report.catch((error: Error) => void (failure = error));
  while (!line.startsWith("run:")) {
    if (failure !== null) throw failure;
    await sleep(POLL_MS);
  }
  return load;
}

/** Keeps the disk under the temporary folder busy until the cleanup. */
export async function startBallast(cleanup: Cleanup): Promise<void> {
  const path = filledFile(join(diskFolder(cleanup), "ballast.img"), BALLAST_FILE_BYTES);
  const target = new Target();
  cleanup.after(() => target.stop());
  const backing = { kind: "file", path, direct: true } as const;
  const socketPath = await target.add({ name: "ballast", backing, sizeBytes: BALLAST_FILE_BYTES });
  const work = { depth: BALLAST_DEPTH, blockBytes: MIB, warmupMs: 0, runtimeMs: RUNTIME_MS_MAX };
  await startMeasuring(cleanup, { socketPath, ...work });
}

/** What is wrong with the report of such a load. */
export function latePages(report: LoadReport): string[] {
  const broken: string[] = [...report.failures];
  const { canary, errorCount } = report;
  if (errorCount > 0) broken.push(`${errorCount} I/O errors`);
  if (canary === null || canary.checkedBuffers === 0) broken.push("no buffer was watched");
  else if (canary.lateWriteCount > 0) broken.push(`${canary.lateWriteCount} pages changed late`);
  return broken;
}

/** A socket of one name that is now one server's, now another's. */
export class MovingSocket {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  pointTo(target: string): void {
    symlinkSync(target, `${this.path}.new`);
    renameSync(`${this.path}.new`, this.path);
  }
}

interface Standby {
  readonly daemon: Daemon;
  readonly socketPath: string;
}

/** A daemon with a data directory of its own that declares the file as its volume. */
async function declaring(
  cleanup: Cleanup,
  dataDirectory: string,
  volume: VolumeCreate,
): Promise<Standby> {
  const daemon = await Daemon.start({ dataDirectory });
  cleanup.after(() => daemon.stop());
  const [socketPath = ""] = await attachVolumes(apiOf(daemon), [volume]);
  return { daemon, socketPath };
}

async function untilReading({ daemon }: Standby): Promise<void> {
  await untilAnswering(daemon);
  const api = apiOf(daemon);
  const deadline = Date.now() + TAKEOVER_TIMEOUT_MS;
  while (!(await api.stats()).volumes.some((volume) => volume.readCount > 0)) {
    if (Date.now() > deadline) throw new Error(`no takeover:\n${daemon.log}`);
    await sleep(POLL_MS);
  }
}

/**
 * Kills a daemon again and again with all those reads in flight, while another one, which has long
 * started, waits for the lock on the file: it has it as soon as it can be had.
 */
export async function killDeepReader(
  cleanup: Cleanup,
  options: { readonly killCount: number; readonly seed: number },
): Promise<LoadReport> {
  const folder = diskFolder(cleanup);
  const stopFile = join(folder, "stop");
  const path = filledFile(join(folder, "volume"), LATE_DMA_FILE_BYTES);
  const cached = await declaring(cleanup, join(folder, "b"), { name: NAME, path, direct: "off" });
  cached.daemon.signal("SIGTERM");
  await cached.daemon.waitForExit();
  const direct = await declaring(cleanup, join(folder, "a"), { name: NAME, path, direct: "on" });
  const socket = new MovingSocket(join(folder, "socket"));
  socket.pointTo(direct.socketPath);
  await startBallast(cleanup);
  const { seed } = options;
  const work = { ...LATE_DMA_LOAD, socketPath: socket.path, stopFile, seed };
  const load = await startMeasuring(cleanup, work);
  const takeOver = async (from: Standby, to: Standby, how: NodeJS.Signals): Promise<void> => {
    await to.daemon.launch();
    await sleep(STANDBY_MS);
    socket.pointTo(to.socketPath);
    from.daemon.signal(how);
    await from.daemon.waitForExit();
    await untilReading(to);
  };
  for (let count = 0; count < options.killCount; count++) {
    await takeOver(direct, cached, "SIGKILL");
    await takeOver(cached, direct, "SIGTERM");
  }
  writeFileSync(stopFile, "");
  return await load.report;
}

export async function lateDmaSuite(context: SuiteContext, killCount: number): Promise<SuiteResult> {
  const broken: string[] = [];
  let done = 0;
  let bufferCount = 0;
  while (done < killCount && broken.length === 0 && !context.expired()) {
    const cleanup = new Cleanup();
    const seed = (context.seed + done) >>> 0;
    const count = Math.min(CYCLE_KILLS, killCount - done);
    try {
      const report = await killDeepReader(cleanup, { killCount: count, seed });
      broken.push(...latePages(report));
      bufferCount += report.canary?.checkedBuffers ?? 0;
      done += count;
    } catch (error) {
      broken.push(messageOf(error));
    }
    await cleanup.run();
    context.say(`late-dma: ${done} kills`);
  }
  const counts =
    `${done} kills with 128 reads of 256 KiB to 1 MiB in flight, ` +
    `${bufferCount} buffers watched`;
  return { counts, broken };
}
