// Rows 54 to 58 of the hostile input checklist: inflight regions and migration logs that are none,
// connections that come and go, a second front-end, and a channel that nobody reads.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Prng } from "../../base/index.ts";
import { BackendChannel, bit, FrontEnd, type InflightRegion } from "../../load/index.ts";
import * as sys from "../../sys/index.ts";
import * as m from "../../vhost-user/messages.ts";
import * as v from "../../virtio/index.ts";
import type { HostileRegion } from "./guest.ts";
import { Scene } from "./scene.ts";
import { GUEST_BASE, type Victim, type VictimOptions, WAIT_MS } from "./victim.ts";

let scene: Scene;
before(async (t) => {
  scene = await Scene.open(t as never);
});

const PAGE_BYTES = 4096;
/** A queue of 16 in a region: 16 + 16 * 16 for a split ring, 32 + 16 * 32 for a packed one. */
const SPLIT_BYTES = 320;

function memoryFile(victim: Victim, bytes: number): number {
  return victim.own(sys.check(sys.memfd("hostile", bytes), "memfd"));
}

test("row 54: GET_INFLIGHT_FD for impossible queues ends the session", async () => {
  for (const [queueCount, queueSize] of [
    [0, 16],
    [17, 16],
    [65535, 16],
    [1, 0],
    [1, 65535],
    [65535, 65535],
  ] as const) {
    await scene.attack(() => {
      const victim = scene.victim({ start: false });
      const payload = new Uint8Array(m.INFLIGHT.BYTES);
      const view = new DataView(payload.buffer);
      view.setUint16(m.INFLIGHT.queueCount, queueCount, true);
      view.setUint16(m.INFLIGHT.queueSize, queueSize, true);
      victim.frontEnd.sendMessage({ request: m.GET_INFLIGHT_FD, payload });
      assert.ok(victim.frontEnd.waitClosed(WAIT_MS), `${queueCount} queues of ${queueSize}`);
    });
  }
});

test("row 54: SET_INFLIGHT_FD of impossible numbers or files is refused", async () => {
  await scene.attack(() => {
    const victim = scene.victim({ start: false });
    const fd = memoryFile(victim, 65536);
    const unsealable = memoryFile(victim, 65536);
    sys.check(sys.addSeals(unsealable, sys.F_SEAL_SEAL), "seal");
    const [reader, writer] = sys.pipe();
    victim.own(reader);
    victim.own(writer);
    const good: InflightRegion = {
      mmapSizeBytes: PAGE_BYTES,
      mmapOffsetBytes: 0,
      queueCount: 2,
      queueSize: 16,
      fd,
    };
    const wrong: Partial<InflightRegion>[] = [
      { queueCount: 0 },
      { queueCount: 17 },
      { queueCount: 65535, queueSize: 65535 },
      { queueSize: 0 },
      { queueSize: 65535 },
      { mmapSizeBytes: 0 },
      { mmapSizeBytes: 2 * SPLIT_BYTES - 1 },
      { mmapOffsetBytes: 1 },
      { mmapOffsetBytes: 65536 },
      { mmapOffsetBytes: 2 ** 52 },
      { mmapOffsetBytes: 2 ** 53 - 4096 },
      { fd: unsealable },
      { fd: reader },
      { fd: victim.eventfd() },
    ];
    for (const one of wrong) {
      assert.throws(
        () => victim.frontEnd.setInflightFd({ ...good, ...one }),
        /refused SET_INFLIGHT_FD/,
        JSON.stringify(one),
      );
    }
    victim.frontEnd.setInflightFd(good);
    victim.start();
    victim.probe();
    // And not while rings run.
    assert.throws(() => victim.frontEnd.setInflightFd(good), /refused/);
    victim.probe();
  });
});

