// Rings of stores that are written back before a slice begins: what the last one left in them is
// not the next one's.

import { setTimeout as sleep } from "node:timers/promises";
import type { Daemon } from "../testing/daemon.ts";
import { apiOf } from "../testing/soak/api.ts";

const TIMEOUT_MS = 120_000;
const POLL_MS = 50;
/** An idle store writes back until a quarter of its ring is left. */
const SHARE_IDLE = 0.26;

/** Resolves when the rings of all disks of these daemons are as empty as an idle store's. */
export async function drainRings(daemons: readonly Daemon[]): Promise<void> {
  const deadline = Date.now() + TIMEOUT_MS;
  for (const daemon of daemons) {
    for (;;) {
      const { disks } = await apiOf(daemon).listDisks();
      const isIdle = disks.every(
        ({ usage }) => usage === null || usage.ringUsedBytes < usage.ringBytes * SHARE_IDLE,
      );
      if (isIdle) break;
      if (Date.now() > deadline) throw new Error("the rings are not written back");
      await sleep(POLL_MS);
    }
  }
}
