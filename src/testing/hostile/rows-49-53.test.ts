// Rows 49 to 53 of the hostile input checklist: rings of impossible sizes and addresses, messages
// in every order, and the configuration space.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { Prng } from "../../base/index.ts";
import * as sys from "../../sys/index.ts";
import * as m from "../../vhost-user/messages.ts";
import * as v from "../../virtio/index.ts";
import { Scene } from "./scene.ts";
import { GUEST_BASE, type Queue, type Victim, type VictimOptions, WAIT_MS } from "./victim.ts";

let scene: Scene;
before(async (t) => {
  scene = await Scene.open(t as never);
});

const NEED_REPLY = m.FLAG_VERSION | m.FLAG_NEED_REPLY;
const REGION_BYTES = 1 << 20;
const QUEUE_COUNT_MAX = 16;

function state(index: number, num: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setUint32(0, index, true);
  view.setUint32(4, num, true);
  return new Uint8Array(view.buffer);
}

function isRefused(
  victim: Victim,
  request: number,
  payload: Uint8Array,
  fds: readonly number[] = [],
): boolean {
  victim.frontEnd.sendMessage({ request, flags: NEED_REPLY, payload, fds });
  const reply = victim.frontEnd.receiveMessage();
  assert.equal(reply.request, request);
  return reply.payload[0] !== 0;
}

test("row 49: ring sizes that no ring has are refused", async () => {
  await scene.attack(() => {
    const victim = scene.victim({ queueCount: 0, start: false });
    for (const size of [0, 3, 100, 257, 32767, 32769, 65536, 0x80000000, 0xffffffff]) {
      assert.ok(isRefused(victim, m.SET_VRING_NUM, state(0, size)), String(size));
    }
    for (const size of [1, 2, 128, 1024]) {
      assert.ok(!isRefused(victim, m.SET_VRING_NUM, state(0, size)), String(size));
    }
  });
  await scene.attack(() => {
    // A packed ring may have any number of entries, within limits.
    const victim = scene.victim({ queueCount: 0, start: false, packed: true });
    for (const size of [0, 32769, 65535, 0xffffffff]) {
      assert.ok(isRefused(victim, m.SET_VRING_NUM, state(0, size)), String(size));
    }
    for (const size of [1, 3, 100, 1024]) {
      assert.ok(!isRefused(victim, m.SET_VRING_NUM, state(0, size)), String(size));
    }
  });
});

test("row 49: ring indexes that the device does not have are refused", async () => {
  await scene.attack(() => {
    const victim = scene.victim();
    for (const index of [QUEUE_COUNT_MAX, 255, 256, 0x7fffffff, 0xffffffff]) {
      for (const request of [m.SET_VRING_NUM, m.SET_VRING_BASE, m.SET_VRING_ENABLE]) {
        assert.ok(isRefused(victim, request, state(index, 1)), m.requestName(request));
      }
      const address = new Uint8Array(m.VRING_ADDR.BYTES);
      new DataView(address.buffer).setUint32(0, index, true);
      assert.ok(isRefused(victim, m.SET_VRING_ADDR, address));
    }
    for (const low of [QUEUE_COUNT_MAX, 255, 0x200, 0x10000, 0x80000000]) {
      for (const request of [m.SET_VRING_KICK, m.SET_VRING_CALL, m.SET_VRING_ERR]) {
        const fds = [victim.eventfd()];
        assert.ok(isRefused(victim, request, state(low, 0), fds), m.requestName(request));
      }
    }
    assert.ok(isRefused(victim, m.SET_VRING_KICK, state(0, 1), [victim.eventfd()]), "high half");
    victim.probe();
  });
  // This one has no way to say no.
  await scene.attack(() => {
    const victim = scene.victim();
    victim.frontEnd.sendMessage({ request: m.GET_VRING_BASE, payload: state(QUEUE_COUNT_MAX, 0) });
    assert.ok(victim.frontEnd.waitClosed(WAIT_MS));
  });
});