/** What the other owner of an inflight region may have done to it. */
const CORRUPTIONS: readonly [string, boolean, (region: DataView) => void][] = [
  ["version 2", false, (view) => view.setUint16(8, 2, true)],
  ["desc_num 8", false, (view) => view.setUint16(10, 8, true)],
  ["used_idx far away", true, (view) => view.setUint16(14, 0x8000, true)],
  [
    "last_batch_head out of range",
    true,
    (view) => {
      view.setUint16(12, 0xffff, true);
      view.setUint16(14, 0xffff, true);
    },
  ],
  [
    "a list that loops",
    true,
    (view) => {
      view.setUint16(14, 0xfffe, true);
      view.setUint16(12, 3, true);
      view.setUint16(16 + 3 * 16 + 6, 3, true);
    },
  ],
  [
    "everything in flight",
    true,
    (view) => {
      for (let entry = 0; entry < 16; entry++) view.setUint8(16 + entry * 16, 1);
    },
  ],
];

for (const [name, startsAnyhow, corrupt] of CORRUPTIONS) {
  test(`row 54: an inflight region with ${name} is refused, or breaks its ring`, async () => {
    await scene.attack(async () => {
      const victim = scene.victim({ start: false });
      const fd = memoryFile(victim, PAGE_BYTES);
      const protection = sys.PROT_READ | sys.PROT_WRITE;
      const address = sys.mmap(PAGE_BYTES, protection, sys.MAP_SHARED, fd, 0);
      const view = new DataView(sys.windowOver(address, PAGE_BYTES));
      view.setUint16(8, 1, true);
      view.setUint16(10, 16, true);
      corrupt(view);
      const region = {
        mmapSizeBytes: SPLIT_BYTES,
        mmapOffsetBytes: 0,
        queueCount: 1,
        queueSize: 16,
        fd,
      };
      try {
        if (!startsAnyhow) {
          assert.throws(() => victim.frontEnd.setInflightFd(region), /refused/);
          victim.start();
          assert.equal(victim.run(victim.read(0, 512)).status, v.BLK_S_OK);
          return;
        }
        victim.frontEnd.setInflightFd(region);
        victim.start();
        victim.waitBroken();
        assert.equal((await scene.brokenReasons()).length, 1);
        victim.probe();
      } finally {
        sys.munmap(address, PAGE_BYTES);
      }
    });
  });
}

test("row 54: an inflight region made for the other kind of ring breaks the ring", async () => {
  for (const packed of [false, true]) {
    await scene.attack(async () => {
      const victim = scene.victim({ packed, start: false });
      const { frontEnd } = victim;
      const flip = bit(v.F_RING_PACKED);
      frontEnd.setFeatures(victim.features ^ flip);
      const region = frontEnd.getInflightFd(2, 16);
      victim.own(region.fd);
      frontEnd.setFeatures(victim.features);
      victim.start();
      victim.waitBroken();
      assert.match((await scene.brokenReasons()).join(), /other kind/);
    });
  }
});

test("row 54: an inflight region that changes while it is used harms nobody", async () => {
  const prng = new Prng(54);
  for (const packed of [false, true]) {
    await scene.attack(async () => {
      const victim = scene.victim({ packed, start: false });
      const region = victim.frontEnd.getInflightFd(2, 16);
      victim.own(region.fd);
      const protection = sys.PROT_READ | sys.PROT_WRITE;
      const address = sys.mmap(PAGE_BYTES, protection, sys.MAP_SHARED, region.fd, 0);
      const bytes = new Uint8Array(sys.windowOver(address, 2048));
      victim.start();
      try {
        for (let round = 0; round < 100; round++) {
          const mark = victim.memory.mark();
          for (let count = 0; count < 40; count++) {
            bytes[prng.below(bytes.length)] = prng.chance(0.5) ? 0xff : prng.below(256);
          }
          assert.equal(victim.run(victim.read(0, 512)).status, v.BLK_S_OK);
          victim.memory.reset(mark);
        }
      } finally {
        sys.munmap(address, PAGE_BYTES);
      }
    });
  }
});

