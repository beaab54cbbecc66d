// One run of faults: a cluster with a faulty network, a volume of two copies, a verified load or a
// recorded one, the faults one after the other, and the end: every byte read back, every copy the
// same. Tests and the soak share it; from one seed.

import { join } from "node:path";
import { KIB, MIB, Prng } from "../../base/index.ts";
import { checkHistories } from "../history/check-history.ts";
import { CONTENDED, HistoryClient } from "../history/history-client.ts";
import type { Cleanup } from "../soak/cleanup.ts";
import { brokenPromises } from "../soak/loaded-daemon.ts";
import {
  CLUSTER_LOAD,
  NodeCluster,
  type NodeClusterOptions,
  type VolumeLoad,
} from "./node-cluster.ts";
import { FaultScene, type NodeFault } from "./node-faults.ts";

const DISK_BYTES: number = 128 * MIB;
const VOLUME_BYTES: number = 16 * MIB;
const VOLUME = "vm";
/** Two daemons' disks, proxies and the load share a machine: the load is light. */
const LIGHT = { queueCount: 2, depth: 4, blockBytesMax: 16 * KIB, writeZeroesPercent: 2 } as const;
const HISTORY_BYTES = 30_000;

export interface FaultRunOptions {
  readonly seed: number;
  readonly faults: readonly NodeFault[];
  readonly cluster?: Partial<NodeClusterOptions>;
  /** Overlapping requests, and a checked history of them, instead of the verified load. */
  readonly isRecorded?: boolean;
  readonly say?: (line: string) => void;
}

export interface FaultRunResult {
  readonly broken: readonly string[];
  readonly longestPauseMs: number;
  /** Blocks compared by the load, or sectors by the history's checker. */
  readonly checked: number;
}

/** What drives the volume during a run. */
interface Driver {
  goesOn(milliseconds: number): Promise<void>;
  /** Ends it; requests may have failed where the volume has moved. */
  finish(hasMoved: boolean): Promise<FaultRunResult>;
}

class VerifiedDriver implements Driver {
  private readonly load: VolumeLoad;

  constructor(load: VolumeLoad) {
    this.load = load;
  }

  async goesOn(milliseconds: number): Promise<void> {
    await this.load.goesOn(milliseconds);
  }

  async finish(hasMoved: boolean): Promise<FaultRunResult> {
    const report = await this.load.finish();
    const { verify, canary, longestPauseMs } = report;
    const isWrong = verify?.failureCount !== 0 || canary?.lateWriteCount !== 0;
    const broken = hasMoved && !isWrong ? [] : brokenPromises(report);
    return { broken, longestPauseMs, checked: verify?.checkedBlocks ?? 0 };
  }
}

class RecordedDriver implements Driver {
  private readonly client: HistoryClient;

  constructor(client: HistoryClient) {
    this.client = client;
  }

  async goesOn(milliseconds: number): Promise<void> {
    await this.client.goesOn(milliseconds);
  }

  async finish(hasMoved: boolean): Promise<FaultRunResult> {
    const { report, problem } = await this.client.stop();
    const verdict = checkHistories([this.client.read()]);
    const broken = [...verdict.violations];
    if (report === null) broken.push(problem);
    else if (!hasMoved) broken.push(...report.failures);
    return {
      broken,
      longestPauseMs: report?.longestPauseMs ?? 0,
      checked: verdict.checkedSectors,
    };
  }
}

async function drive(
  cleanup: Cleanup,
  cluster: NodeCluster,
  { seed, isRecorded }: FaultRunOptions,
): Promise<Driver> {
  if (isRecorded !== true) {
    return new VerifiedDriver(await cluster.load(VOLUME, { ...CLUSTER_LOAD, ...LIGHT, seed }));
  }
  const client = new HistoryClient(1, join(cluster.folder, "history"), {
    ...CONTENDED,
    socketPath: cluster.link(VOLUME),
    reconnect: true,
    reconnectTimeoutMs: 60_000,
    stallTimeoutMs: 60_000,
    readBack: true,
    seed,
  });
  cleanup.after(() => client.kill());
  await client.more(HISTORY_BYTES);
  return new RecordedDriver(client);
}

/** Rejects when the cluster does not recover; what was broken otherwise is in the result. */
export async function runFaults(
  cleanup: Cleanup,
  options: FaultRunOptions,
): Promise<FaultRunResult> {
  const { seed, faults, say = () => undefined } = options;
  const cluster = await NodeCluster.start(cleanup, {
    nodeCount: 3,
    diskBytes: DISK_BYTES,
    hasFaultyNetwork: true,
    ...options.cluster,
  });
  await cluster.api(0).createVolume({ name: VOLUME, sizeBytes: VOLUME_BYTES, replicas: 2 });
  await cluster.attach(0, VOLUME);
  const driver = await drive(cleanup, cluster, options);
  const goesOn = (milliseconds: number): Promise<void> => driver.goesOn(milliseconds);
  const scene = new FaultScene(cluster, { volume: VOLUME, prng: new Prng(seed), goesOn });
  for (const fault of faults) {
    const beganMs = performance.now();
    try {
      await scene.meet(fault);
    } catch (error) {
      throw new Error(`${fault.name}: ${(error as Error).message}`);
    }
    say(`${fault.name}: ${((performance.now() - beganMs) / 1000).toFixed(1)} s`);
  }
  const result = await driver.finish(faults.some(({ isMove }) => isMove));
  const withData = await cluster.compareCopies(VOLUME);
  if (withData > 0 && result.checked > 0) return result;
  return { ...result, broken: [...result.broken, "nothing was compared"] };
}
