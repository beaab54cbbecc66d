// What daemons cost that have nothing to do, in shares of a core. Whatever else the machine does
// only adds to it (caches, slower clocks, the compiler's late work), so the cheapest window counts,
// and another window is looked at while a daemon is above what is promised.

import { setTimeout as sleep } from "node:timers/promises";

/** Longer than the longest period of anything that a daemon does by itself. */
const WINDOW_MS = 15_500;
const WINDOWS_MAX = 4;

interface Measured {
  /** CPU time that it has used since its start. */
  cpuUs(): number;
}

/** The share of each, in its cheapest window; `tell` gets every window's. */
export async function idleShares(
  processes: readonly Measured[],
  shareMax: number,
  tell: (text: string) => void,
): Promise<readonly number[]> {
  let lowest = processes.map(() => Number.POSITIVE_INFINITY);
  for (let window = 0; window < WINDOWS_MAX; window += 1) {
    const before = processes.map((one) => one.cpuUs());
    const beganMs = performance.now();
    await sleep(WINDOW_MS);
    const tookUs = (performance.now() - beganMs) * 1000;
    const shares = processes.map((one, at) => (one.cpuUs() - (before[at] as number)) / tookUs);
    tell(`${formatShares(shares)} of a core`);
    lowest = lowest.map((share, at) => Math.min(share, shares[at] as number));
    if (lowest.every((share) => share < shareMax)) break;
  }
  return lowest;
}

export function formatShares(shares: readonly number[]): string {
  return shares.map((share) => `${(share * 100).toFixed(2)} %`).join(", ");
}
