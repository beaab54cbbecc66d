// Which reactor takes the next volume: the one with the fewest.

import type { ReactorThread } from "./reactor-thread.ts";

/** `used`: the thread of each volume that is open or being opened. */
export function leastLoaded(
  threads: readonly ReactorThread[],
  used: Iterable<ReactorThread>,
): ReactorThread {
  const loads = new Map(threads.map((thread) => [thread, 0]));
  for (const thread of used) loads.set(thread, (loads.get(thread) as number) + 1);
  let best = threads[0] as ReactorThread;
  for (const [thread, load] of loads) {
    if (load < (loads.get(best) as number)) best = thread;
  }
  return best;
}