test("row 49: what a running ring is cannot be changed", async () => {
  for (const packed of [false, true]) {
    await scene.attack(() => {
      const victim = scene.victim({ packed });
      assert.ok(isRefused(victim, m.SET_VRING_NUM, state(0, 8)));
      assert.ok(!isRefused(victim, m.SET_VRING_NUM, state(0, 16)), "the same size");
      assert.ok(isRefused(victim, m.SET_VRING_BASE, state(0, 5)));
      assert.ok(isRefused(victim, m.SET_VRING_ENABLE, state(0, 2)), "enable 2");
      const features = new DataView(new ArrayBuffer(8));
      const other = victim.features ^ (1n << BigInt(v.F_RING_PACKED));
      features.setBigUint64(0, other, true);
      assert.ok(isRefused(victim, m.SET_FEATURES, new Uint8Array(features.buffer)));
      victim.probe();
      assert.equal(victim.run(victim.read(0, 512)).status, v.BLK_S_OK);
    });
  }
});

function addresses(
  index: number,
  one: Record<"descriptor" | "used" | "available", bigint>,
): Uint8Array {
  const view = new DataView(new ArrayBuffer(m.VRING_ADDR.BYTES));
  view.setUint32(m.VRING_ADDR.index, index, true);
  view.setBigUint64(m.VRING_ADDR.descriptor, one.descriptor, true);
  view.setBigUint64(m.VRING_ADDR.used, one.used, true);
  view.setBigUint64(m.VRING_ADDR.available, one.available, true);
  return new Uint8Array(view.buffer);
}

function addressesOf(
  victim: Victim,
  queue: Queue,
): Record<"descriptor" | "used" | "available", bigint> {
  const { ring } = queue;
  return {
    descriptor: BigInt(victim.memory.userAddress(ring.descriptorGpa)),
    used: BigInt(victim.memory.userAddress(ring.usedGpa)),
    available: BigInt(victim.memory.userAddress(ring.availGpa)),
  };
}

test("row 50: misaligned ring addresses are refused", async () => {
  for (const packed of [false, true]) {
    await scene.attack(() => {
      const victim = scene.victim({ packed, start: false });
      const good = addressesOf(victim, victim.queue());
      const off = [
        { descriptor: good.descriptor + 8n },
        { descriptor: good.descriptor + 1n },
        { used: good.used + 2n },
        { available: good.available + 1n },
        { descriptor: 2n ** 64n - 16n },
        { used: 2n ** 53n },
        { available: 2n ** 64n - 2n },
      ];
      for (const one of off) {
        const payload = addresses(0, { ...good, ...one });
        const label = JSON.stringify(one, (_, value) => String(value));
        assert.ok(isRefused(victim, m.SET_VRING_ADDR, payload), label);
      }
      assert.ok(!isRefused(victim, m.SET_VRING_ADDR, addresses(0, good)));
    });
  }
});

test("row 50: a ring outside memory, or over its end, breaks when it is kicked", async () => {
  const end = GUEST_BASE + REGION_BYTES;
  for (const packed of [false, true]) {
    const variants: VictimOptions[] = [
      { kind: "memfd", packed },
      { kind: "memfd-unsealable", packed },
    ];
    for (const variant of variants) {
      // One byte more than fits, the event field at the end included; and one that just fits.
      const places = packed
        ? ([
            ["descriptorGpa", end - 16 * 16, true],
            ["descriptorGpa", end - 15 * 16, false],
            ["usedGpa", end - 4, true],
            ["usedGpa", end, false],
            ["availGpa", GUEST_BASE - 4, false],
          ] as const)
        : ([
            ["descriptorGpa", end - 16 * 15, false],
            ["availGpa", end - (4 + 2 * 16), false],
            ["availGpa", end - (4 + 2 * 16 + 2), true],
            ["usedGpa", end - (4 + 8 * 16), false],
            ["usedGpa", end - (4 + 8 * 16 + 4), true],
            ["descriptorGpa", GUEST_BASE - 16, false],
          ] as const);
      for (const [field, gpa, fits] of places) {
        await scene.attack(async () => {
          const victim = scene.victim({ ...variant, start: false });
          victim.frontEnd.addMemRegion(victim.memory.regions[0] as never);
          victim.startQueue(victim.queue(1));
          const ring = { ...victim.queue().ring, [field]: gpa } as Queue["ring"];
          const moved = { ...victim.queue(), ring };
          if (fits) victim.memory.write(gpa, new Uint8Array(end - gpa));
          victim.startQueueAt(moved, (at) => userAddressAnywhere(victim, at));
          victim.kick();
          if (fits) victim.expectQuiet();
          else victim.waitBroken();
          victim.probe();
        });
      }
    }
  }
});

