// Volumes and attachments are declared, not remembered: a daemon that starts serves what is
// declared, on the same sockets, whether its predecessor was killed or stopped, without anyone's
// help; what cannot be served is reported and does not stop the rest.

import assert from "node:assert/strict";
import { existsSync, renameSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../../base/index.ts";
import type { RingstoreClient } from "../../client/index.ts";
import type { Volume, VolumeCreate } from "../../model/types.ts";
import { Daemon } from "../daemon.ts";
import { apiOf, attachVolumes, untilAnswering } from "../soak/api.ts";
import { cleanupOf } from "../soak/cleanup.ts";
import { diskFolder, memoryFolder, sparseFile } from "../soak/places.ts";
import { QuietGuest } from "../soak/quiet-guest.ts";

const RETURN_TIMEOUT_MS = 120_000;
const REFUSAL_TIMEOUT_MS = 60_000;

/** What a restart must not change. */
function lasting(volumes: readonly Volume[]): unknown {
  return volumes.map(({ health: _, state, attachment, ...rest }) => {
    if (attachment === null) return { ...rest, state };
    const { sessionCount: __, ...attached } = attachment;
    return { ...rest, attached };
  });
}

async function volumeSoon(
  api: RingstoreClient,
  name: string,
  wanted: (volume: Volume) => boolean,
): Promise<Volume> {
  const deadline = Date.now() + RETURN_TIMEOUT_MS;
  for (;;) {
    const volume = await api.showVolume(name);
    if (wanted(volume)) return volume;
    if (Date.now() > deadline) assert.fail(`volume ${name} stays ${JSON.stringify(volume)}`);
    await sleep(50);
  }
}

test("every volume and attachment is back after kill -9 and after a clean stop", async (t) => {
  const cleanup = cleanupOf(t);
  const folder = diskFolder(cleanup);
  const daemon = await Daemon.start({ dataDirectory: join(folder, "data") });
  cleanup.after(() => daemon.stop());
  const api = apiOf(daemon);
  const external = sparseFile(join(memoryFolder(cleanup), "external"), 8 * MIB);
  const volumes: VolumeCreate[] = [
    { name: "managed", sizeBytes: 8 * MIB },
    { name: "external", path: external },
    { name: "four-k", sizeBytes: 16 * MIB, blockBytes: 4096, serial: "S-4K" },
    { name: "read-only", path: sparseFile(join(folder, "ro"), 4 * MIB), readOnly: true },
    { name: "in-memory", sizeBytes: 4 * MIB, backing: "memory" },
    { name: "nothing", sizeBytes: 4 * MIB, backing: "null" },
  ];
  const sockets = await attachVolumes(api, volumes);
  await api.createVolume({ name: "detached", sizeBytes: 4 * MIB });
  await api.resizeVolume("managed", { sizeBytes: 12 * MIB });
  const guest = QuietGuest.connect(sockets[0] as string);
  cleanup.after(() => guest.close());
  await guest.write(4096, 0x11);
  const declared = lasting((await api.listVolumes()).volumes);
  for (const [round, signal] of (["SIGKILL", "SIGTERM", "SIGKILL"] as const).entries()) {
    daemon.signal(signal);
    await daemon.waitForExit();
    await daemon.launch();
    // Served before the API answers, and without a call to it.
    await guest.reconnect();
    assert.equal(guest.capacityBytes, 12 * MIB);
    const expected = round === 0 ? 0x11 : 0x20 + round;
    assert.equal((await guest.read(4096))[0], expected);
    await guest.write(4096, 0x21 + round);
    await untilAnswering(daemon);
    assert.deepEqual(lasting((await api.listVolumes()).volumes), declared, signal);
    for (const [index, socket] of sockets.entries()) {
      if (index === 0) continue;
      const other = QuietGuest.connect(socket);
      assert.equal((await other.read(0)).length, 4096);
      other.close();
    }
  }
});

test("a missing file is reported, holds up nobody, and is served when it is back", async (t) => {
  const cleanup = cleanupOf(t);
  const folder = diskFolder(cleanup);
  const daemon = await Daemon.start({ dataDirectory: join(folder, "data") });
  cleanup.after(() => daemon.stop());
  const api = apiOf(daemon);
  const path = sparseFile(join(folder, "gone"), 4 * MIB);
  const volumes = [
    { name: "gone", path },
    { name: "here", sizeBytes: 4 * MIB },
  ];
  const [goneSocket = "", hereSocket = ""] = await attachVolumes(api, volumes);
  daemon.kill();
  await daemon.waitForExit();
  renameSync(path, `${path}.away`);
  await daemon.launch();
  await untilAnswering(daemon);
  const here = QuietGuest.connect(hereSocket);
  cleanup.after(() => here.close());
  await here.write(0, 1);
  const gone = await api.showVolume("gone");
  assert.equal(gone.state, "unavailable");
  assert.equal(gone.health[0]?.code, "BACKING_UNAVAILABLE");
  assert.match(gone.health[0]?.message ?? "", /gone/);
  const status = await api.status();
  assert.equal(status.health, "error");
  assert.equal(status.volumes.unavailable, 1);
  const { advice } = await api.advise();
  assert.deepEqual(
    advice.map(({ volume, command }) => ({ volume, command })),
    [{ volume: "gone", command: "ringstore volume attach gone" }],
  );
  renameSync(`${path}.away`, path);
  await volumeSoon(api, "gone", (volume) => volume.state === "attached");
  const back = QuietGuest.connect(goneSocket);
  cleanup.after(() => back.close());
  await back.read(0);
  assert.equal((await api.status()).health, "ok");
});

test("a second daemon on the same data directory refuses, and names the first", async (t) => {
  const cleanup = cleanupOf(t);
  const folder = diskFolder(cleanup);
  const dataDirectory = join(folder, "data");
  const first = await Daemon.start({ dataDirectory });
  cleanup.after(() => first.stop());
  const [socket = ""] = await attachVolumes(apiOf(first), [{ name: "one", sizeBytes: 4 * MIB }]);
  const guest = QuietGuest.connect(socket);
  cleanup.after(() => guest.close());
  // Resolves, because the first daemon's API answers for both.
  const second = await Daemon.start({ dataDirectory });
  cleanup.after(() => second.stop());
  const deadline = Date.now() + REFUSAL_TIMEOUT_MS;
  while (second.running && Date.now() < deadline) await sleep(20);
  assert.ok(!second.running, "a second daemon serves the same data directory");
  assert.match(second.log, new RegExp(`another ringstored \\(pid ${first.pid}\\)`));
  // The first has noticed nothing.
  assert.ok(first.running);
  assert.ok(existsSync(socket));
  await guest.write(0, 1);
});
