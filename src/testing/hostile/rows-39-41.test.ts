// Rows 39 to 41 of the hostile input checklist: what a virtio-scsi guest may name that is not
// there, requests of every wrong shape, task management and events. In a real session of a target
// process; the same by the queue, in more cases, is in vhost-user/scsi-*.test.ts.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { Prng } from "../../base/index.ts";
import * as l from "../../vhost-user/layouts-scsi.ts";
import type { Buf } from "./rings.ts";
import { Scene } from "./scene.ts";
import { control, readyScsi, runChain, runScsi, scsiRequest, tmf, UNIT_ZERO } from "./scsi.ts";
import type { VictimOptions } from "./victim.ts";

let scene: Scene;
before(async (t) => {
  scene = await Scene.open(t as never);
});

const CONTROLLER = { scsi: {} };
const QUEUES = { queueCount: 4 };
const VARIANTS: readonly VictimOptions[] = [
  { ...QUEUES, kind: "memfd", packed: false, inflight: true },
  { ...QUEUES, kind: "memfd-unsealable", packed: true },
];
const REQUESTS = l.FIRST_REQUEST_RING;
const FUZZED = 400;

test("row 39: a LUN whose first byte is not 1, or an unknown target, is answered with BAD_TARGET", async () => {
  for (const variant of VARIANTS) {
    await scene.attack(() => {
      const victim = scene.victim(variant);
      readyScsi(victim);
      const mark = victim.memory.mark();
      for (const lun of [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [2, 0, 0, 0, 0, 0, 0, 0],
        [255, 255, 255, 255, 255, 255, 255, 255],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 255, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 1],
        [0xc1, 0x02, 0, 0, 0, 0, 0, 0],
      ]) {
        const answer = runScsi(victim, scsiRequest(victim, { lun }));
        assert.deepEqual([answer.response, answer.usedBytes], [l.SCSI_S_BAD_TARGET, 108]);
      }
      // A unit that is not there is for the device server to refuse: CHECK CONDITION.
      for (const [high, low] of [
        [0, 9],
        [0x40, 0],
        [0x7f, 255],
        [0xc0, 0],
      ]) {
        const lun = [1, 0, high as number, low as number, 0, 0, 0, 0];
        const answer = runScsi(victim, scsiRequest(victim, { lun }));
        const isThere = high === 0x40;
        assert.deepEqual([answer.response, answer.status], [0, isThere ? 0 : 2]);
      }
      victim.memory.reset(mark);
      readyScsi(victim);
    }, CONTROLLER);
  }
});

test("row 40: short responses, long CDB allocations and data in both directions are refused", async () => {
  for (const variant of VARIANTS) {
    await scene.attack(async () => {
      const victim = scene.victim(variant);
      readyScsi(victim);
      const short = scsiRequest(victim, { responseBytes: 107, inBytes: 0 });
      const head = runScsi(victim, short);
      assert.deepEqual([head.response, head.usedBytes], [l.SCSI_S_FAILURE, 12]);
      const both = scsiRequest(victim, { outBytes: 512, inBytes: 512 });
      assert.equal(runScsi(victim, both).response, l.SCSI_S_FAILURE);
      const brief = scsiRequest(victim, { requestBytes: 50 });
      assert.equal(runScsi(victim, brief).response, l.SCSI_S_FAILURE);
      const odd = scsiRequest(victim, { attribute: 9 });
      assert.equal(runScsi(victim, odd).response, l.SCSI_S_FAILURE);
      // INQUIRY of 65535 bytes into 8: what fits is written, and no byte more.
      const inquiry = { cdb: [0x12, 0, 0, 0xff, 0xff, 0], inBytes: 8 };
      const cut = runScsi(victim, scsiRequest(victim, inquiry));
      assert.deepEqual([cut.response, cut.usedBytes], [l.SCSI_S_OVERRUN, 116]);
      const read = { cdb: [0x28, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0], inBytes: 512 };
      assert.notEqual(runScsi(victim, scsiRequest(victim, read)).usedBytes, 108 + 0xffff * 512);
      const none = scsiRequest(victim, { responseBytes: 11, inBytes: 0 });
      victim.queue(REQUESTS).ring.offer(none.chain);
      victim.go(victim.queue(REQUESTS));
      victim.waitBroken(victim.queue(REQUESTS));
      assert.deepEqual(await scene.brokenReasons(), ["NO_STATUS"]);
      assert.equal(tmf(victim, l.SCSI_T_TMF_QUERY_TASK_SET, UNIT_ZERO, 0n), 0);
    }, CONTROLLER);
  }
});