/** As HostileMemory.userAddress(), also for what lies in no region. */
function userAddressAnywhere(victim: Victim, gpa: number): number {
  const region = victim.memory.regions[0];
  assert.ok(region !== undefined);
  return region.userAddress + (gpa - region.guestAddress);
}

test("row 50: a ring that a region's offset leaves misaligned breaks", async () => {
  for (const kind of ["memfd", "memfd-unsealable"] as const) {
    await scene.attack(async () => {
      const victim = scene.victim({ kind, start: false });
      const region = victim.memory.regions[0];
      assert.ok(region !== undefined);
      // In the file everything lies one byte further on than the addresses say.
      const { fd, guestAddress, userAddress } = region;
      const fileOffsetBytes = region.fileOffsetBytes + 1;
      const askew = { fd, guestAddress, userAddress, fileOffsetBytes, bytes: 65536 };
      victim.frontEnd.addMemRegion(askew);
      for (const queue of victim.queues) victim.startQueue(queue);
      victim.kick();
      victim.waitBroken();
      assert.match((await scene.brokenReasons())[0] ?? "", /aligned/);
      scene.probeNeighbour();
    });
  }
});

test("row 51: rings never configured may be enabled, called and stopped", async () => {
  await scene.attack(() => {
    const victim = scene.victim();
    const { frontEnd } = victim;
    for (let index = 2; index < QUEUE_COUNT_MAX; index++) frontEnd.setVringEnable(index, true);
    for (let index = 2; index < QUEUE_COUNT_MAX; index++) {
      frontEnd.setVringCall(index, victim.eventfd());
      frontEnd.setVringKick(index, victim.eventfd());
    }
    victim.probe();
    for (let index = 2; index < QUEUE_COUNT_MAX; index++) {
      assert.equal(frontEnd.getVringBase(index), 0);
      assert.equal(frontEnd.getVringBase(index), 0, "asked again");
      frontEnd.setVringEnable(index, false);
    }
    victim.probe();
  });
});

test("row 52: rings start whatever the order in which everything is told", async () => {
  const prng = new Prng(52);
  for (const packed of [false, true]) {
    for (let round = 0; round < 25; round++) {
      await scene.attack(() => {
        const victim = scene.victim({ packed, start: false });
        const { frontEnd, memory } = victim;
        const steps = [() => frontEnd.addMemRegion(memory.regions[0] as never)];
        for (const queue of victim.queues) {
          const { index, ring, kickFd, callFd } = queue;
          const one = addressesOf(victim, queue);
          steps.push(
            () => frontEnd.setVringNum(index, ring.size),
            () => frontEnd.setVringBase(index, ring.initialBase),
            () => frontEnd.order(m.SET_VRING_ADDR, addresses(index, one)),
            () => frontEnd.setVringKick(index, kickFd),
            () => frontEnd.setVringCall(index, callFd),
            () => frontEnd.setVringEnable(index, true),
            // The driver may kick as soon as it likes.
            () => void sys.eventSignal(kickFd),
          );
        }
        const request = victim.read(0, 512);
        const head = victim.ring.offer(request.chain);
        victim.ring.publish();
        // The base of a ring that starts before it is told is another one: that comes first.
        const isBase = (step: () => void): boolean => String(step).includes("setVringBase");
        const first = steps.filter(isBase);
        const rest = shuffled(
          steps.filter((step) => !isBase(step)),
          prng,
        );
        for (const step of [...first, ...rest]) step();
        assert.deepEqual(victim.waitUsed(1), [{ id: head, len: 513 }]);
        victim.probe();
      });
    }
  }
});

