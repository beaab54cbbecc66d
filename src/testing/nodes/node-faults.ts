// What may happen to a cluster of real processes under load, by name: each fault is brought about,
// lasts a while, and is taken back. Afterwards every copy is in sync again; what the load saw in
// between is the load's to judge.
//
// A fault that moves the volume elsewhere says so: requests that are under way at the old owner may
// then fail, and nothing else may.

import { execFileSync } from "node:child_process";
import { MIB, type Prng } from "../../base/index.ts";
import { requireOnSystem } from "../../vm/index.ts";
import type { NodeCluster } from "./node-cluster.ts";

/** Files of a daemon's own are shorter; a disk's data lies beyond. */
const FILE_BYTES_MAX: number = MIB;
const LEAST_MS = 300;
const MORE_MS = 700;

export interface FaultSettings {
  readonly volume: string;
  readonly prng: Prng;
  /** Throws when the load has ended by itself within that time. */
  readonly goesOn: (milliseconds: number) => Promise<void>;
}

/** A volume of two copies in a cluster of three, and where its owner is. */
export class FaultScene {
  readonly cluster: NodeCluster;
  owner = 0;
  holders: readonly number[] = [];
  private readonly settings: FaultSettings;

  constructor(cluster: NodeCluster, settings: FaultSettings) {
    this.cluster = cluster;
    this.settings = settings;
  }

  /** The fault, for a while after it was noticed; then it is over, and all is as before. */
  async meet(fault: NodeFault): Promise<void> {
    const { volume } = this.settings;
    const holders = await this.cluster.holders(this.owner, volume);
    this.holders = holders;
    const copy = holders.find((index) => index !== this.owner) as number;
    try {
      await fault.run(this, copy);
    } finally {
      this.cluster.faults.heal();
    }
    const wanted = holders.map((index) => [nameOf(index), "in-sync"] as const);
    await this.cluster.copiesSoon(this.owner, volume, Object.fromEntries(wanted));
    await this.settings.goesOn(LEAST_MS);
  }

  async lasts(): Promise<void> {
    await this.settings.goesOn(LEAST_MS + this.settings.prng.below(MORE_MS));
  }

  async isOut(index: number): Promise<void> {
    await this.cluster.copiesSoon(this.owner, this.settings.volume, { [nameOf(index)]: "out" });
    await this.lasts();
  }

  async takeOver(): Promise<void> {
    const others = [...this.cluster.nodes.keys()].filter((index) => index !== this.owner);
    const next = this.settings.prng.pick(others);
    await this.cluster.attach(next, this.settings.volume, true);
    this.owner = next;
  }
}

function nameOf(index: number): string {
  return `node${index + 1}`;
}

/** Its daemon can write nothing to its disk from now on: each write fails (EFBIG). */
function forbidWrites(cluster: NodeCluster, index: number, isForbidden: boolean): void {
  const soft = isForbidden ? String(FILE_BYTES_MAX) : "unlimited";
  const args = ["--pid", String(cluster.node(index).pid), `--fsize=${soft}:unlimited`];
  execFileSync(requireOnSystem("prlimit", "util-linux"), args);
}

/** The disk takes no writes until its daemon has been started again. */
async function diskFails(scene: FaultScene, index: number): Promise<void> {
  const { cluster } = scene;
  forbidWrites(cluster, index, true);
  await scene.isOut(index);
  await cluster.kill(index);
  await cluster.restart(index);
}

async function sleeps(
  scene: FaultScene,
  index: number,
  meanwhile: () => Promise<void>,
): Promise<void> {
  const node = scene.cluster.node(index);
  node.signal("SIGSTOP");
  try {
    await meanwhile();
  } finally {
    node.signal("SIGCONT");
  }
}

export interface NodeFault {
  readonly name: string;
  readonly isMove: boolean;
  readonly run: (scene: FaultScene, copy: number) => Promise<void>;
}

function fault(name: string, run: NodeFault["run"]): NodeFault {
  return { name, run, isMove: false };
}

function move(name: string, run: NodeFault["run"]): NodeFault {
  return { name, run, isMove: true };
}

