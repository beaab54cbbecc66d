// A hundred attached volumes, some with a guest that does nothing, cost less than 1 % of one core.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../../base/index.ts";
import type { VolumeCreate } from "../../model/types.ts";
import { Daemon } from "../daemon.ts";
import { apiOf, attachVolumes } from "../soak/api.ts";
import { cleanupOf } from "../soak/cleanup.ts";
import { formatShares, idleShares } from "../soak/idle-share.ts";
import { QuietGuest } from "../soak/quiet-guest.ts";

const VOLUME_COUNT = 100;
const GUEST_COUNT = 20;
const KINDS = ["file", "file", "memory", "null"] as const;
/**
 * What attaching and connecting left to do is done by then, the compiler's work on what ran hot
 * included: on a slow CPU that alone is 100 ms, spread over seconds.
 */
const SETTLE_MS = 10_000;
const SHARE_MAX = 0.01;

test("100 attached volumes without I/O: below 1 % of a core", async (t) => {
  const cleanup = cleanupOf(t);
  const daemon = await Daemon.start();
  cleanup.after(() => daemon.stop());
  const volumes = Array.from({ length: VOLUME_COUNT }, (_, index): VolumeCreate => {
    const backing = KINDS[index % KINDS.length] as (typeof KINDS)[number];
    return { name: `v${index}`, sizeBytes: 4 * MIB, backing };
  });
  const api = apiOf(daemon);
  const sockets = await attachVolumes(api, volumes);
  const guests = sockets.slice(0, GUEST_COUNT).map((socket, index) => {
    const guest = QuietGuest.connect(socket, {
      queueCount: 1 + (index % 4),
      packed: index % 2 > 0,
    });
    cleanup.after(() => guest.close());
    return guest;
  });
  // Each has worked before it rests: it is idle, not merely new.
  for (const guest of guests) {
    await guest.write(0, 1);
    await guest.read(0);
  }
  await sleep(SETTLE_MS);
  const shares = await idleShares([daemon], SHARE_MAX, (text) => t.diagnostic(text));
  const { volumes: seen } = await api.status();
  assert.equal(seen.attached, VOLUME_COUNT);
  assert.equal(seen.connected, GUEST_COUNT);
  for (const share of shares) assert.ok(share < SHARE_MAX, formatShares(shares));
  // Idle is not dead.
  for (const guest of guests) await guest.read(0);
});
