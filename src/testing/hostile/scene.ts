// The stage of a hostile test: a target with a victim device and a neighbour. Whatever the test
// does to the victim, afterwards the target must live, the neighbour must be served, the guards
// beside the victim's memory must be untouched, and nothing may be left in the target: no
// descriptor, mapping, allocation, watch, timer, poller or request slot.

import assert from "node:assert/strict";
import { Prng } from "../../base/index.ts";
import { BLK_S_OK } from "../../virtio/index.ts";
import type { TestScope } from "../target.ts";
import {
  startTarget,
  type Target,
  type TargetCounts,
  type TargetDeviceOptions,
} from "../target.ts";
import { Victim, type VictimOptions } from "./victim.ts";

const NEIGHBOUR = "neighbour";
const PROBE_BYTES = 16384;
const LEAK_KEYS = [
  "fdCount",
  "sharedMapCount",
  "arenaCount",
  "watchCount",
  "timerCount",
  "pollerCount",
  "freeSlotCount",
] as const;

export type Leaks = Readonly<Record<(typeof LEAK_KEYS)[number], number>>;

/** What must be the same before and after. */
export function leaksOf(counts: TargetCounts): Leaks {
  return Object.fromEntries(LEAK_KEYS.map((key) => [key, counts[key]])) as unknown as Leaks;
}

export class Scene {
  readonly target: Target;
  /** The device under attack; every attack has one of its own. */
  victimName = "";
  victimPath = "";
  private readonly neighbour: Victim;
  private readonly prng = new Prng(1);
  private readonly victims: Victim[] = [];
  private before: Leaks | null = null;
  private attackCount = 0;

  private constructor(target: Target, neighbour: Victim) {
    this.target = target;
    this.neighbour = neighbour;
  }

  static async open(
    scope: TestScope,
    options: { readonly pollMaxUs?: number } = {},
  ): Promise<Scene> {
    const target = await startTarget(scope, options);
    const neighbour = new Victim(await target.add({ name: NEIGHBOUR }));
    scope.after(async () => neighbour.close());
    return new Scene(target, neighbour);
  }

  /** A hostile front-end, closed by the end of the attack if not before. */
  victim(options: VictimOptions = {}): Victim {
    return this.victimOn(this.victimPath, options);
  }

  closeVictims(): void {
    for (const victim of this.victims.splice(0)) victim.close();
  }

  /** The attack has closed it itself. */
  forget(victim: Victim): void {
    this.victims.splice(this.victims.indexOf(victim), 1);
  }

  /** The same on another socket. */
  victimOn(path: string, options: VictimOptions): Victim {
    const victim = new Victim(path, options);
    this.victims.push(victim);
    return victim;
  }

  /** The neighbour's guest writes, reads back, and finds what it wrote. */
  probeNeighbour(): void {
    const { neighbour, prng } = this;
    const mark = neighbour.memory.mark();
    const data = new Uint8Array(PROBE_BYTES);
    for (let at = 0; at < data.length; at++) data[at] = prng.u32();
    const sector = prng.below(1024) * 8;
    assert.equal(neighbour.run(neighbour.writeRequest(sector, data)).status, BLK_S_OK);
    const read = neighbour.read(sector, data.length);
    assert.deepEqual(neighbour.run(read), { status: BLK_S_OK, len: data.length + 1 });
    const found = neighbour.memory.read(read.dataGpa, data.length);
    assert.ok(Buffer.from(found).equals(data), "the neighbour read back something else");
    neighbour.memory.reset(mark);
  }

  /** Runs one attack on a new device and checks everything that must hold after any. */
  async attack(
    body: () => Promise<void> | void,
    device: Partial<TargetDeviceOptions> = {},
  ): Promise<void> {
    const { target } = this;
    this.attackCount += 1;
    this.victimName = `victim-${this.attackCount}`;
    const empty = await this.idleCounts();
    this.victimPath = await target.add({ ...device, name: this.victimName });
    this.before = await this.idleCounts();
    this.probeNeighbour();
    target.log.length = 0;
    try {
      await body();
      this.probeNeighbour();
    } finally {
      this.closeVictims();
    }
    await this.settle();
    this.probeNeighbour();
    await target.remove(this.victimName);
    this.before = empty;
    await this.settle();
  }

  /** Counts once what was begun has ended: a target with nothing to do has no timer. */
  private async idleCounts(): Promise<Leaks> {
    return leaksOf(await this.target.until(({ timerCount }) => timerCount === 0, "idle"));
  }

  /** Waits until the target is as it was before the attack. */
  async settle(): Promise<void> {
    const { before } = this;
    assert.ok(before !== null, "settle() outside an attack");
    try {
      await this.target.until(
        (counts) => LEAK_KEYS.every((key) => leaksOf(counts)[key] === before[key]),
        "as before the attack",
      );
    } catch {
      assert.deepEqual(leaksOf(await this.target.counts()), before);
    }
  }

  /** Reasons that the target logged for broken rings, since the attack began or the last call. */
  async brokenReasons(): Promise<string[]> {
    await this.target.counts();
    const reasons = this.target
      .logged("vhost_user.ring_broken")
      .map(({ fields }) => fields["reason"]);
    this.target.log.length = 0;
    return reasons.map(String);
  }
}
