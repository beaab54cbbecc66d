// Guests whose machine loses a wake-up, as QEMU's does when it emulates one CPU without KVM: a
// request that is never kicked for, an interrupt that the device saw no reason to send. The driver
// here does what such a guest's stores look like from the device's side.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import * as sys from "../../sys/index.ts";
import * as v from "../../virtio/index.ts";
import { Scene } from "./scene.ts";
import type { Victim } from "./victim.ts";

/** A ring is looked at for about 100 ms after its last request: on a full machine, try again. */
const ATTEMPTS = 50;
const SERVED_MS = 400;
const FAR_AWAY = 0x7000;

let scene: Scene;
before(async (t) => {
  scene = await Scene.open(t as never);
});

async function lateCounts(): Promise<readonly [kicks: number, interrupts: number]> {
  const counters = (await scene.target.counts()).devices[scene.victimName]?.counters ?? {};
  return [counters["lateKickCount"] ?? 0, counters["lateInterruptCount"] ?? 0];
}

/** Waits for used chains without a kick; how many came. */
async function usedWithin(victim: Victim, timeoutMs: number): Promise<number> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const used = victim.ring.takeUsed().length;
    if (used > 0 || Date.now() > deadline) return used;
    await sleep(5);
  }
}

/** Says which of all elements, counted from the start, the driver wants an interrupt for. */
function wantInterrupt(victim: Victim, element: number): void {
  const { memory, ring } = victim;
  if (!ring.packed) {
    victim.split.avail[2 + ring.size] = element & 0xffff;
    return;
  }
  const wrap = Math.floor(element / ring.size) % 2 === 0 ? 1 : 0;
  const words = memory.u32(ring.availGpa, 1);
  Atomics.store(words, 0, (element % ring.size) | (wrap << 15) | (v.PACKED_EVENT_DESCRIPTOR << 16));
}

for (const packed of [false, true]) {
  const kind = packed ? "packed" : "split";
  test(`${kind}: requests whose kick was lost are taken all the same`, async () => {
    await scene.attack(async () => {
      const victim = scene.victim({ packed });
      for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
        assert.equal(victim.run(victim.read(0, 512)).status, v.BLK_S_OK);
        // The device polls for a moment after its answer: let it fall asleep.
        await sleep(20);
        victim.ring.offer(victim.read(0, 512).chain);
        victim.ring.publish();
        const used = await usedWithin(victim, SERVED_MS);
        if (used === 0) {
          victim.kick();
          victim.waitUsed(1);
        }
        if ((await lateCounts())[0] > 0) return;
      }
      assert.fail("never taken without a kick");
    });
  });

  test(`${kind}: an interrupt that was lost is sent all the same`, async () => {
    await scene.attack(async () => {
      const victim = scene.victim({ packed });
      const { callFd } = victim.queue();
      let element = 0;
      for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
        // Three descriptors a chain: positions of a packed ring, elements of a split one.
        const step = packed ? 3 : 1;
        wantInterrupt(victim, packed ? element + 14 : element + FAR_AWAY);
        victim.ring.offer(victim.read(0, 512).chain);
        victim.go();
        victim.waitUsed(1);
        // The first is always told of; let that pass.
        await sleep(20);
        sys.eventClear(callFd);
        // Now the store arrives that the device should have seen before.
        wantInterrupt(victim, element);
        element += step;
        const events = sys.pollOne(callFd, sys.POLLIN, SERVED_MS);
        if (events > 0 && (await lateCounts())[1] > 0) return;
      }
      assert.fail("never interrupted");
    });
  });
}

test("a guest that lost nothing is not counted as late, however often it falls asleep", async () => {
  for (const packed of [false, true]) {
    await scene.attack(async () => {
      const victim = scene.victim({ packed });
      for (let round = 0; round < 10; round++) {
        for (let count = 0; count < 50; count++) {
          assert.equal(victim.run(victim.read(0, 512)).status, v.BLK_S_OK);
        }
        // Longer than the two looks.
        await sleep(150);
      }
      const [kicks, interrupts] = await lateCounts();
      // On a full machine this process may be away between a store and its kick, once or twice.
      assert.ok(kicks + interrupts <= 2, `${kicks} kicks, ${interrupts} interrupts`);
    });
  }
});
