// npm run bench:meta: a thousand volumes of 1 TB created in the embedded metadata server and in
// etcd, through the client that daemons use. Writes docs/bench/meta.md.
//
// Options: --volumes N (1000), --clients N (8), --out FOLDER, --dry.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { formatBytes, TIB } from "../base/index.ts";
import { type EtcdMetaStore, MetaKeys, type Swap, swapMany, volumeCodec } from "../meta/index.ts";
import type { MetaWrite } from "../ports/index.ts";
import { PROJECT_FOLDER } from "../testing/daemon.ts";
import { type MetaKind, MetaProcess } from "../testing/meta/meta-process.ts";
import { SampleCluster, uuid } from "../testing/meta/sample-cluster.ts";
import { describeMachine, loadText } from "./machine.ts";

const { values } = parseArgs({
  options: {
    volumes: { type: "string", default: "1000" },
    clients: { type: "string", default: "8" },
    out: { type: "string", default: join(PROJECT_FOLDER, "docs", "bench") },
    dry: { type: "boolean", default: false },
  },
});
const volumeCount = Number(values.volumes);
const clientCount = Number(values.clients);
const SWAPS = 200;

interface Figures {
  readonly createMs: number;
  readonly swapMs: number;
  readonly nodeLossMs: number;
  readonly listMs: number;
  readonly restartMs: number;
  readonly folderBytes: number;
  readonly memoryBytes: number;
}

const keys = new MetaKeys();
const nodes = 20;
const sample = new SampleCluster(keys, {
  nodes,
  disksPerNode: 8,
  diskBytes: Math.ceil((volumeCount * 4) / (nodes * 8)) * TIB,
  volumes: volumeCount,
  volumeBytes: TIB,
});
const base = sample.base();
const volumes = Array.from({ length: volumeCount }, (_, index) => sample.volume(index));

function bytesOf(writes: readonly MetaWrite[]): number {
  return writes.reduce((sum, { key, value }) => sum + key.length + (value?.length ?? 0), 0);
}

async function timed(act: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await act();
  return performance.now() - startMs;
}

async function create(store: EtcdMetaStore, writes: readonly MetaWrite[]): Promise<void> {
  const guards = writes.map(({ key }) => ({ key, modRevision: 0 }));
  const { outcome } = await store.transact({ guards, writes });
  if (outcome !== "applied") throw new Error(`a volume could not be created: ${outcome}`);
}

/** What the loss of a node writes: every volume with a copy there gets a member out. */
async function loseNode(store: EtcdMetaStore): Promise<void> {
  const { entries } = await store.list(keys.volumes);
  const swaps: Swap[] = entries
    .filter(({ key }) => key.endsWith("/record"))
    .map(({ key, value, modRevision }) => {
      const record = volumeCodec.decode(key, value);
      const { disk } = { disk: record.members[0]! };
      const sinceStamp = { epoch: 1, sequence: 1 };
      const out = [{ disk, sinceStamp, reason: "failed", since: record.createdAt } as const];
      const membershipVersion = record.membershipVersion + 1;
      return { key, modRevision, value: volumeCodec.encode({ ...record, out, membershipVersion }) };
    });
  const answers = await swapMany(store, swaps, () => false);
  if (answers.some((answer) => answer.outcome !== "applied")) throw new Error("a swap met another");
}

async function swapAlone(store: EtcdMetaStore): Promise<void> {
  const key = keys.liveNode(uuid(1, 0));
  let modRevision = 0;
  for (let index = 0; index < SWAPS; index++) {
    const outcome = await store.compareAndSwap(key, modRevision, Buffer.from("{}"));
    if (outcome.outcome !== "applied") throw new Error("nobody else swaps here");
    modRevision = outcome.revision;
  }
}

async function measure(kind: MetaKind): Promise<Figures> {
  const server = await MetaProcess.start(kind);
  const stores = Array.from({ length: clientCount }, () => server.connect());
  try {
    const store = stores[0]!;
    await store.transact({ guards: [], writes: base.slice(0, 100) });
    for (let from = 100; from < base.length; from += 100) {
      await store.transact({ guards: [], writes: base.slice(from, from + 100) });
    }
    let next = 0;
    const createMs = await timed(() =>
      Promise.all(
        stores.map(async (one) => {
          while (next < volumes.length) await create(one, volumes[next++]!);
        }),
      ),
    );
    const swapMs = (await timed(() => swapAlone(store))) / SWAPS;
    const nodeLossMs = await timed(() => loseNode(store));
    const listMs = await timed(() => store.list(keys.root));
    const status = readFileSync(`/proc/${server.pid}/status`, "utf8");
    const memoryBytes = Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
    const folder = execFileSync("du", ["-s", "--block-size=1", server.directory]).toString();
    await server.kill("SIGKILL");
    const restartMs = await timed(() => server.launch());
    const folderBytes = Number.parseInt(folder, 10);
    return { createMs, swapMs, nodeLossMs, listMs, restartMs, folderBytes, memoryBytes };
  } finally {
    for (const store of stores) store.close();
    await server.stop();
  }
}

function render(results: readonly (readonly [MetaKind, Figures])[]): string {
  const row = (name: string, cell: (figures: Figures) => string): string =>
    `| ${name} | ${results.map(([, figures]) => cell(figures)).join(" | ")} |`;
  const ms = (value: number): string => `${value.toFixed(value < 100 ? 1 : 0)} ms`;
  const perVolume = volumes.reduce((sum, writes) => sum + bytesOf(writes), 0) / volumeCount;
  const machine = describeMachine();
  return [
    "# Metadata: the embedded server and etcd",
    "",
    `Written by \`npm run bench:meta\`: ${volumeCount} volumes of 1 TiB with two replicas on`,
    `${nodes} nodes with 8 disks each, created by ${clientCount} clients, one transaction each.`,
    `One run each, one after the other, on ${machine.cpu}, ${machine.cpuCount} CPUs, Linux`,
    `${machine.kernel}, Node ${machine.node}, ${machine.date}, commit ${machine.commit}.`,
    loadText(),
    "",
    `A volume is ${volumes[0]!.length} keys and ${Math.round(perVolume)} bytes of keys and values.`,
    "",
    `| | ${results.map(([kind]) => kind).join(" | ")} |`,
    `| --- | ${results.map(() => "---:").join(" | ")} |`,
    row(`${volumeCount} volumes created`, ({ createMs }) => ms(createMs)),
    row("one swap after another, each", ({ swapMs }) => ms(swapMs)),
    row(`a member out in all ${volumeCount} records`, ({ nodeLossMs }) => ms(nodeLossMs)),
    row("everything listed", ({ listMs }) => ms(listMs)),
    row("killed, started, and answering", ({ restartMs }) => ms(restartMs)),
    row("its folder", ({ folderBytes }) => formatBytes(folderBytes)),
    row("its memory (RSS)", ({ memoryBytes }) => formatBytes(memoryBytes)),
    "",
  ].join("\n");
}

const results: [MetaKind, Figures][] = [];
for (const kind of ["embedded", "etcd"] as const) results.push([kind, await measure(kind)]);
const report = render(results);
process.stdout.write(report);
if (!values.dry) {
  mkdirSync(values.out, { recursive: true });
  writeFileSync(join(values.out, "meta.md"), report);
}
