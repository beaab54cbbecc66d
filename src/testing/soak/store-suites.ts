// The store's suites: a daemon that is killed under verified load, the offline checker run on its
// disk after each death; and power cuts of a store on a real file. Both in cycles, each with a disk
// and a seed of its own.

import { join } from "node:path";
import type { LoadReport } from "../../load/index.ts";
import { PowerCuts } from "../store/power-cuts.ts";
import { Cleanup } from "./cleanup.ts";
import { brokenPromises, LoadedDaemon, pausesOf } from "./loaded-daemon.ts";
import { diskFolder } from "./places.ts";
import { checkDiskOffline, STORE_DISK, STORE_VOLUMES } from "./store-volumes.ts";
import { messageOf, type SuiteContext, type SuiteResult } from "./suite.ts";

const CYCLE_ROUNDS = 50;
const CYCLE_CUTS = 50;

export async function storeRestartsSuite(
  context: SuiteContext,
  roundCount: number,
): Promise<SuiteResult> {
  const reports: LoadReport[] = [];
  const broken: string[] = [];
  let done = 0;
  let checkCount = 0;
  for (let cycle = 0; done < roundCount && broken.length === 0 && !context.expired(); cycle++) {
    const seed = (context.seed + cycle) >>> 0;
    const cleanup = new Cleanup();
    const between = async ([path = ""]: readonly string[]): Promise<void> => {
      const found = await checkDiskOffline(path);
      if (found !== "") throw new Error(`the checker: ${found}`);
      checkCount += 1;
    };
    try {
      const disks = [STORE_DISK];
      const options = { volumes: STORE_VOLUMES, seed, disks, between };
      const loaded = await LoadedDaemon.start(cleanup, options);
      const last = Math.min(roundCount, done + CYCLE_ROUNDS);
      for (; done < last && !context.expired(); done++) await loaded.round("kill");
      for (const report of await loaded.finish()) {
        reports.push(report);
        for (const promise of brokenPromises(report)) broken.push(`seed ${seed}: ${promise}`);
      }
      const { usage } = await loaded.api.showDisk("disk1");
      if (usage?.badBlockCount !== 0)
        broken.push(`seed ${seed}: ${usage?.badBlockCount} bad blocks`);
    } catch (error) {
      broken.push(`seed ${seed}: ${messageOf(error)}`);
    }
    await cleanup.run();
    context.say(`store-restarts: ${done} rounds, ${broken.length} broken`);
  }
  const { count, medianMs, longestMs } = pausesOf(reports);
  let verified = 0;
  for (const { verify } of reports) verified += verify?.checkedBlocks ?? 0;
  const pauses = `median ${medianMs.toFixed(0)} ms, longest ${longestMs.toFixed(0)} ms`;
  return {
    counts:
      `${done} kills, the disk checked after ${checkCount} of them, ${count} pauses of guests ` +
      `with the check within: ${pauses}; ${verified} blocks verified`,
    broken,
  };
}

export async function storePowerCutsSuite(
  context: SuiteContext,
  cutCount: number,
): Promise<SuiteResult> {
  const total = { cuts: 0, cutsAtStart: 0, pendingWrites: 0, changedBlocks: 0, checkedSectors: 0 };
  const broken: string[] = [];
  for (let cycle = 0; total.cuts < cutCount && broken.length === 0 && !context.expired(); cycle++) {
    const seed = (context.seed + cycle) >>> 0;
    const cleanup = new Cleanup();
    const path = join(diskFolder(cleanup), "disk");
    const roundCount = Math.min(CYCLE_CUTS, cutCount - total.cuts);
    const cuts = new PowerCuts({ path, seed, roundCount, isOver: context.expired });
    try {
      cuts.run();
    } catch (error) {
      broken.push(messageOf(error));
    }
    for (const name of Object.keys(total) as (keyof typeof total)[]) {
      total[name] += cuts.counts[name];
    }
    await cleanup.run();
    context.say(`store-power-cuts: ${total.cuts} cuts, ${broken.length} broken`);
  }
  const { cuts, cutsAtStart, pendingWrites, changedBlocks, checkedSectors } = total;
  return {
    counts:
      `${cuts} power cuts on a real file (${cutsAtStart} during recovery), ` +
      `${pendingWrites} writes not durable then, ${changedBlocks} blocks dropped or torn, ` +
      `the disk checked after each; ${checkedSectors} sectors verified`,
    broken,
  };
}