test("row 41: task management of unknown LUNs and tags, AN queries and an empty event queue", async () => {
  for (const variant of VARIANTS) {
    await scene.attack(async () => {
      const victim = scene.victim({ ...variant, withFeatures: [l.SCSI_F_HOTPLUG] });
      readyScsi(victim);
      const abort = l.SCSI_T_TMF_ABORT_TASK;
      assert.equal(tmf(victim, abort, UNIT_ZERO, 0xffff_ffff_ffff_ffffn), 0);
      assert.equal(tmf(victim, abort, [1, 0, 0, 7, 0, 0, 0, 0], 1n), l.SCSI_S_INCORRECT_LUN);
      assert.equal(tmf(victim, abort, [1, 7, 0, 0, 0, 0, 0, 0], 1n), l.SCSI_S_BAD_TARGET);
      assert.equal(tmf(victim, 0xffff_ffff, UNIT_ZERO, 1n), l.SCSI_S_FUNCTION_REJECTED);
      assert.equal(control(victim, Uint8Array.of(0, 0, 0), 1).response[0], l.SCSI_S_FAILURE);
      const query = Uint8Array.of(1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255);
      const answer = control(victim, query, 5);
      assert.deepEqual([...answer.response], [0, 0, 0, 0, l.SCSI_S_OK]);
      // Nobody has given a buffer: the event is lost, and the first buffer says so.
      await scene.target.plug(scene.victimName, 3, true);
      const events = victim.queue(l.EVENT_RING);
      const gpa = victim.memory.allocate(16);
      const buffer = (len: number): Buf[] => [{ addr: gpa, len, write: true }];
      assert.equal(runChain(victim, events, buffer(15)), 0);
      assert.equal(runChain(victim, events, buffer(16)), 16);
      const told = victim.memory.window(gpa, 16).getUint32(0, true);
      assert.equal(told, l.SCSI_T_EVENTS_MISSED);
      events.ring.offer(buffer(16));
      victim.go(events);
      victim.barrier();
      await scene.target.plug(scene.victimName, 3, false);
      victim.waitUsed(1, events);
      assert.equal(victim.memory.window(gpa, 16).getUint32(0, true), l.SCSI_T_TRANSPORT_RESET);
    }, CONTROLLER);
  }
});

test("rows 39 to 41: rubbish in all three kinds of rings harms nobody else", async () => {
  for (const variant of VARIANTS) {
    await scene.attack(() => {
      const prng = new Prng(41);
      for (let count = 0; count < FUZZED; ) {
        const victim = scene.victim(variant);
        // A ring that was broken stays so: the next victim starts anew.
        for (let index = 0; index < 8; index++, count++) {
          const mark = victim.memory.mark();
          const chain = rubbish(prng, (bytes) => victim.memory.allocate(bytes));
          for (const { addr, len } of chain) {
            const bytes = Uint8Array.from({ length: len }, () => prng.below(4) * prng.below(80));
            if (prng.below(2) === 0) bytes.set([1, 0, 0, 0, 0, 0, 0, 0].slice(0, len));
            victim.memory.write(addr as number, bytes);
          }
          const queue = victim.queue(prng.below(4));
          queue.ring.offer(chain);
          victim.go(queue);
          victim.barrier();
          victim.memory.reset(mark);
        }
        victim.close();
        scene.forget(victim);
      }
    }, CONTROLLER);
  }
});

function rubbish(prng: Prng, allocate: (bytes: number) => number): Buf[] {
  const sizes = [1, 5, 12, 16, 24, 51, 107, 108, 512, 620];
  const chain: Buf[] = [];
  for (let left = 1 + prng.below(4); left > 0; left--) {
    const len = sizes[prng.below(sizes.length)] as number;
    chain.push({ addr: allocate(len), len, write: chain.length > 0 && prng.below(3) > 0 });
  }
  return chain;
}