function logMessage(bytes: bigint, offset: bigint): Uint8Array {
  const payload = new Uint8Array(m.LOG.BYTES);
  const view = new DataView(payload.buffer);
  view.setBigUint64(m.LOG.mmapSize, bytes, true);
  view.setBigUint64(m.LOG.mmapOffset, offset, true);
  return payload;
}

/** Bytes of log for the victim's 1 MiB at 4 GiB. */
const LOG_BYTES = (GUEST_BASE + (1 << 20)) / PAGE_BYTES / 8;

test("row 55: logs too small, misaligned, short, or in memory that can go away are refused", async () => {
  await scene.attack(() => {
    const victim = scene.victim();
    const fd = memoryFile(victim, 1 << 20);
    const unsealable = memoryFile(victim, 1 << 20);
    sys.check(sys.addSeals(unsealable, sys.F_SEAL_SEAL), "seal");
    const [reader, writer] = sys.pipe();
    victim.own(reader);
    victim.own(writer);
    const bytes = BigInt(LOG_BYTES);
    const wrong: readonly (readonly [bigint, bigint, number])[] = [
      [0n, 0n, fd],
      [bytes - 1n, 0n, fd],
      [bytes, 1n, fd],
      [bytes, 1n << 20n, fd],
      [2n ** 21n, 0n, fd],
      [2n ** 31n, 0n, fd],
      [2n ** 64n - 1n, 0n, fd],
      [bytes, 2n ** 64n - 4096n, fd],
      [bytes, 0n, unsealable],
      [bytes, 0n, reader],
    ];
    for (const [size, offset, file] of wrong) {
      const reply = victim.frontEnd.query(m.SET_LOG_BASE, logMessage(size, offset), [file]);
      assert.notEqual(reply.payload[0], 0, `${size} at ${offset}`);
    }
    const reply = victim.frontEnd.query(m.SET_LOG_BASE, logMessage(bytes, 0n), [fd]);
    assert.equal(reply.payload[0], 0);
    victim.probe();
  });
});

test("row 55: without LOG_SHMFD a log is acknowledged, with and without NEED_REPLY", async () => {
  await scene.attack(() => {
    const victim = scene.victim({ withoutProtocol: [m.PROTOCOL_F_LOG_SHMFD] });
    const fd = memoryFile(victim, 1 << 20);
    const payload = logMessage(BigInt(LOG_BYTES), 0n);
    victim.frontEnd.order(m.SET_LOG_BASE, payload, [fd]);
    victim.frontEnd.sendMessage({ request: m.SET_LOG_BASE, payload, fds: [fd] });
    victim.probe();
  });
});

test("row 55: pages beyond the log are not marked anywhere", async () => {
  for (const packed of [false, true]) {
    await scene.attack(() => {
      const kind = "memfd" as const;
      const victim = scene.victim({ kind, packed });
      const { frontEnd } = victim;
      const fd = memoryFile(victim, 1 << 20);
      const protection = sys.PROT_READ | sys.PROT_WRITE;
      const address = sys.mmap(1 << 20, protection, sys.MAP_SHARED, fd, 0);
      const log = new Uint8Array(sys.windowOver(address, 1 << 20));
      try {
        const reply = frontEnd.query(m.SET_LOG_BASE, logMessage(BigInt(LOG_BYTES), 0n), [fd]);
        assert.equal(reply.payload[0], 0);
        frontEnd.setFeatures(victim.features | bit(m.VHOST_F_LOG_ALL));
        // The ring is logged far beyond the log's end; the new region lies beyond it too.
        const { ring } = victim.queue();
        const beyond = victim.memory.add({ guestAddress: 2 ** 40, bytes: 1 << 20, kind });
        frontEnd.addMemRegion(beyond);
        frontEnd.setVringAddr({
          index: 0,
          descriptor: victim.memory.userAddress(ring.descriptorGpa),
          used: victim.memory.userAddress(ring.usedGpa),
          available: victim.memory.userAddress(ring.availGpa),
          flags: m.VRING_ADDR_F_LOG,
          log: 2 ** 52,
        });
        const { chain, statusGpa, ...rest } = victim.read(0, 512);
        const dataGpa = victim.memory.allocate(512, 16, beyond as HostileRegion);
        const data = { addr: dataGpa, len: 512, write: true };
        const ends = [chain[0], data, chain[2]] as typeof chain;
        const answer = victim.run({ ...rest, chain: ends, statusGpa, dataGpa });
        assert.equal(answer.status, v.BLK_S_OK);
        const page = Math.floor(statusGpa / PAGE_BYTES);
        assert.ok(((log[page >>> 3] as number) >>> (page & 7)) & 1, "the status byte's page");
        const marked = log.reduce((sum, byte) => sum + (byte === 0 ? 0 : 1), 0);
        assert.ok(marked <= 4, `${marked} bytes of the log were marked`);
        assert.ok(
          log.subarray(LOG_BYTES).every((byte) => byte === 0),
          "beyond the log's end",
        );
      } finally {
        sys.munmap(address, 1 << 20);
      }
    });
  }
});

