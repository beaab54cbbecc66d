// From a trace back to media: what a crash behind any prefix leaves, given what becomes of the writes
// that were not durable then.

import { assert } from "../../base/index.ts";
import { applyChoice, type CrashChoice, sameFate } from "./crash-choice.ts";
import type { BlockStore } from "./sim-blocks.ts";
import { SimMedia } from "./sim-media.ts";
import type { SimTrace, SimTraceEvent } from "./sim-trace.ts";
import { WriteHistory } from "./write-history.ts";

/** What is durable and what is not after the first `count` events. */
export function replayHistory(
  trace: SimTrace,
  count: number,
  base: BlockStore = trace.base,
): WriteHistory {
  assert(count >= 0 && count <= trace.events.length, "a prefix longer than the trace");
  const history = new WriteHistory(base.fork());
  for (let index = 0; index < count; index++) replayEvent(history, trace.events[index]);
  return history;
}

function replayEvent(history: WriteHistory, event: SimTraceEvent): void {
  if (event.type === "submit") history.submit(event.operation, event.kind, event.persist);
  else if (event.type === "data") history.data(event.operation, event.fragment);
  else if (event.type === "complete") history.complete(event.operation, event.result);
}

/**
 * The medium after a crash behind the first `count` events, when the writes that are not durable
 * then meet `choice` ("none": all are lost).
 */
export function replayPrefix(
  trace: SimTrace,
  count: number,
  choice: CrashChoice | "none" | "whole",
  base: BlockStore = trace.base,
): SimMedia {
  const { durable, pending } = replayHistory(trace, count, base);
  const store = durable.fork();
  applyChoice(store, pending, typeof choice === "string" ? sameFate(pending, choice) : choice);
  return SimMedia.over(store, trace);
}

/**
 * The prefixes that matter: before each event that makes something durable, and the end. Between
 * two of them only new bytes arrive and acknowledgements are given, so whatever can be found at a
 * prefix left out can be found at the next of these, where no less must hold.
 */
export function crashPoints(trace: SimTrace): number[] {
  const points: number[] = [];
  const history = new WriteHistory(trace.base.fork());
  for (const [index, event] of trace.events.entries()) {
    const { version } = history;
    replayEvent(history, event);
    if (history.version !== version) points.push(index);
  }
  points.push(trace.events.length);
  return points;
}