function shuffled<T>(items: readonly T[], prng: Prng): T[] {
  const left = [...items];
  const out: T[] = [];
  while (left.length > 0) out.push(...left.splice(prng.below(left.length), 1));
  return out;
}

function configMessage(offset: number, size: number, flags: number, data: number): Uint8Array {
  const payload = new Uint8Array(m.CONFIG_HEADER.BYTES + data);
  const view = new DataView(payload.buffer);
  view.setUint32(m.CONFIG_HEADER.offset, offset, true);
  view.setUint32(m.CONFIG_HEADER.size, size, true);
  view.setUint32(m.CONFIG_HEADER.flags, flags, true);
  return payload;
}

test("row 53: GET_CONFIG beyond the space is answered with size 0", async () => {
  await scene.attack(() => {
    const victim = scene.victim();
    for (const [offset, size] of [
      [0, 257],
      [256, 1],
      [255, 2],
      [0xffffffff, 1],
      [0xffffffff, 0xffffffff],
      [1, 0xffffffff],
      [0x80000000, 0x80000000],
      [0, 0],
    ] as const) {
      const reply = victim.frontEnd.query(m.GET_CONFIG, configMessage(offset, size, 0, 4));
      assert.equal(reply.payload.length, 0, `${offset}+${size}`);
    }
    // Odd sizes and offsets within it are ordinary; what is not ours is zero.
    for (const [offset, size] of [
      [0, 57],
      [0, 256],
      [95, 161],
      [255, 1],
      [32, 1],
    ] as const) {
      assert.equal(victim.frontEnd.getConfig(offset, size).length, size);
    }
    assert.ok(victim.frontEnd.getConfig(96, 160).every((byte) => byte === 0));
    victim.probe();
  });
});

test("row 53: SET_CONFIG beyond the space, or to what is read-only, is refused", async () => {
  await scene.attack(() => {
    const victim = scene.victim();
    const before = victim.frontEnd.getConfig(0, 256);
    for (const [offset, size, flags, data] of [
      [0, 257, 0, 256],
      [256, 1, 0, 1],
      [0xffffffff, 1, 0, 1],
      [0, 0xffffffff, 0, 8],
      // More than the message brings.
      [0, 8, 0, 7],
      [32, 1, 0, 0],
      // Flags that do not exist.
      [32, 1, 2, 1],
      [32, 1, 0xffffffff, 1],
      // Read-only: capacity, block size, and beyond our fields.
      [0, 8, 0, 8],
      [20, 4, 0, 4],
    ] as const) {
      const payload = configMessage(offset, size, flags, data);
      assert.ok(isRefused(victim, m.SET_CONFIG, payload), `${offset}+${size} flags ${flags}`);
    }
    const two = configMessage(v.BLK_CONFIG.writeback, 1, 0, 1);
    two[m.CONFIG_HEADER.BYTES] = 2;
    assert.ok(isRefused(victim, m.SET_CONFIG, two), "writeback 2");
    assert.deepEqual(victim.frontEnd.getConfig(0, 256), before);
    victim.frontEnd.setConfig(v.BLK_CONFIG.writeback, Uint8Array.of(0));
    assert.equal(victim.frontEnd.getConfig(v.BLK_CONFIG.writeback, 1)[0], 0);
    // A migration hands over all of it: only writeback is taken.
    victim.frontEnd.setConfig(0, new Uint8Array(256).fill(1), m.CONFIG_FLAG_MIGRATION);
    assert.deepEqual(victim.frontEnd.getConfig(0, 256), before);
    victim.probe();
  });
});
