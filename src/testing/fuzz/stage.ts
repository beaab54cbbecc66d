// Where fuzzing happens: a target with a device to attack and a neighbour, for many rounds. After
// each round the target must live and the neighbour be served; now and then everything that could
// leak is counted.

import assert from "node:assert/strict";
import type { Prng } from "../../base/index.ts";
import { BLK_S_OK } from "../../virtio/index.ts";
import { type Leaks, leaksOf } from "../hostile/scene.ts";
import { Victim } from "../hostile/victim.ts";
import { type PlantedBug, Target } from "../target.ts";
import type { Coverage } from "./coverage.ts";

export const ATTACKED = "attacked";
export const ATTACKED_BYTES: number = 16 * 1024 * 1024;
const ATTACKED_QUEUES = 4;
/**
 * Above what anything takes on a machine that is busy with something else. Only a failure waits so
 * long; half a message is waited for as well, and its session then ends.
 */
const PATIENCE_MS = 30_000;

export interface RoundContext {
  readonly stage: Stage;
  readonly prng: Prng;
  readonly coverage: Coverage;
  /** Which mutation this round emphasises. */
  readonly profile: number;
}

export interface Fuzzer {
  readonly name: string;
  readonly profileCount: number;
  /** Throws when something is wrong. */
  round(context: RoundContext): Promise<void>;
}

export interface StageOptions {
  readonly plantedBug?: PlantedBug | undefined;
  /** How long an answer may take, and ended sessions to be gone. */
  readonly patienceMs?: number | undefined;
}

export class Stage {
  readonly target: Target;
  readonly path: string;
  readonly patienceMs: number;
  private readonly neighbour: Victim;
  private readonly empty: Leaks;

  private constructor(
    parts: Pick<Stage, "target" | "path" | "patienceMs"> & { readonly neighbour: Victim },
    empty: Leaks,
  ) {
    this.target = parts.target;
    this.path = parts.path;
    this.neighbour = parts.neighbour;
    this.patienceMs = parts.patienceMs;
    this.empty = empty;
  }

  static async open(options: StageOptions = {}): Promise<Stage> {
    const { plantedBug, patienceMs = PATIENCE_MS } = options;
    const target = new Target();
    try {
      const neighbour = new Victim(await target.add({ name: "neighbour" }));
      const path = await target.add({
        name: ATTACKED,
        sizeBytes: ATTACKED_BYTES,
        queueCountMax: ATTACKED_QUEUES,
        ...(plantedBug === undefined ? {} : { plantedBug }),
      });
      const idle = await target.until(({ timerCount }) => timerCount === 0, "idle");
      return new Stage({ target, path, neighbour, patienceMs }, leaksOf(idle));
    } catch (error) {
      await target.stop();
      throw error;
    }
  }

  /** The neighbour's guest reads a block. */
  probe(): void {
    const { neighbour } = this;
    const mark = neighbour.memory.mark();
    const answer = neighbour.run(neighbour.read(8, 4096));
    assert.deepEqual(answer, { status: BLK_S_OK, len: 4097 }, "the neighbour was not served");
    neighbour.memory.reset(mark);
  }

  /** Nothing of ended sessions is left. */
  async checkLeaks(): Promise<void> {
    const { target, empty, patienceMs } = this;
    const keys = Object.keys(empty) as (keyof Leaks)[];
    try {
      await target.until(
        (counts) => keys.every((key) => leaksOf(counts)[key] === empty[key]),
        "empty",
        patienceMs,
      );
    } catch {
      assert.deepEqual(leaksOf(await target.counts()), empty, "something was left behind");
    }
    target.log.length = 0;
  }

  async close(): Promise<void> {
    this.neighbour.frontEnd.close();
    this.neighbour.memory.close();
    await this.target.stop();
  }
}