export const NETWORK_FAULTS: readonly NodeFault[] = [
  fault("the copy does not hear the owner", async (scene, copy) => {
    scene.cluster.faults.block(scene.owner, copy);
    await scene.isOut(copy);
  }),
  fault("the owner does not hear the copy", async (scene, copy) => {
    scene.cluster.faults.block(copy, scene.owner);
    await scene.isOut(copy);
  }),
  fault("owner and copy are parted", async (scene, copy) => {
    scene.cluster.faults.part(scene.owner, copy);
    await scene.isOut(copy);
  }),
  fault("the line to the copy is slow, then thin", async (scene, copy) => {
    const { there, back } = scene.cluster.faults.path(scene.owner, copy);
    there.delay(20);
    back.delay(20);
    await scene.lasts();
    there.drip(2 * MIB);
    await scene.lasts();
  }),
  fault("the copy's host is cut off from all", async (scene, copy) => {
    scene.cluster.faults.isolate(copy);
    await scene.isOut(copy);
  }),
];

export const METADATA_FAULTS: readonly NodeFault[] = [
  fault("the owner does not reach the metadata", async (scene) => {
    scene.cluster.faults.cutMetadata(scene.owner);
    await scene.lasts();
  }),
  fault("the metadata stands still, and a copy is lost meanwhile", async (scene, copy) => {
    const { cluster } = scene;
    await cluster.metadata.kill("SIGSTOP");
    try {
      await scene.lasts();
      cluster.faults.part(scene.owner, copy);
      await scene.lasts();
    } finally {
      await cluster.metadata.kill("SIGCONT");
    }
    await scene.isOut(copy);
  }),
  fault("the metadata is killed, and a copy's daemon with it", async (scene, copy) => {
    const { cluster } = scene;
    await cluster.metadata.kill("SIGKILL");
    await cluster.kill(copy);
    await scene.lasts();
    await cluster.metadata.launch();
    await scene.isOut(copy);
    await cluster.restart(copy);
  }),
  fault("the metadata takes seconds to answer, and a copy's daemon dies", async (scene, copy) => {
    const { cluster } = scene;
    for (const index of cluster.nodes.keys()) {
      cluster.faults.metadata(index).there.delay(500);
      cluster.faults.metadata(index).back.delay(700);
    }
    await cluster.kill(copy);
    await scene.isOut(copy);
    await cluster.restart(copy);
  }),
];

export const PROCESS_FAULTS: readonly NodeFault[] = [
  fault("the copy's daemon stands still", async (scene, copy) => {
    await sleeps(scene, copy, () => scene.isOut(copy));
  }),
  fault("the owner's daemon stands still, and nobody takes over", async (scene) => {
    await sleeps(scene, scene.owner, () => scene.lasts());
  }),
  fault("the copy's daemon is killed", async (scene, copy) => {
    await scene.cluster.kill(copy);
    await scene.isOut(copy);
    await scene.cluster.restart(copy);
  }),
  fault("the owner's daemon is killed", async (scene) => {
    await scene.cluster.kill(scene.owner);
    await scene.cluster.restart(scene.owner);
  }),
];

export const DISK_FAULTS: readonly NodeFault[] = [
  fault("the copy's disk refuses writes", async (scene, copy) => {
    await diskFails(scene, copy);
  }),
  fault("the owner's own disk refuses writes", async (scene) => {
    const { owner } = scene;
    if (scene.holders.includes(owner)) await diskFails(scene, owner);
  }),
];

export const MOVES: readonly NodeFault[] = [
  move("the owner is cut off from all, and another takes over", async (scene) => {
    scene.cluster.faults.isolate(scene.owner);
    await scene.lasts();
    await scene.takeOver();
    await scene.lasts();
  }),
  move("the owner stands still, and another takes over", async (scene) => {
    await sleeps(scene, scene.owner, async () => {
      await scene.takeOver();
      await scene.lasts();
    });
  }),
  move("the owner's host is lost, and another takes over", async (scene) => {
    const lost = scene.owner;
    await scene.cluster.kill(lost);
    await scene.takeOver();
    await scene.lasts();
    await scene.cluster.restart(lost);
  }),
];
