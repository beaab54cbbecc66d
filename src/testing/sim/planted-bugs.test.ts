// The whole simulator finds bugs, and only where there are any: a device that writes in place, right
// and with bugs planted, under load, crashes and recovery, against the model.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Prng } from "../../base/index.ts";
import { type DeviceBug, InPlaceDevice } from "./_sim-rig.ts";
import { CheckedClient } from "./checked-client.ts";
import { crashStates } from "./crash-states.ts";
import { ModelViolation, ModelVolume } from "./model-volume.ts";
import { SimClient } from "./sim-client.ts";
import { SimDisk } from "./sim-disk.ts";
import { SimMedia } from "./sim-media.ts";
import { SimMemory } from "./sim-memory.ts";
import { SimReactor } from "./sim-reactor.ts";
import { SimScheduler } from "./sim-scheduler.ts";
import { crashPoints } from "./trace-replay.ts";

const VOLUME_BYTES = 65536;
const memory = new SimMemory(4 * 1048576);

interface Node {
  readonly scheduler: SimScheduler;
  readonly disk: SimDisk;
  readonly reactor: SimReactor;
  /** Unchecked, and checked by the model. */
  readonly plain: SimClient;
  readonly client: CheckedClient;
}

function open(
  seed: number,
  media: SimMedia,
  model: ModelVolume,
  bug: DeviceBug,
  exclusive = true,
): Node {
  memory.reset();
  const scheduler = new SimScheduler(seed);
  const disk = new SimDisk({ media, memory, scheduler, splitChance: 0, exclusive });
  const reactor = new SimReactor({ scheduler, memory, requestSlots: 16 });
  const device = new InPlaceDevice(disk, reactor.requests, memory, bug);
  const plain = new SimClient({ reactor, memory, device });
  const client = new CheckedClient({ client: plain, model });
  return { scheduler, disk, reactor, plain, client };
}

/** A few blocks at a time, so that requests meet; whole blocks, because in place is not atomic. */
function load(node: Node, prng: Prng, count: number): void {
  for (let index = 0; index < count; index++) {
    const blocks = prng.between(1, 2);
    const offsetBytes = prng.below(VOLUME_BYTES / 4096 - 1) * 4096;
    const op = prng.below(10);
    if (op < 4) node.client.write(offsetBytes, blocks * 4096, true);
    else if (op < 8) node.client.read(offsetBytes, blocks * 4096);
    else if (op === 8) node.client.discard(offsetBytes, 4096);
    else node.client.writeZeroes(offsetBytes, 4096);
    if (prng.chance(0.3)) node.scheduler.runFor(prng.below(200));
  }
}

function readAll(node: Node): void {
  for (let at = 0; at < VOLUME_BYTES; at += 16384) node.client.read(at, 16384);
  node.scheduler.runUntil(() => node.client.inflightCount === 0);
}

/** Load, crash, read everything twice, again and again. Throws when the model objects. */
function crashRun(
  seed: number,
  bug: DeviceBug,
  { exclusive = true, lateChance = 0.5 }: { exclusive?: boolean; lateChance?: number } = {},
): void {
  const prng = new Prng(seed);
  const media = new SimMedia({ capacityBytes: VOLUME_BYTES });
  const model = new ModelVolume();
  for (let round = 0; round < 3; round++) {
    const node = open(seed * 10 + round, media, model, bug);
    load(node, prng, 30);
    const kind = prng.chance(0.5) ? "power" : "process";
    node.disk.crash({ kind, lateChance, chances: { tornSectorChance: 0 } });
    node.reactor.stop();
    model.crashed();
    const next = open(seed * 10 + round + 5, media, model, bug, exclusive);
    readAll(next);
    media.landLateWrites();
    readAll(next);
    next.reactor.stop();
    next.disk.close();
  }
  assert.ok(model.checkedSectors > 500);
}

/** Every crash state of a run whose every write was followed by a flush; how many were checked. */
function enumerate(seed: number, bug: DeviceBug): number {
  const prng = new Prng(seed);
  const media = new SimMedia({ capacityBytes: VOLUME_BYTES, volatileCache: true });
  const trace = media.startTrace();
  const model = new ModelVolume();
  const node = open(seed, media, model, bug);
  for (let index = 0; index < 6; index++) {
    const offsetBytes = prng.below(6) * 4096;
    // Until the flush a write may be lost at a crash: the model hears of its end only then.
    const { id, data } = model.startWrite(offsetBytes, 8192);
    trace.mark(model.fork());
    node.plain.write(offsetBytes, data, () => {
      node.plain.flush(() => {
        model.endWrite(id, 0);
        trace.mark(model.fork());
      });
    });
    node.scheduler.runUntil(() => node.plain.inflightCount === 0);
  }
  let count = 0;
  for (const point of crashPoints(trace)) {
    const at = trace.marks(point).at(-1) as ModelVolume | undefined;
    for (const state of crashStates(trace, point, { subsetsMax: 64, tornAt: "block" })) {
      const model = at?.fork() ?? new ModelVolume();
      model.crashed();
      for (let round = 0; round < 2; round++) {
        const read = model.startRead(0, 32768);
        model.endRead(read, 0, state.media.read(0, 32768));
      }
      count += 1;
    }
  }
  return count;
}

function countFound(seeds: number, run: (seed: number) => void): number {
  let found = 0;
  for (let seed = 1; seed <= seeds; seed++) {
    try {
      run(seed);
    } catch (error) {
      if (!(error instanceof ModelViolation)) throw error;
      found += 1;
    }
  }
  return found;
}

describe("the simulator as a whole", () => {
  it("finds nothing wrong with a right device, under crashes and late writes", () => {
    for (let seed = 1; seed <= 30; seed++) {
      assert.doesNotThrow(() => crashRun(seed, "none"), `seed ${seed}`);
    }
  });

  it("finds a device that answers before the disk has", () => {
    assert.ok(countFound(20, (seed) => crashRun(seed, "early-ack", { lateChance: 0 })) >= 10);
  });

  it("finds a successor that does not wait for its predecessor's writes", () => {
    assert.ok(countFound(20, (seed) => crashRun(seed, "none", { exclusive: false })) >= 10);
  });

  it("enumerates every crash of a right device, and finds a flush that does nothing", () => {
    let states = 0;
    for (let seed = 1; seed <= 10; seed++) states += enumerate(seed, "none");
    assert.ok(states > 100, `${states} states`);
    assert.equal(
      countFound(10, (seed) => void enumerate(seed, "no-sync")),
      10,
    );
  });
});
