// A thousand disturbances of a daemon under verified load, in cycles: each with a daemon, volumes
// and a seed of its own, and everything read back at its end.

import { Prng } from "../../base/index.ts";
import type { LoadReport } from "../../load/index.ts";
import { Cleanup } from "./cleanup.ts";
import { brokenPromises, type Disturbance, LoadedDaemon, pausesOf } from "./loaded-daemon.ts";
import { memoryFolder } from "./places.ts";
import { diskVolumes, tmpfsVolumes } from "./restart-volumes.ts";
import { messageOf, type SuiteContext, type SuiteResult } from "./suite.ts";

const CYCLE_ROUNDS = 50;
/** How often each comes, of 20. */
const SHARES: readonly (readonly [Disturbance, number])[] = [
  ["kill", 11],
  ["kill-twice", 4],
  ["stop", 2],
  ["pause", 1],
  ["kill-paused", 2],
];
const DECK: readonly Disturbance[] = SHARES.flatMap(([what, share]) => Array(share).fill(what));

export class RestartSuite {
  private readonly context: SuiteContext;
  private readonly counts = new Map<Disturbance, number>();
  private readonly reports: LoadReport[] = [];
  private readonly broken: string[] = [];
  private roundCount = 0;

  constructor(context: SuiteContext) {
    this.context = context;
  }

  async run(roundCount: number): Promise<SuiteResult> {
    const { context } = this;
    for (let cycle = 0; this.roundCount < roundCount; cycle++) {
      if (this.broken.length > 0 || context.expired()) break;
      const left = roundCount - this.roundCount;
      await this.cycle(cycle, Math.min(left, CYCLE_ROUNDS));
    }
    const { count, medianMs, longestMs, tooLongCount } = pausesOf(this.reports);
    const kinds = [...this.counts].map(([what, times]) => `${times} ${what}`).join(", ");
    let checked = 0;
    for (const { verify } of this.reports) checked += verify?.checkedBlocks ?? 0;
    return {
      counts:
        `${this.roundCount} rounds (${kinds}), ${count} pauses of guests: ` +
        `median ${medianMs.toFixed(0)} ms, longest ${longestMs.toFixed(0)} ms, ` +
        `${tooLongCount} above 1 s; ` +
        `${checked} blocks verified`,
      broken: this.broken,
    };
  }

  /** Odd cycles on tmpfs, even ones on the disk. */
  private async cycle(cycle: number, roundCount: number): Promise<void> {
    const { context } = this;
    const seed = (context.seed + cycle) >>> 0;
    const prng = new Prng(seed);
    const cleanup = new Cleanup();
    try {
      const volumes = cycle % 2 === 0 ? diskVolumes() : tmpfsVolumes(memoryFolder(cleanup));
      const loaded = await LoadedDaemon.start(cleanup, { volumes, seed });
      for (let round = 0; round < roundCount && !context.expired(); round++) {
        const disturbance = prng.pick(DECK);
        await loaded.round(disturbance);
        this.counts.set(disturbance, (this.counts.get(disturbance) ?? 0) + 1);
        this.roundCount += 1;
      }
      for (const report of await loaded.finish()) {
        this.reports.push(report);
        for (const promise of brokenPromises(report)) this.note(seed, promise);
      }
    } catch (error) {
      this.note(seed, messageOf(error));
    }
    await cleanup.run();
    context.say(`restarts: ${this.roundCount} rounds, longest pause ${this.longestMs()} ms`);
  }

  private longestMs(): number {
    return Math.round(pausesOf(this.reports).longestMs);
  }

  private note(seed: number, problem: string): void {
    this.broken.push(`cycle with seed ${seed}: ${problem}`);
  }
}
