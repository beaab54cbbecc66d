// Faults of every kind, drawn at random and met one after the other by a cluster of real processes
// under load: network, metadata, processes, disks, volumes that move. Each cycle is a cluster of its
// own; half of them compare what they read with what they wrote, half record what overlapping
// requests were told and check that for linearizability. Every second cycle has etcd.
//
// `--suite cluster-faults --seed N --faults COUNT` does the same again, as far as clocks allow.

import { Prng } from "../../base/index.ts";
import { runFaults } from "../nodes/fault-run.ts";
import {
  DISK_FAULTS,
  METADATA_FAULTS,
  MOVES,
  NETWORK_FAULTS,
  PROCESS_FAULTS,
} from "../nodes/node-faults.ts";
import { Cleanup } from "./cleanup.ts";
import { messageOf, type SuiteContext, type SuiteResult } from "./suite.ts";

const CYCLE_FAULTS = 12;
const FAULTS = [...NETWORK_FAULTS, ...METADATA_FAULTS, ...PROCESS_FAULTS, ...DISK_FAULTS, ...MOVES];
const WITHOUT_MOVES = FAULTS.filter(({ isMove }) => !isMove);

export async function clusterFaultsSuite(
  context: SuiteContext,
  faultCount: number,
): Promise<SuiteResult> {
  const broken: string[] = [];
  let met = 0;
  let checked = 0;
  let longestPauseMs = 0;
  for (let cycle = 0; met < faultCount && broken.length === 0; cycle++) {
    if (context.expired()) break;
    const seed = (context.seed + cycle) >>> 0;
    const prng = new Prng(seed);
    // Where nothing moves, no request may fail at all.
    const from = cycle % 3 === 0 ? WITHOUT_MOVES : FAULTS;
    const count = Math.min(CYCLE_FAULTS, faultCount - met);
    const faults = Array.from({ length: count }, () => prng.pick(from));
    const cleanup = new Cleanup();
    try {
      const result = await runFaults(cleanup, {
        seed,
        faults,
        isRecorded: cycle % 2 === 1,
        cluster: { metadata: cycle % 4 < 2 ? "embedded" : "etcd" },
        say: (line) => context.say(`  ${line}`),
      });
      checked += result.checked;
      longestPauseMs = Math.max(longestPauseMs, result.longestPauseMs);
      for (const one of result.broken) broken.push(`seed ${seed}: ${one}`);
    } catch (error) {
      broken.push(`seed ${seed}: ${messageOf(error)}`);
    }
    await cleanup.run();
    met += count;
    context.say(`cluster faults: ${met} of ${faultCount}, ${broken.length} broken`);
  }
  const pause = `longest pause ${longestPauseMs.toFixed(0)} ms`;
  return { counts: `${met} faults; ${pause}; ${checked} blocks or sectors checked`, broken };
}