test("row 56: a front-end that says nothing may stay; half a message may not", async () => {
  await scene.attack(async () => {
    const silent = FrontEnd.connect(scene.victimPath);
    const half = FrontEnd.connect(scene.victimPath);
    const payload = FrontEnd.connect(scene.victimPath);
    try {
      half.sendRaw(Uint8Array.of(1, 0, 0, 0, 1));
      const header = new Uint8Array(m.HEADER.BYTES);
      new DataView(header.buffer).setUint32(0, m.SET_FEATURES, true);
      header[4] = 1;
      header[8] = 8;
      payload.sendRaw(header);
      const startedMs = Date.now();
      assert.ok(half.waitClosed(15_000), "half a header is waited for without end");
      assert.ok(payload.waitClosed(15_000), "half a message is waited for without end");
      assert.ok(Date.now() - startedMs > 1000, "a slow front-end needs some time");
      assert.ok(silent.getFeatures() > 0n, "the silent one was cut off");
    } finally {
      for (const one of [silent, half, payload]) one.close();
    }
  });
});

test("row 56: a message may come byte by byte", async () => {
  await scene.attack(async () => {
    const frontEnd = FrontEnd.connect(scene.victimPath);
    for (let round = 0; round < 3; round++) {
      for (const byte of [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]) {
        frontEnd.sendRaw(Uint8Array.of(byte));
        await sleep(2);
      }
      assert.equal(frontEnd.receiveMessage().request, m.GET_FEATURES);
    }
    frontEnd.close();
  });
});

test("row 56: sessions that end anywhere leave nothing", async () => {
  const prng = new Prng(56);
  await scene.attack(async () => {
    for (let round = 0; round < 150; round++) {
      const options: VictimOptions = {
        packed: prng.chance(0.5),
        kind: prng.pick(["memfd", "memfd-unsealable"] as const),
        inflight: prng.chance(0.5),
        start: prng.chance(0.8),
      };
      const victim = scene.victim(options);
      if (options.start === true) {
        for (let count = prng.below(4); count > 0; count--) {
          victim.ring.offer(victim.read(prng.below(64), 512 * prng.between(1, 8)).chain);
        }
        victim.go();
      }
      if (prng.chance(0.5)) {
        // In the middle of a message, with descriptors on the way.
        const bytes = new Uint8Array(prng.between(1, 20)).fill(1);
        victim.frontEnd.sendRaw(bytes, [victim.eventfd()]);
      }
      scene.closeVictims();
      if (round % 25 === 24) scene.probeNeighbour();
    }
  });
});

