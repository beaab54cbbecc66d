// What the threads of a process are doing, in words: for the error when a guest does not answer.
// A machine that computes, one that waits for its disk and one that waits for nobody look alike
// from outside, and are gone before anybody can look.

import { readdirSync, readFileSync } from "node:fs";
import { sleep } from "./_wait.ts";

const SAMPLE_MS = 200;

interface ThreadState {
  readonly name: string;
  readonly state: string;
  /** The kernel function it sleeps in, where the kernel tells. */
  readonly waitsIn: string;
  readonly cpuNs: number;
}

function readState(folder: string): ThreadState | null {
  try {
    const stat = readFileSync(`${folder}/stat`, "utf8");
    const nameEnd = stat.lastIndexOf(")");
    return {
      name: stat.slice(stat.indexOf("(") + 1, nameEnd),
      state: stat[nameEnd + 2] ?? "?",
      waitsIn: readFileSync(`${folder}/wchan`, "utf8").replace(/^0$/, ""),
      cpuNs: Number(readFileSync(`${folder}/schedstat`, "utf8").split(" ")[0]),
    };
  } catch {
    // It ended between the two reads, or the kernel keeps this to itself.
    return null;
  }
}

function readStates(pid: number): ReadonlyMap<string, ThreadState> {
  const states = new Map<string, ThreadState>();
  const tasks = `/proc/${pid}/task`;
  try {
    for (const task of readdirSync(tasks)) {
      const state = readState(`${tasks}/${task}`);
      if (state !== null) states.set(task, state);
    }
  } catch {
    // The process is gone.
  }
  return states;
}

/** Every thread: its name, state, where it sleeps, and its share of a CPU over 200 ms. */
export async function describeThreads(pid: number): Promise<string> {
  const before = readStates(pid);
  const since = performance.now();
  await sleep(SAMPLE_MS);
  const elapsedNs = (performance.now() - since) * 1e6;
  const texts: string[] = [];
  for (const [task, { name, state, waitsIn, cpuNs }] of readStates(pid)) {
    const first = before.get(task);
    const share = first === undefined ? 0 : Math.round(((cpuNs - first.cpuNs) / elapsedNs) * 100);
    texts.push(`${name} ${state}${waitsIn === "" ? "" : ` in ${waitsIn}`}, ${share} % CPU`);
  }
  return texts.length === 0 ? "no such process" : texts.join("; ");
}
