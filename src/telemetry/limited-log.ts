// A Log in front of another that lets each event through only so often: for lines that a guest,
// an initiator or a broken network can cause. One per guest, so that a noisy one does not hide the
// same event of its neighbour.
//
// Invariants:
//  - per event at most `lineCountMax` lines per window, then one line that says how many were
//    held back, written when the window ends (by the next line of that event, or by flush());
//  - the number of events remembered is bounded; events beyond it share one budget, because an
//    event's name should be a constant, and a name that a guest can invent must not fill memory.

import { assert } from "../base/index.ts";
import type { Clock, Log, LogFields, LogLevel } from "../ports/index.ts";

const WINDOW_MS_DEFAULT = 60_000;
const LINE_COUNT_MAX_DEFAULT = 10;
const EVENT_COUNT_MAX = 64;
const OTHER_EVENTS = "other events";

export interface LimitedLogOptions {
  readonly lineCountMax?: number;
  readonly windowMs?: number;
  /** Added to every line, e.g. the volume's name. */
  readonly fields?: LogFields;
}

interface Budget {
  readonly event: string;
  windowStartUs: number;
  lineCount: number;
  heldBackCount: number;
  heldBackLevel: LogLevel;
}

export class LimitedLog implements Log {
  private readonly target: Log;
  private readonly clock: Clock;
  private readonly lineCountMax: number;
  private readonly windowUs: number;
  private readonly fields: LogFields;
  private readonly budgets: Map<string, Budget> = new Map();

  constructor(options: LimitedLogOptions, modules: { readonly log: Log; readonly clock: Clock }) {
    this.target = modules.log;
    this.clock = modules.clock;
    this.lineCountMax = options.lineCountMax ?? LINE_COUNT_MAX_DEFAULT;
    this.windowUs = (options.windowMs ?? WINDOW_MS_DEFAULT) * 1000;
    this.fields = options.fields ?? {};
    assert(this.lineCountMax > 0, "a limited log that lets nothing through");
    assert(this.windowUs > 0, "a limited log without a window");
  }

  log(level: LogLevel, event: string, fields: LogFields = {}): void {
    const nowUs = this.clock.nowUs();
    const budget = this.budgetOf(event, nowUs);
    if (nowUs - budget.windowStartUs >= this.windowUs) this.renew(budget, nowUs);
    if (budget.lineCount >= this.lineCountMax) {
      budget.heldBackCount += 1;
      budget.heldBackLevel = level;
      return;
    }
    budget.lineCount += 1;
    this.target.log(level, event, { ...this.fields, ...fields });
  }

  /** Reports what was held back in windows that are over. For a slow timer, and before closing. */
  flush(options: { readonly isClosing: boolean } = { isClosing: false }): void {
    const nowUs = this.clock.nowUs();
    for (const [event, budget] of this.budgets) {
      const isOver = nowUs - budget.windowStartUs >= this.windowUs;
      if (!isOver && !options.isClosing) continue;
      this.renew(budget, nowUs);
      // A quiet event need not be remembered.
      this.budgets.delete(event);
    }
  }

  private renew(budget: Budget, nowUs: number): void {
    if (budget.heldBackCount > 0) {
      const seconds = Math.round((nowUs - budget.windowStartUs) / 1_000_000);
      this.target.log(budget.heldBackLevel, "log lines held back", {
        ...this.fields,
        of: budget.event,
        heldBack: budget.heldBackCount,
        seconds,
      });
    }
    budget.windowStartUs = nowUs;
    budget.lineCount = 0;
    budget.heldBackCount = 0;
  }

  private budgetOf(event: string, nowUs: number): Budget {
    const known = this.budgets.get(event);
    if (known !== undefined) return known;
    const name = this.budgets.size < EVENT_COUNT_MAX ? event : OTHER_EVENTS;
    let budget = this.budgets.get(name);
    if (budget === undefined) {
      budget = {
        event: name,
        windowStartUs: nowUs,
        lineCount: 0,
        heldBackCount: 0,
        heldBackLevel: "info",
      };
      this.budgets.set(name, budget);
    }
    return budget;
  }
}
