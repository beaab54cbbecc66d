// Starts the first reactor's thread before the main thread has loaded anything else, so that both
// load side by side: guests of a restarted daemon wait for the slower of the two, not for both.
//
// This file is loaded first of all; it imports nothing but Node.

import { Worker } from "node:worker_threads";

const ENTRY = new URL("./reactor-worker.js", import.meta.url);

let early: Worker | null = null;

export function startReactorEarly(): void {
  early = newReactorWorker(ENTRY);
}

/** The thread that was started early, or a new one. */
export function takeReactorWorker(entry: URL = ENTRY): Worker {
  const worker = early;
  early = null;
  return worker !== null && entry === ENTRY ? worker : newReactorWorker(entry);
}

function newReactorWorker(entry: URL): Worker {
  return new Worker(entry, { name: "reactor" });
}
