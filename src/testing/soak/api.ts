// The typed REST client on the unix socket of a daemon in a test: a call costs milliseconds, where
// one of the command line costs the start of a process.

import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { HttpTransport } from "../../cli/transport.ts";
import { RingstoreClient } from "../../client/index.ts";
import type { Disk, DiskCreate, DiskState } from "../../model/disk-types.ts";
import type { VolumeCreate } from "../../model/types.ts";
import type { Daemon } from "../daemon.ts";

const TIMEOUT_MS = 10_000;
const ANSWER_TIMEOUT_MS = 30_000;
const POLL_MS = 10;

export function apiOf(daemon: { readonly dataDirectory: string }): RingstoreClient {
  const { dataDirectory } = daemon;
  return new RingstoreClient(new HttpTransport({ kind: "unix", dataDirectory }, TIMEOUT_MS));
}

/** Creates and attaches volumes, a few at a time; returns their sockets in order. */
export async function attachVolumes(
  api: RingstoreClient,
  volumes: readonly VolumeCreate[],
): Promise<string[]> {
  const sockets: string[] = new Array(volumes.length);
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < volumes.length) {
      const index = next;
      next += 1;
      const volume = volumes[index] as VolumeCreate;
      await api.createVolume(volume);
      sockets[index] = (await api.attachVolume(volume.name, {})).socket ?? "";
    }
  };
  await Promise.all([worker(), worker(), worker(), worker()]);
  return sockets;
}

/** Makes disks of the store; returns their paths when all are ready. */
export async function makeDisks(
  api: RingstoreClient,
  folder: string,
  disks: readonly DiskCreate[],
): Promise<readonly string[]> {
  const paths: string[] = [];
  for (const disk of disks) {
    const path = join(folder, disk.path);
    const { name } = await api.createDisk({ ...disk, path });
    await diskSoon(api, name, "ready");
    paths.push(path);
  }
  return paths;
}

/** Waits until the disk is in that state. */
export async function diskSoon(
  api: RingstoreClient,
  name: string,
  state: DiskState,
): Promise<Disk> {
  const deadline = Date.now() + ANSWER_TIMEOUT_MS;
  for (;;) {
    const disk = await api.showDisk(name);
    if (disk.state === state) return disk;
    if (Date.now() > deadline) throw new Error(`disk ${name} stays ${JSON.stringify(disk)}`);
    await sleep(POLL_MS);
  }
}

/** Waits until the daemon's API answers: as Daemon.waitForApi(), without a process for each try. */
export async function untilAnswering(daemon: Daemon): Promise<void> {
  const api = apiOf(daemon);
  const deadline = Date.now() + ANSWER_TIMEOUT_MS;
  for (;;) {
    if (!daemon.running) throw new Error(`ringstored ended by itself:\n${daemon.log}`);
    const answered = await api.version().then(
      () => true,
      () => false,
    );
    if (answered) return;
    if (Date.now() > deadline) throw new Error(`ringstored does not answer:\n${daemon.log}`);
    await sleep(POLL_MS);
  }
}
