// Task management (SAM-5 clause 7): which tasks a function stops, and the wait until each of them
// has really ended. Only then is the function answered, or the command that caused it.

import type { ScsiEngine } from "./engine.ts";
import type { LogicalUnit, NexusLink } from "./logical-unit.ts";
import { UA_NEXUS_LOSS } from "./sense.ts";
import type { ScsiTarget } from "./target.ts";
import {
  type ManagementHandler,
  TMF_ABORT_TASK,
  TMF_ABORT_TASK_SET,
  TMF_CLEAR_TASK_SET,
  TMF_COMPLETE,
  TMF_I_T_NEXUS_RESET,
  TMF_INCORRECT_LUN,
  TMF_LOGICAL_UNIT_RESET,
  TMF_QUERY_TASK,
  TMF_QUERY_TASK_SET,
  TMF_REJECTED,
  TMF_SUCCEEDED,
  TMF_TARGET_RESET,
} from "./task.ts";

interface Wait {
  readonly left: Set<number>;
  readonly done: () => void;
}

/** Who waits for which tasks to end. */
export class AbortList {
  pendingCount = 0;
  private readonly engine: ScsiEngine;
  private waits: Wait[] = [];

  constructor(engine: ScsiEngine) {
    this.engine = engine;
  }

  /** Stops `tasks`; `done` is called when all have ended, at once if they have. */
  abort(tasks: readonly number[], done: () => void): void {
    if (tasks.length === 0) {
      done();
      return;
    }
    this.waits.push({ left: new Set(tasks), done });
    this.pendingCount += 1;
    for (const task of tasks) {
      // Ending one task may have ended others.
      if (this.engine.links[task] !== null) this.engine.abort(task);
    }
  }

  abortNexuses(unit: LogicalUnit, ids: readonly string[], done: () => void): void {
    this.abort(
      this.tasksOf(unit, (link) => ids.includes(link.nexus.id)),
      done,
    );
  }

  taskEnded(task: number): void {
    const ended: Wait[] = [];
    for (const wait of this.waits) {
      if (wait.left.delete(task) && wait.left.size === 0) ended.push(wait);
    }
    if (ended.length === 0) return;
    this.waits = this.waits.filter((wait) => !ended.includes(wait));
    this.pendingCount = this.waits.length;
    for (const wait of ended) wait.done();
  }

  tasksOf(unit: LogicalUnit, isMeant: (link: NexusLink) => boolean): number[] {
    const found: number[] = [];
    for (let task = unit.firstTask; task >= 0; task = this.engine.order.after(task)) {
      if (isMeant(this.engine.links[task] as NexusLink)) found.push(task);
    }
    return found;
  }
}

/** A task management request as a transport has it. */
export interface ManagementRequest {
  /** Index of the nexus that it came from. */
  readonly nexus: number;
  /** LUN_BYTES; not looked at for functions that concern a target or a nexus. */
  readonly lun: Uint8Array;
  /** A TMF_... */
  readonly management: number;
  /** ABORT TASK, QUERY TASK: the task, or -1 when the transport knows it to be none. */
  readonly task: number;
}

/**
 * Performs a function; `handler` hears the response, at once or when the tasks have ended. Their
 * taskAborted calls come before.
 */
export function manage(
  engine: ScsiEngine,
  request: ManagementRequest,
  handler: ManagementHandler,
  tag: number,
): void {
  const place = engine.places[request.nexus];
  if (place === null || place === undefined) {
    handler.managementDone(tag, TMF_REJECTED);
    return;
  }
  const { nexus, target } = place;
  const answer = (response: number): void => handler.managementDone(tag, response);
  if (request.management === TMF_TARGET_RESET) {
    resetUnits(engine, target.units, () => answer(TMF_COMPLETE));
    return;
  }
  if (request.management === TMF_I_T_NEXUS_RESET) {
    loseNexus(engine, target, request.nexus, () => answer(TMF_COMPLETE));
    return;
  }
  const link = target.findLink(nexus, request.lun, 0);
  if (link.isAbsent) {
    answer(TMF_INCORRECT_LUN);
    return;
  }
  manageUnit(engine, link, request, answer);
}

function manageUnit(
  engine: ScsiEngine,
  link: NexusLink,
  request: ManagementRequest,
  answer: (response: number) => void,
): void {
  const { task } = request;
  const isHere = task >= 0 && task < engine.tasks.capacity && engine.links[task] === link;
  const own = (): number[] => engine.aborts.tasksOf(link.unit, (one) => one === link);
  switch (request.management) {
    case TMF_ABORT_TASK:
      engine.aborts.abort(isHere ? [task] : [], () => answer(TMF_COMPLETE));
      return;
    case TMF_ABORT_TASK_SET:
    case TMF_CLEAR_TASK_SET:
      // TST is 001b: the task set is that of the nexus.
      engine.aborts.abort(own(), () => answer(TMF_COMPLETE));
      return;
    case TMF_LOGICAL_UNIT_RESET:
      resetUnits(engine, [link.unit], () => answer(TMF_COMPLETE));
      return;
    case TMF_QUERY_TASK:
      answer(isHere ? TMF_SUCCEEDED : TMF_COMPLETE);
      return;
    case TMF_QUERY_TASK_SET:
      answer(own().length > 0 ? TMF_SUCCEEDED : TMF_COMPLETE);
      return;
    default:
      // CLEAR ACA among them: NORMACA is 0.
      answer(TMF_REJECTED);
  }
}

function resetUnits(
  engine: ScsiEngine,
  units: readonly (LogicalUnit | null)[],
  done: () => void,
): void {
  const present = units.filter((unit) => unit !== null);
  const tasks = present.flatMap((unit) => engine.aborts.tasksOf(unit, () => true));
  engine.aborts.abort(tasks, () => {
    for (const unit of present) unit.reset();
    done();
  });
}

/** What the loss of a nexus ends (SAM-5 6.3.4), the nexus itself living on. */
function loseNexus(engine: ScsiEngine, target: ScsiTarget, index: number, done: () => void): void {
  const nexus = engine.places[index]?.nexus;
  const links = nexus === undefined ? [] : target.linksOf(nexus);
  const tasks = links.flatMap((link) => engine.aborts.tasksOf(link.unit, (one) => one === link));
  engine.aborts.abort(tasks, () => {
    for (const link of links) {
      if (link.unit.reserver === link) link.unit.reserver = null;
      link.preventsRemoval = false;
      link.attend(UA_NEXUS_LOSS);
    }
    nexus?.copyResults.clear();
    done();
  });
}
