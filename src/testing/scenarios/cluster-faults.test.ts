// Faults of network, metadata, processes and disks under verified load, with real processes: what a
// guest sees is a pause. Every byte that was acknowledged is on every copy at the end. The faults are
// in testing/nodes/node-faults.ts; the soak (`cluster-faults`) mixes them at random.

import assert from "node:assert/strict";
import { test } from "node:test";
import { type FaultRunOptions, runFaults } from "../nodes/fault-run.ts";
import {
  DISK_FAULTS,
  METADATA_FAULTS,
  MOVES,
  NETWORK_FAULTS,
  PROCESS_FAULTS,
} from "../nodes/node-faults.ts";
import { cleanupOf } from "../soak/cleanup.ts";

/** A loaded machine takes long; a fault that is not overcome takes for ever. */
const PAUSE_MS_MAX = 30_000;
const LIMIT = { timeout: 400_000 } as const;
const SEED = 20261128;

const RUNS: readonly (Omit<FaultRunOptions, "seed"> & { readonly name: string })[] = [
  { name: "the network between nodes is cut, one way and both", faults: NETWORK_FAULTS },
  {
    name: "the metadata is cut off, stands still, is killed, crawls; etcd",
    faults: METADATA_FAULTS,
    cluster: { metadata: "etcd" },
  },
  {
    name: "daemons stand still or are killed, disks refuse writes; recorded",
    faults: [...PROCESS_FAULTS, ...DISK_FAULTS],
    isRecorded: true,
  },
  { name: "an owner that is cut off, asleep or lost is taken over", faults: MOVES },
];

for (const { name, ...options } of RUNS) {
  test(name, LIMIT, async (t) => {
    const say = (line: string): void => t.diagnostic(line);
    const result = await runFaults(cleanupOf(t), { seed: SEED, say, ...options });
    assert.deepEqual(result.broken, []);
    t.diagnostic(`longest pause ${result.longestPauseMs.toFixed(0)} ms`);
    assert.ok(result.longestPauseMs < PAUSE_MS_MAX, `a pause of ${result.longestPauseMs} ms`);
  });
}
