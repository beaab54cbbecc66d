// npm run bench:boost -- --guests: Ringstore against qemu-storage-daemon as a Linux guest sees
// them. One guest has a disk of each, and runs fio on them in turns. Writes boost-guests.md into
// docs/bench/.
//
// Options: --pairs N (5), --seconds N (2) per fio run, --rows TEXT (only rows whose name contains
// it), --out FOLDER, --dry (no file).

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { fioCommand, parseFio } from "../daemon/show/fio.ts";
import { processCpuUs } from "../load/index.ts";
import { PROJECT_FOLDER } from "../testing/daemon.ts";
import { bootGuest, type Guest } from "../vm/index.ts";
import { BoostTargets } from "./boost-targets.ts";
import {
  GUEST_JOBS,
  type GuestJob,
  type GuestResult,
  type GuestRun,
  renderGuests,
} from "./guests-report.ts";
import { describeMachine, loadText } from "./machine.ts";

/** The daemon's default window: what users get. */
const POLL_US = 50;
const BACKINGS = ["null", "disk"] as const;

const { values } = parseArgs({
  options: {
    guests: { type: "boolean", default: true },
    pairs: { type: "string", default: "5" },
    seconds: { type: "string", default: "2" },
    rows: { type: "string", default: "" },
    out: { type: "string", default: join(PROJECT_FOLDER, "docs", "bench") },
    dry: { type: "boolean", default: false },
  },
});
const pairCount = Number(values.pairs);
const seconds = Number(values.seconds);

/** A back-end's disk as the guest names it, and the process behind it. */
interface Side {
  readonly device: string;
  readonly pid: number;
}

class GuestBench {
  private readonly targets = new BoostTargets({ tmpfsAio: "io_uring" });
  private readonly sides = new Map<string, { readonly ours: Side; readonly theirs: Side }>();
  private guest: Guest | null = null;

  /** Returns what the guest is, in words. */
  async start(): Promise<string> {
    const sockets: string[] = [];
    const side = (socket: string, pid: number): Side => {
      sockets.push(socket);
      return { device: `/dev/vd${"abcd"[sockets.length - 1]}`, pid };
    };
    for (const backing of BACKINGS) {
      const socket = await this.targets.ourSocket(backing, POLL_US);
      const ours = side(socket, this.targets.daemonPid(POLL_US));
      const qsd = await this.targets.qsd(backing);
      this.sides.set(backing, { ours, theirs: side(qsd.socketPath, qsd.pid) });
    }
    const guest = await bootGuest({
      disks: sockets.map((socket) => ({ kind: "vhost-user-blk", socket, queueCount: 1 }) as const),
    });
    this.guest = guest;
    const kernel = (await guest.must("uname -r")).trim();
    const accelerator = guest.accelerator.toUpperCase();
    const qemu = `QEMU ${guest.qemuVersion.text} (${accelerator})`;
    return `The guest: Linux ${kernel}, one CPU, under ${qemu}.`;
  }

  private async run(job: GuestJob, { device, pid }: Side): Promise<GuestRun> {
    const before = processCpuUs(pid);
    const text = await (this.guest as Guest).must(fioCommand(device, seconds, job.options));
    return { fio: parseFio(job.name, text), backendCpuUs: processCpuUs(pid) - before };
  }

  async measure(job: GuestJob): Promise<GuestResult> {
    const { ours, theirs } = this.sides.get(job.backing) as { ours: Side; theirs: Side };
    const pairs: { ours: GuestRun; theirs: GuestRun }[] = [];
    for (let index = 0; index < pairCount; index++) {
      const oursFirst = index % 2 === 0;
      const first = await this.run(job, oursFirst ? ours : theirs);
      const second = await this.run(job, oursFirst ? theirs : ours);
      const pair = oursFirst ? { ours: first, theirs: second } : { ours: second, theirs: first };
      pairs.push(pair);
      process.stderr.write(
        `${job.name}  ${index + 1}/${pairCount}  ` +
          `${pair.ours.fio.iops} against ${pair.theirs.fio.iops} IOPS\n`,
      );
    }
    return { job, pairs };
  }

  async end(): Promise<void> {
    await this.guest?.kill();
    await this.targets.stop();
  }
}

const load = loadText();
const bench = new GuestBench();
try {
  const guest = await bench.start();
  const results: GuestResult[] = [];
  for (const job of GUEST_JOBS.filter(({ name }) => name.includes(values.rows))) {
    results.push(await bench.measure(job));
  }
  const text = renderGuests(results, {
    machine: describeMachine(),
    load,
    pairCount,
    seconds,
    guest,
  });
  process.stdout.write(text);
  if (!values.dry) {
    mkdirSync(values.out, { recursive: true });
    writeFileSync(join(values.out, "boost-guests.md"), text);
  }
} finally {
  await bench.end();
}
