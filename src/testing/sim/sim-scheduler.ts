// What happens next, from one seed: completions, timers and turns of loops are events of one
// virtual clock; latencies, and the order of what is due at the same time, are drawn from the seed.
//
// Invariant: nothing in a simulation depends on anything but the seed and the program, so the same
// seed gives the same run. A run that does not end fails and names the seed.

import { Prng } from "../../base/index.ts";
import { SimClock } from "./sim-clock.ts";

const STEPS_MAX = 1_000_000;
const LABELS_SHOWN = 12;

export interface SimSchedulerOptions {
  /** Steps of one run before it counts as stuck. */
  readonly stepsMax?: number;
}

/** How an event is set; see SimEvent. */
export interface AfterOptions {
  readonly owner?: unknown;
  readonly isBackground?: boolean;
  readonly label?: string;
}

/** A run did not get where it should: a defect of liveness, or too small a limit. */
export class SimStuck extends Error {
  override readonly name = "SimStuck";
}

/** Something that has work to do between events, in a turn of its own: a reactor. */
export interface SimLoop {
  /** Asked after every step; true schedules a turn, unless one is scheduled. */
  wantsTurn(): boolean;
  scheduleTurn(): void;
}

export class SimScheduler {
  readonly seed: number;
  readonly clock: SimClock = new SimClock();
  /** The seed's own stream; a part that must not shift the others takes a `fork`. */
  readonly prng: Prng;
  private readonly stepsMax: number;
  private readonly loops: SimLoop[] = [];
  stepCount = 0;

  constructor(seed: number, options: SimSchedulerOptions = {}) {
    this.seed = seed;
    this.prng = new Prng(seed);
    this.stepsMax = options.stepsMax ?? STEPS_MAX;
  }

  /** A stream of its own for one part of the simulation; it serves as a Random port. */
  fork(): Prng {
    return new Prng(this.prng.u32());
  }

  /** Calls `action` after `delayUs`. Returns an id for cancel(). */
  after(delayUs: number, action: () => void, options: AfterOptions = {}): number {
    const { owner = null, isBackground = false, label = "event" } = options;
    const priority = this.prng.u32();
    return this.clock.set(this.clock.nowUs() + delayUs, {
      action,
      priority,
      owner,
      isBackground,
      label,
    });
  }

  cancel(id: number): void {
    this.clock.cancel(id);
  }

  /** Cancels everything that was set with this owner. */
  cancelOwned(owner: unknown): void {
    this.clock.cancelOwned(owner);
  }

  addLoop(loop: SimLoop): void {
    this.loops.push(loop);
  }

  removeLoop(loop: SimLoop): void {
    const at = this.loops.indexOf(loop);
    if (at >= 0) this.loops.splice(at, 1);
  }

  private askLoops(): void {
    for (const loop of this.loops) if (loop.wantsTurn()) loop.scheduleTurn();
  }

  /** Lets the next thing happen. False when nothing is left to happen. */
  step(): boolean {
    this.askLoops();
    if (!this.clock.fireNext()) return false;
    this.stepCount += 1;
    this.askLoops();
    return true;
  }

  /** Runs until nothing at all waits, timers included. Returns how many steps that took. */
  runUntilIdle(): number {
    return this.run(() => false, "until idle");
  }

  /** Runs until only background events (timers of reactors) wait. Returns the steps taken. */
  runUntilQuiet(): number {
    return this.run(() => this.clock.foregroundEventCount === 0, "until quiet");
  }

  /** Runs until `condition` holds. Throws SimStuck when everything stops before. */
  runUntil(condition: () => boolean, what = "a condition"): number {
    const steps = this.run(condition, `until ${what}`);
    if (!condition()) throw this.stuck(`nothing is left to happen, waiting for ${what}`);
    return steps;
  }

  /** Runs for so much virtual time, and leaves the clock there. */
  runFor(us: number): number {
    const untilUs = this.clock.nowUs() + us;
    const isOver = (): boolean => (this.clock.peek()?.dueUs ?? Infinity) > untilUs;
    const steps = this.run(isOver, `for ${us} us`);
    this.clock.advance(untilUs - this.clock.nowUs());
    return steps;
  }

  private run(isOver: () => boolean, what: string): number {
    this.askLoops();
    for (let steps = 0; ; steps++) {
      if (isOver() || this.clock.eventCount === 0) return steps;
      if (steps === this.stepsMax) throw this.stuck(`${steps} steps were not enough ${what}`);
      this.step();
    }
  }

  private stuck(reason: string): SimStuck {
    const labels = Array.from(this.clock.events(), (event) => event.label);
    const shown = labels.slice(0, LABELS_SHOWN).join(", ");
    const more = labels.length > LABELS_SHOWN ? ` and ${labels.length - LABELS_SHOWN} more` : "";
    const waiting = labels.length === 0 ? "nothing waits" : `waiting: ${shown}${more}`;
    return new SimStuck(`seed ${this.seed}, ${this.clock.nowUs()} us: ${reason}; ${waiting}`);
  }
}
