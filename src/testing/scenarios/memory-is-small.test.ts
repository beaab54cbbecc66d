// A daemon with one reactor and ten attached volumes stays below 200 MB; each further attached
// volume takes less than 1 MB, with a guest or without.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../../base/index.ts";
import type { VolumeCreate } from "../../model/types.ts";
import { Daemon } from "../daemon.ts";
import { apiOf, attachVolumes } from "../soak/api.ts";
import { cleanupOf } from "../soak/cleanup.ts";
import { residentBytes } from "../soak/process-figures.ts";
import { QuietGuest } from "../soak/quiet-guest.ts";

const MB = 1e6;
const TEN_VOLUMES_BYTES_MAX: number = 200 * MB;
const VOLUME_BYTES_MAX: number = 1 * MB;
const MORE_COUNT = 100;
const SETTLE_MS = 1500;

function volumeNames(prefix: string, count: number): VolumeCreate[] {
  return Array.from({ length: count }, (_, index) => ({
    name: `${prefix}${index}`,
    sizeBytes: 64 * MIB,
  }));
}

const megabytes = (bytes: number): string => `${(bytes / MB).toFixed(2)} MB`;

test("ten volumes below 200 MB, each further one below 1 MB", async (t) => {
  const cleanup = cleanupOf(t);
  const daemon = await Daemon.start();
  cleanup.after(() => daemon.stop());
  const api = apiOf(daemon);
  const connect = async (sockets: readonly string[]): Promise<void> => {
    for (const socket of sockets) {
      const guest = QuietGuest.connect(socket);
      cleanup.after(() => guest.close());
      await guest.write(0, 1);
    }
  };
  const first = await attachVolumes(api, volumeNames("a", 10));
  await connect(first);
  await sleep(SETTLE_MS);
  const tenBytes = residentBytes(daemon.pid);
  const more = await attachVolumes(api, volumeNames("b", MORE_COUNT));
  await sleep(SETTLE_MS);
  const attachedBytes = residentBytes(daemon.pid);
  await connect(more);
  await sleep(SETTLE_MS);
  const connectedBytes = residentBytes(daemon.pid);
  const perAttached = (attachedBytes - tenBytes) / MORE_COUNT;
  const perConnected = (connectedBytes - tenBytes) / MORE_COUNT;
  t.diagnostic(
    `ten volumes: ${megabytes(tenBytes)}; each further one: ${megabytes(perAttached)} attached, ` +
      `${megabytes(perConnected)} with a guest connected`,
  );
  assert.ok(tenBytes < TEN_VOLUMES_BYTES_MAX, megabytes(tenBytes));
  assert.ok(perAttached < VOLUME_BYTES_MAX, megabytes(perAttached));
  assert.ok(perConnected < VOLUME_BYTES_MAX, megabytes(perConnected));
});
