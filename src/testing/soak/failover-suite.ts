// Daemons of a cluster that are killed under verified load, in turns: the one with the other copy,
// the owner's (restarted at once, as a supervisor would), the owner's whole host (the volume is
// attached elsewhere). After each, every copy is in sync again before the next.
//
// A pause is what the load saw between the last answer before and the first after. Each kind has
// its goal: 3 s, 1 s, 5 s; what was seen is in the counts.

import { setTimeout as sleep } from "node:timers/promises";
import { MIB, Prng } from "../../base/index.ts";
import { CLUSTER_LOAD, NodeCluster, type VolumeLoad } from "../nodes/node-cluster.ts";
import { Cleanup } from "./cleanup.ts";
import { brokenPromises } from "./loaded-daemon.ts";
import { messageOf, type SuiteContext, type SuiteResult } from "./suite.ts";

const CYCLE_ROUNDS = 15;
const DISK_BYTES: number = 320 * MIB;
const VOLUME_BYTES: number = 32 * MIB;
const VOLUME = "vm";
const WORK_MS_MAX = 1000;
const KINDS = ["replica", "owner", "host"] as const;
type Kind = (typeof KINDS)[number];

class FailoverCycle {
  private readonly cluster: NodeCluster;
  private readonly load: VolumeLoad;
  private readonly prng: Prng;
  private owner = 0;

  constructor(cluster: NodeCluster, load: VolumeLoad, prng: Prng) {
    this.cluster = cluster;
    this.load = load;
    this.prng = prng;
  }

  async round(kind: Kind): Promise<void> {
    const { cluster, load } = this;
    await load.goesOn(this.prng.below(WORK_MS_MAX));
    const holders = await cluster.holders(this.owner, VOLUME);
    if (kind === "replica") {
      const victim = holders.find((index) => index !== this.owner) as number;
      await cluster.kill(victim);
      await load.goesOn(2000 + this.prng.below(WORK_MS_MAX));
      await cluster.restart(victim);
    } else {
      const victim = this.owner;
      await cluster.kill(victim);
      if (kind === "host") {
        const others = [0, 1, 2].filter((index) => index !== victim);
        this.owner = this.prng.pick(others);
        await cluster.attach(this.owner, VOLUME, true);
        await load.goesOn(this.prng.below(WORK_MS_MAX));
      }
      await cluster.restart(victim);
    }
    const wanted = holders.map((index) => [`node${index + 1}`, "in-sync"] as const);
    await cluster.copiesSoon(this.owner, VOLUME, Object.fromEntries(wanted));
    // The next loss meets a load that has gone on.
    await sleep(WORK_MS_MAX);
  }
}

export async function failoverSuite(
  context: SuiteContext,
  failoverCount: number,
): Promise<SuiteResult> {
  const longestMs: Record<Kind, number> = { replica: 0, owner: 0, host: 0 };
  const done: Record<Kind, number> = { replica: 0, owner: 0, host: 0 };
  const broken: string[] = [];
  let verified = 0;
  const total = (): number => done.replica + done.owner + done.host;
  for (let cycle = 0; total() < failoverCount && broken.length === 0; cycle++) {
    if (context.expired()) break;
    const seed = (context.seed + cycle) >>> 0;
    // One kind a cycle, so that the load's longest pause is that kind's.
    const kind = KINDS[cycle % KINDS.length] as Kind;
    const rounds = Math.min(CYCLE_ROUNDS, failoverCount - total());
    const cleanup = new Cleanup();
    try {
      const options = { nodeCount: 3, diskBytes: DISK_BYTES } as const;
      const cluster = await NodeCluster.start(cleanup, options);
      const volume = { name: VOLUME, sizeBytes: VOLUME_BYTES, replicas: 2 };
      await cluster.api(0).createVolume(volume);
      await cluster.attach(0, VOLUME);
      const load = await cluster.load(VOLUME, { ...CLUSTER_LOAD, seed });
      const one = new FailoverCycle(cluster, load, new Prng(seed));
      for (let round = 0; round < rounds && !context.expired(); round++) {
        await one.round(kind);
        done[kind] += 1;
      }
      const report = await load.finish();
      verified += report.verify?.checkedBlocks ?? 0;
      longestMs[kind] = Math.max(longestMs[kind], report.longestPauseMs);
      for (const promise of brokenPromises(report)) broken.push(`seed ${seed}: ${promise}`);
    } catch (error) {
      broken.push(`seed ${seed}, ${kind}: ${messageOf(error)}`);
    }
    await cleanup.run();
    context.say(`failovers: ${total()} of ${failoverCount}, ${broken.length} broken`);
  }
  const kinds = KINDS.map(
    (kind) => `${done[kind]} × ${kind}: longest pause ${longestMs[kind].toFixed(0)} ms`,
  );
  return { counts: `${kinds.join("; ")}; ${verified} blocks verified`, broken };
}