test("row 56: more connections than a device takes are closed at once", async () => {
  await scene.attack(async () => {
    const open = Array.from({ length: 40 }, () => FrontEnd.connect(scene.victimPath));
    try {
      const served = open.filter((one) => {
        try {
          return one.getFeatures() > 0n;
        } catch {
          return false;
        }
      });
      assert.equal(served.length, 16);
    } finally {
      for (const one of open) one.close();
    }
    await scene.settle();
    const victim = scene.victim();
    victim.probe();
  });
});

test("row 57: a second front-end waits, and is refused while the first lives", async () => {
  await scene.attack(async () => {
    const first = scene.victim();
    const second = scene.victim();
    second.ring.offer(second.read(0, 512).chain);
    second.go();
    first.probe();
    assert.deepEqual(second.ring.takeUsed(), [], "two front-ends are served at once");
    assert.ok(second.frontEnd.waitClosed(WAIT_MS), "the second was neither served nor refused");
    first.probe();
    assert.equal(first.run(first.read(0, 512)).status, v.BLK_S_OK);
  });
});

test("row 57: a second front-end takes over when the first stops, or ends", async () => {
  for (const ends of [false, true]) {
    await scene.attack(async () => {
      const first = scene.victim();
      const second = scene.victim();
      const head = second.ring.offer(second.read(0, 512).chain);
      second.go();
      first.probe();
      if (ends) first.frontEnd.close();
      else for (const queue of first.queues) first.frontEnd.getVringBase(queue.index);
      assert.deepEqual(second.waitUsed(1), [{ id: head, len: 513 }]);
      second.probe();
      if (!ends) first.barrier();
    });
  }
});

test("row 57: a second front-end is not served before the first one's I/O has ended", async () => {
  await scene.attack(async () => {
    const first = scene.victim();
    await scene.target.hold(scene.victimName);
    first.ring.offer(first.read(0, 4096).chain);
    first.go();
    const isHeld = (count: number) => (counts: Awaited<ReturnType<typeof scene.target.counts>>) =>
      counts.devices[scene.victimName]?.heldCount === count;
    await scene.target.until(isHeld(1), "taken");
    first.frontEnd.close();
    const second = scene.victim();
    second.ring.offer(second.read(0, 512).chain);
    second.go();
    await sleep(50);
    assert.ok(isHeld(1)(await scene.target.counts()), "the second was served too early");
    await scene.target.release(scene.victimName);
    assert.equal(second.waitUsed(1)[0]?.len, 513);
  });
});

test("row 58: a back-end channel that nobody reads holds up nothing", async () => {
  await scene.attack(async () => {
    const victim = scene.victim();
    const channel = new BackendChannel();
    try {
      victim.frontEnd.setBackendReqFd(channel.backendFd);
      channel.handedOver();
      // A message is twelve bytes, the socket holds some hundred thousand.
      for (let count = 0; count < 2000; count++) {
        await scene.target.resize(scene.victimName, (64 + (count % 2)) * 1024 * 1024);
      }
      victim.probe();
      assert.equal(victim.run(victim.read(0, 512)).status, v.BLK_S_OK);
      assert.equal(channel.next(1000)?.request, m.BACKEND_CONFIG_CHANGE_MSG);
    } finally {
      channel.close();
    }
  });
});

test("row 58: a back-end channel may be anything", async () => {
  await scene.attack(async () => {
    const victim = scene.victim();
    const [reader, writer] = sys.pipe();
    const [left, right] = sys.socketPair(false);
    for (const fd of [reader, writer, left, right]) victim.own(fd);
    const address = victim.memory.regions[0]?.file.address ?? 0;
    while (sys.writeNoWait(writer, address, 4096) > 0);
    while (sys.writeNoWait(left, address, 4096) > 0);
    const channels = [writer, reader, left, victim.eventfd(), victim.memory.regions[0]?.fd ?? -1];
    for (const [index, fd] of channels.entries()) {
      victim.frontEnd.setBackendReqFd(fd);
      await scene.target.resize(scene.victimName, (65 + index) * 1024 * 1024);
      victim.probe();
    }
  });
});
