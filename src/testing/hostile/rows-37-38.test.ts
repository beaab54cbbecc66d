// Rows 37 and 38 of the hostile input checklist: notifications in
// both directions. A guest may kick as it likes, a front-end may hand in any descriptor to be
// called on: neither may slow down or stop anybody else.

import assert from "node:assert/strict";
import { openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import * as sys from "../../sys/index.ts";
import * as m from "../../vhost-user/messages.ts";
import * as v from "../../virtio/index.ts";
import { Racer } from "./racer.ts";
import { Scene } from "./scene.ts";
import { type Victim, type VictimOptions, WAIT_MS } from "./victim.ts";

let scene: Scene;
before(async (t) => {
  scene = await Scene.open(t as never);
});

const OK = v.BLK_S_OK;
const VARIANTS: readonly VictimOptions[] = [
  { kind: "memfd", packed: false },
  { kind: "memfd-unsealable", packed: true },
];
const PROBES = 50;
const SYS_FCNTL = process.arch === "arm64" ? 25 : 72;
const F_SETFL = 4;
/** One less than an eventfd can hold: the next write of 1 would block, or fail. */
const EVENT_MAX = 0xffff_ffff_ffff_fffen;

test("row 37: a flood of kicks with nothing behind them leaves time for others", async () => {
  for (const variant of VARIANTS) {
    await scene.attack(async () => {
      const victim = scene.victim(variant);
      const { kickFd } = victim.queue();
      const racers = [kickFd, victim.queue(1).kickFd].map(
        (fd) => new Racer({ kickFd: fd, kickEvery: 1, flips: [], refill: null }),
      );
      try {
        for (const racer of racers) await racer.begun();
        const startedMs = Date.now();
        for (let count = 0; count < PROBES; count++) scene.probeNeighbour();
        const tookMs = Date.now() - startedMs;
        assert.ok(tookMs < PROBES * 100, `${PROBES} probes took ${tookMs} ms`);
        assert.equal(victim.run(victim.read(0, 512)).status, OK);
      } finally {
        for (const racer of racers) await racer.stop();
      }
    });
  }
});

test("row 37: a guest that always has requests leaves time for others", async () => {
  await scene.attack(async () => {
    const victim = scene.victim({ ringSize: 4 });
    const racer = victim.refillWithoutEnd();
    try {
      await racer.begun();
      victim.go();
      for (let count = 0; count < PROBES; count++) scene.probeNeighbour();
    } finally {
      await racer.stop();
    }
  });
});

test("row 37: kicks without requests, and requests without kicks, do no harm", async () => {
  for (const variant of VARIANTS) {
    await scene.attack(() => {
      const victim = scene.victim(variant);
      for (let count = 0; count < 1000; count++) victim.kick();
      victim.expectQuiet();
      // Offered and never kicked: nobody has to look, nobody may mind.
      const request = victim.read(0, 512);
      victim.ring.offer(request.chain);
      victim.ring.publish();
      victim.barrier();
      victim.kick();
      assert.equal(victim.waitUsed(1)[0]?.len, 513);
    });
    await scene.attack(() => {
      const victim = scene.victim({ ...variant, kicks: false });
      for (let count = 0; count < 5; count++) {
        assert.equal(victim.run(victim.read(0, 512)).status, OK);
      }
    });
  }
});

interface Callee {
  readonly name: string;
  /** A descriptor to be called on, and what is to be done about it once it is handed over. */
  readonly make: (victim: Victim) => { fd: number; then?: () => void };
}

function blocking(fd: number): void {
  sys.check(sys.syscall6(SYS_FCNTL, fd, F_SETFL, 0, 0, 0, 0), "F_SETFL");
}

function fill(victim: Victim, fd: number): void {
  const gpa = victim.memory.allocate(8, 8);
  victim.memory.window(gpa, 8).setBigUint64(0, EVENT_MAX, true);
  sys.check(sys.write(fd, victim.memory.hostAddress(gpa), 8), "write");
}

/** Fills a pipe or socket until it takes no more. */
function stuff(victim: Victim, fd: number): void {
  const address = victim.memory.regions[0]?.file.address ?? 0;
  while (sys.writeNoWait(fd, address, 4096) > 0);
}

const CALLEES: readonly Callee[] = [
  {
    name: "a full eventfd",
    make: (victim) => {
      const fd = victim.eventfd();
      fill(victim, fd);
      return { fd };
    },
  },
  {
    name: "a full eventfd that blocks",
    make: (victim) => {
      const fd = victim.eventfd();
      fill(victim, fd);
      blocking(fd);
      return { fd };
    },
  },
  {
    name: "an eventfd that is made to block and filled afterwards",
    make: (victim) => {
      const fd = victim.eventfd();
      return {
        fd,
        // biome-ignore lint/suspicious/noThenProperty: what is done next; nobody awaits this.
        then: () => {
          // Not in the other order: the target has signalled it already, and we would block.
          sys.eventClear(fd);
          fill(victim, fd);
          blocking(fd);
        },
      };
    },
  },
  {
    name: "a full pipe that blocks",
    make: (victim) => {
      const [read, write] = sys.pipe();
      victim.own(read);
      victim.own(write);
      stuff(victim, write);
      return { fd: write };
    },
  },
  {
    name: "a pipe without a reader",
    make: (victim) => {
      const [read, write] = sys.pipe();
      victim.own(write);
      sys.close(read);
      return { fd: write };
    },
  },
  {
    name: "the reading end of a pipe",
    make: (victim) => {
      const [read, write] = sys.pipe();
      victim.own(read);
      victim.own(write);
      return { fd: read };
    },
  },
  {
    name: "a socket that is full and blocks",
    make: (victim) => {
      const [ours, theirs] = sys.socketPair(false);
      victim.own(ours);
      victim.own(theirs);
      stuff(victim, theirs);
      return { fd: theirs };
    },
  },
  {
    name: "a socket whose peer is gone",
    make: (victim) => {
      const [ours, theirs] = sys.socketPair(false);
      victim.own(theirs);
      sys.close(ours);
      return { fd: theirs };
    },
  },
  {
    name: "guest memory",
    make: (victim) => ({ fd: victim.memory.regions[0]?.fd ?? -1 }),
  },
  {
    name: "/dev/null",
    make: (victim) => ({ fd: victim.own(openSync("/dev/null", "r+")) }),
  },
  {
    name: "a folder",
    make: (victim) => ({ fd: victim.own(openSync(scene.target.folder, "r")) }),
  },
];

for (const { name, make } of CALLEES) {
  test(`row 38: ${name} as call and err descriptor blocks nobody`, async () => {
    for (const variant of VARIANTS) {
      await scene.attack(async () => {
        const victim = scene.victim(variant);
        const { fd, then } = make(victim);
        victim.frontEnd.setVringCall(0, fd);
        victim.frontEnd.setVringErr(0, fd);
        then?.();
        for (let count = 0; count < 20; count++) {
          const request = victim.read(0, 512);
          victim.ring.offer(request.chain);
          victim.go();
          waitAnswered(victim, request.statusGpa);
        }
        scene.probeNeighbour();
        victim.probe();
        // The err descriptor is signalled when the ring breaks.
        victim.ring.offer([{ addr: victim.header(v.BLK_T_IN, 0), len: 16 }]);
        victim.go();
        victim.barrier();
        assert.deepEqual(await scene.brokenReasons(), ["NO_STATUS"]);
        scene.probeNeighbour();
        victim.probe();
      });
    }
  });
}

function waitAnswered(victim: Victim, statusGpa: number): void {
  const deadline = Date.now() + WAIT_MS;
  while (victim.memory.read(statusGpa, 1)[0] !== OK) {
    assert.ok(Date.now() < deadline, "never answered");
    victim.barrier();
  }
}

test("row 38: the session's own socket as call descriptor ends that session at most", async () => {
  await scene.attack(() => {
    const victim = scene.victim();
    // Signals are bytes that the session receives as if we had sent them.
    victim.frontEnd.sendMessage({
      request: m.SET_VRING_CALL,
      payload: new Uint8Array(8),
      fds: [victim.frontEnd.fd],
    });
    victim.ring.offer(victim.read(0, 512).chain);
    victim.go();
    scene.probeNeighbour();
  });
});

test("row 38: a file as call descriptor is not written", async () => {
  const path = join(scene.target.folder, "untouched");
  await scene.attack(() => {
    const victim = scene.victim();
    const flags = sys.O_RDWR | sys.O_CREAT;
    const fd = victim.own(sys.check(sys.open(path, flags, 0o600), "open", path));
    victim.frontEnd.setVringCall(0, fd);
    victim.ring.offer(victim.read(0, 512).chain);
    victim.go();
    victim.waitUsed(1);
  });
  assert.equal(readFileSync(path).length, 0);
});

test("row 38: kick descriptors that are no eventfd, pipe or socket are refused", async () => {
  await scene.attack(() => {
    const victim = scene.victim();
    const files = [
      victim.memory.regions[0]?.fd ?? -1,
      victim.own(openSync("/dev/zero", "r")),
      victim.own(openSync(scene.target.folder, "r")),
    ];
    for (const fd of files) {
      assert.throws(() => victim.frontEnd.setVringKick(0, fd), /refused SET_VRING_KICK/);
    }
    victim.probe();
    assert.equal(victim.run(victim.read(0, 512)).status, OK);
  });
});

test("row 38: a kick pipe that is full, or whose writer is gone, is drained or dropped", async () => {
  await scene.attack(() => {
    const victim = scene.victim();
    const [read, write] = sys.pipe();
    victim.own(read);
    stuff(victim, write);
    victim.frontEnd.setVringKick(0, read);
    const request = victim.read(0, 512);
    victim.ring.offer(request.chain);
    victim.ring.publish();
    sys.writeNoWait(write, victim.memory.regions[0]?.file.address ?? 0, 8);
    victim.waitUsed(1);
    sys.close(write);
    victim.barrier();
    victim.probe();
  });
});
