// Rows 42 to 48 of the hostile input checklist: messages that are none, descriptors that do not
// belong to them, and memory that is no memory. What breaks the framing ends the session; what is
// merely wrong is refused where an acknowledgement was asked for, and ends the session otherwise.

import assert from "node:assert/strict";
import { openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import { memTablePayload, singleRegionPayload, type WireRegion } from "../../load/index.ts";
import * as sys from "../../sys/index.ts";
import * as m from "../../vhost-user/messages.ts";
import * as v from "../../virtio/index.ts";
import { GUARD_BYTES, type HostileRegion } from "./guest.ts";
import { lingeringSocket } from "./lingering.ts";
import { Scene } from "./scene.ts";
import { GUEST_BASE, type Victim, type VictimOptions } from "./victim.ts";

let scene: Scene;
before(async (t) => {
  scene = await Scene.open(t as never);
});

const NEED_REPLY = m.FLAG_VERSION | m.FLAG_NEED_REPLY;
const CLOSE_TIMEOUT_MS = 30_000;
const REGION_BYTES = 1 << 20;

/** `send` must end the session; nothing else may come of it. */
async function cuts(send: (victim: Victim) => void, options: VictimOptions = {}): Promise<void> {
  await scene.attack(() => {
    const victim = scene.victim(options);
    send(victim);
    assert.ok(victim.frontEnd.waitClosed(CLOSE_TIMEOUT_MS), "the session was not ended");
  });
}

function header(request: number, flags: number, bytes: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(m.HEADER.BYTES));
  view.setUint32(m.HEADER.request, request, true);
  view.setUint32(m.HEADER.flags, flags, true);
  view.setUint32(m.HEADER.size, bytes, true);
  return new Uint8Array(view.buffer);
}

function* knownRequests(): Generator<m.RequestInfo> {
  for (let number = 1; number < m.REQUEST_LIMIT; number++) {
    const info = m.requestInfo(number);
    if (info !== undefined) yield info;
  }
}

test("row 42: a message of more bytes than any has ends the session", async () => {
  for (const bytes of [m.PAYLOAD_BYTES_MAX + 1, 4096, 0x7fffffff, 0xffffffff]) {
    await cuts((victim) => victim.frontEnd.sendRaw(header(m.GET_FEATURES, NEED_REPLY, bytes)));
  }
});

test("row 42: every request with too small or too large a payload ends the session", async () => {
  await scene.attack(async () => {
    for (const { number, name, payloadBytesMin, payloadBytesMax } of knownRequests()) {
      const wrong = [payloadBytesMin - 1, 0, payloadBytesMax + 1, m.PAYLOAD_BYTES_MAX];
      const sizes = wrong.filter((bytes) => bytes >= 0 && bytes <= m.PAYLOAD_BYTES_MAX);
      for (const bytes of new Set(sizes)) {
        if (bytes >= payloadBytesMin && bytes <= payloadBytesMax) continue;
        const victim = scene.victim({ start: false });
        const payload = new Uint8Array(bytes);
        victim.frontEnd.sendMessage({ request: number, flags: NEED_REPLY, payload });
        assert.ok(victim.frontEnd.waitClosed(CLOSE_TIMEOUT_MS), `${name} of ${bytes} bytes`);
        scene.closeVictims();
      }
    }
  });
});

test("row 43: a wrong version, the REPLY flag and reserved flags end the session", async () => {
  const flags = [0, 2, 3, m.FLAG_VERSION | m.FLAG_REPLY, NEED_REPLY | m.FLAG_REPLY];
  flags.push(m.FLAG_VERSION | 16, NEED_REPLY | 0x80000000, 0xffffffff);
  for (const one of flags) {
    await cuts((victim) => victim.frontEnd.sendRaw(header(m.GET_FEATURES, one, 0)));
  }
});

test("row 44: an unknown request is refused, or ends the session; its descriptors are closed", async () => {
  const numbers = [0, m.REQUEST_LIMIT, 99, 0x7fffffff, 0xffffffff];
  await scene.attack(() => {
    const victim = scene.victim();
    for (const request of numbers) {
      const fds = [victim.eventfd(), victim.eventfd()];
      const payload = new Uint8Array(20);
      victim.frontEnd.sendMessage({ request, flags: NEED_REPLY, payload, fds });
      const reply = victim.frontEnd.receiveMessage();
      assert.equal(reply.request, request);
      assert.notEqual(reply.payload[0], 0);
    }
    victim.probe();
  });
  for (const request of numbers) {
    await cuts((victim) => {
      victim.frontEnd.sendMessage({ request, payload: new Uint8Array(8), fds: [victim.eventfd()] });
    });
  }
});

test("row 44: requests of features that were not offered are refused", async () => {
  const requests = [
    m.SEND_RARP,
    m.NET_SET_MTU,
    m.IOTLB_MSG,
    m.SET_VRING_ENDIAN,
    m.CREATE_CRYPTO_SESSION,
    m.CLOSE_CRYPTO_SESSION,
    m.POSTCOPY_ADVISE,
    m.POSTCOPY_LISTEN,
    m.POSTCOPY_END,
    m.GPU_SET_SOCKET,
    m.VRING_KICK,
    m.GET_SHARED_OBJECT,
    m.SET_DEVICE_STATE_FD,
    m.CHECK_DEVICE_STATE,
    m.GET_SHMEM_CONFIG,
  ];
  const message = (request: number): { request: number; payload: Uint8Array } => ({
    request,
    payload: new Uint8Array(m.requestInfo(request)?.payloadBytesMin ?? 0),
  });
  await scene.attack(() => {
    const victim = scene.victim();
    for (const request of requests) {
      victim.frontEnd.sendMessage({ ...message(request), flags: NEED_REPLY });
      const reply = victim.frontEnd.receiveMessage();
      assert.equal(reply.request, request);
      assert.equal(reply.payload.length, 8);
      assert.notEqual(reply.payload[0], 0, m.requestName(request));
    }
    victim.probe();
  });
  for (const request of requests) {
    await cuts((victim) => victim.frontEnd.sendMessage(message(request)));
  }
});

test("row 45: descriptors where none belong, or too many, end the session and are closed", async () => {
  await scene.attack(async () => {
    for (const { number, name, payloadBytesMin, fdCountMax } of knownRequests()) {
      const victim = scene.victim({ start: false });
      const fds = Array.from({ length: fdCountMax + 1 }, () => victim.eventfd());
      const payload = new Uint8Array(payloadBytesMin);
      victim.frontEnd.sendMessage({ request: number, flags: NEED_REPLY, payload, fds });
      assert.ok(victim.frontEnd.waitClosed(CLOSE_TIMEOUT_MS), name);
      scene.closeVictims();
      await scene.settle();
    }
  });
  await cuts((victim) => {
    const fds = new Array<number>(sys.DESCRIPTORS_MAX).fill(victim.eventfd());
    victim.frontEnd.sendRaw(header(m.GET_FEATURES, NEED_REPLY, 0), fds);
  });
});

test("row 45: a request that must have a descriptor and has none is refused", async () => {
  const requests = [m.SET_BACKEND_REQ_FD, m.ADD_MEM_REG, m.SET_INFLIGHT_FD, m.SET_VRING_KICK];
  await scene.attack(() => {
    const victim = scene.victim();
    for (const request of requests) {
      const payload = new Uint8Array(m.requestInfo(request)?.payloadBytesMin ?? 0);
      victim.frontEnd.sendMessage({ request, flags: NEED_REPLY, payload });
      assert.notEqual(victim.frontEnd.receiveMessage().payload[0], 0, m.requestName(request));
    }
    const none = m.VRING_FD_NONE;
    for (const request of [m.SET_VRING_CALL, m.SET_VRING_ERR, m.SET_VRING_KICK]) {
      const payload = new Uint8Array(8);
      new DataView(payload.buffer).setUint32(0, none, true);
      const fds = [victim.eventfd()];
      victim.frontEnd.sendMessage({ request, flags: NEED_REPLY, payload, fds });
      assert.notEqual(victim.frontEnd.receiveMessage().payload[0], 0, m.requestName(request));
    }
    victim.probe();
  });
});

test("row 45: a memory table with fewer or more descriptors than regions is refused", async () => {
  await scene.attack(() => {
    const victim = scene.victim();
    const region = first(victim);
    for (const fds of [[], [region.fd, region.fd]]) {
      const payload = memTablePayload([region]);
      victim.frontEnd.sendMessage({ request: m.SET_MEM_TABLE, flags: NEED_REPLY, payload, fds });
      assert.notEqual(victim.frontEnd.receiveMessage().payload[0], 0);
      victim.probe();
    }
  });
});

test("row 45: descriptors that come in many small pieces do not pile up", async () => {
  await scene.attack(async () => {
    const victim = scene.victim({ start: false });
    const before = (await scene.target.counts()).fdCount;
    const fds = new Array<number>(100).fill(victim.eventfd());
    const bytes = header(m.SET_MEM_TABLE, NEED_REPLY, m.MEM_TABLE.BYTES);
    let seen = 0;
    try {
      for (const byte of bytes) {
        victim.frontEnd.sendRaw(Uint8Array.of(byte), fds);
        seen = Math.max(seen, (await scene.target.counts()).fdCount - before);
      }
    } catch (error) {
      assert.match(String(error), /closed the connection/);
    }
    assert.ok(victim.frontEnd.waitClosed(CLOSE_TIMEOUT_MS));
    assert.ok(seen <= 100, `${seen} descriptors were held for half a message`);
  });
});

test("row 45: a descriptor whose last close takes long holds up nobody", async () => {
  const ways: readonly ((victim: Victim, fd: number) => void)[] = [
    (victim, fd) => victim.frontEnd.setVringCall(0, fd),
    (victim, fd) => victim.frontEnd.setVringKick(0, fd),
    (victim, fd) => victim.frontEnd.setBackendReqFd(fd),
    // Refused.
    (victim, fd) => victim.frontEnd.sendMessage({ request: 99, flags: NEED_REPLY, fds: [fd] }),
    // Never looked at: what comes before it ends the session.
    (victim, fd) => {
      victim.frontEnd.sendRaw(new Uint8Array(12).fill(0xff));
      victim.frontEnd.sendRaw(Uint8Array.of(1), [fd]);
    },
  ];
  for (const hand of ways) {
    await scene.attack(() => {
      const victim = scene.victim();
      const { fd, listener } = lingeringSocket();
      try {
        hand(victim, fd);
        // Ours before theirs: the target's is the last.
        sys.close(fd);
      } catch (error) {
        // It was not taken: closed by us, at once.
        assert.match(String(error), /closed the connection/);
        sys.closeReceived(fd);
      }
      const startedMs = Date.now();
      victim.frontEnd.close();
      scene.probeNeighbour();
      sys.close(listener);
      assert.ok(Date.now() - startedMs < 8000, "the target waited for somebody's socket");
    });
  }
});

function first(victim: Victim): HostileRegion {
  return victim.memory.regions[0] as HostileRegion;
}

/** A region message built by hand: numbers may be anything. */
function rawRegion(
  fields: Partial<Record<"gpa" | "bytes" | "uva" | "offset", bigint>>,
): Uint8Array {
  const payload = new Uint8Array(m.SINGLE_REGION.BYTES);
  const view = new DataView(payload.buffer, m.SINGLE_REGION.region);
  const far = BigInt(GUEST_BASE) * 16n;
  view.setBigUint64(m.MEMORY_REGION.guestAddress, fields.gpa ?? far, true);
  view.setBigUint64(m.MEMORY_REGION.memorySize, fields.bytes ?? 4096n, true);
  view.setBigUint64(m.MEMORY_REGION.userAddress, fields.uva ?? far * 16n, true);
  view.setBigUint64(m.MEMORY_REGION.mmapOffset, fields.offset ?? 0n, true);
  return payload;
}

test("row 46: regions of impossible numbers, or that overlap, are refused; the table stays", async () => {
  await scene.attack(async () => {
    const victim = scene.victim();
    const region = first(victim);
    const maps = (await scene.target.counts()).sharedMapCount;
    const gpa = BigInt(region.guestAddress);
    const uva = BigInt(region.userAddress);
    const max = 2n ** 64n - 1n;
    const impossible = [
      { bytes: 0n },
      { bytes: max },
      { bytes: 2n ** 63n },
      { bytes: 2n ** 53n + 4096n },
      { gpa: max },
      { gpa: max - 4095n },
      { gpa: 2n ** 52n },
      { uva: max },
      { uva: max - 4095n },
      { offset: max },
      { offset: max - 4095n },
      { offset: 2n ** 52n },
      // Overlaps: the same again, a part, one byte at either end, the other address alone.
      { gpa, uva, bytes: BigInt(region.bytes), offset: BigInt(GUARD_BYTES) },
      { gpa: gpa + 4096n },
      { gpa: gpa - 4095n },
      { gpa: gpa + BigInt(region.bytes) - 1n },
      { uva: uva + 4096n },
      { uva: uva - 4095n },
    ];
    for (const fields of impossible) {
      const payload = rawRegion(fields);
      const message = { request: m.ADD_MEM_REG, flags: NEED_REPLY, payload, fds: [region.fd] };
      victim.frontEnd.sendMessage(message);
      const label = JSON.stringify(fields, (_, value) => String(value));
      assert.notEqual(victim.frontEnd.receiveMessage().payload[0], 0, label);
      assert.equal((await scene.target.counts()).sharedMapCount, maps, label);
      victim.probe();
    }
    for (const fields of [{ gpa }, { gpa, uva }, { gpa, uva, bytes: 8192n }]) {
      const payload = rawRegion(fields);
      victim.frontEnd.sendMessage({ request: m.REM_MEM_REG, flags: NEED_REPLY, payload });
      assert.notEqual(victim.frontEnd.receiveMessage().payload[0], 0, "removed something");
    }
    victim.probe();
  });
});

test("row 46: a memory table is taken as a whole or not at all", async () => {
  await scene.attack(async () => {
    const victim = scene.victim();
    const maps = (await scene.target.counts()).sharedMapCount;
    const good = { ...first(victim), guestAddress: 0, userAddress: 2 ** 40 };
    const tables: readonly WireRegion[][] = [
      [good, { ...good, guestAddress: 4096, userAddress: 2 ** 41 }],
      [good, { ...good, guestAddress: 2 ** 30 }],
      [good, { ...good, guestAddress: 2 ** 30, userAddress: 2 ** 41, bytes: 2 ** 40 }],
    ];
    for (const table of tables) {
      assert.throws(() => victim.frontEnd.setMemTable(table), /refused SET_MEM_TABLE/);
      assert.equal((await scene.target.counts()).sharedMapCount, maps);
      victim.probe();
    }
    for (const count of [0, 9, 0xffffffff]) {
      const payload = new Uint8Array(m.MEM_TABLE.BYTES);
      new DataView(payload.buffer).setUint32(0, count, true);
      const fds = new Array<number>(8).fill(good.fd);
      victim.frontEnd.sendMessage({ request: m.SET_MEM_TABLE, flags: NEED_REPLY, payload, fds });
      assert.notEqual(victim.frontEnd.receiveMessage().payload[0], 0);
      victim.probe();
    }
  });
});

test("row 46: more regions than there are slots are refused", async () => {
  await scene.attack(async () => {
    const victim = scene.victim();
    const slots = victim.frontEnd.getMaxMemSlots();
    const region = first(victim);
    const one = (index: number): WireRegion => ({
      ...region,
      bytes: 4096,
      guestAddress: 2 ** 40 + index * 8192,
      userAddress: 2 ** 48 + index * 8192,
    });
    for (let index = 1; index < slots; index++) victim.frontEnd.addMemRegion(one(index));
    assert.throws(() => victim.frontEnd.addMemRegion(one(slots)), /refused ADD_MEM_REG/);
    victim.probe();
  });
});

test("row 46: nobody maps more than a share of the address space, however sparse", async () => {
  await scene.attack(async () => {
    const victim = scene.victim();
    const fd = victim.own(sys.check(sys.memfd("sparse", 0), "memfd"));
    sys.check(sys.ftruncate(fd, 2 ** 45), "ftruncate");
    const one = (index: number): WireRegion => ({
      guestAddress: 2 ** 46 + index * 2 ** 43,
      userAddress: 2 ** 48 + index * 2 ** 43,
      bytes: 2 ** 42,
      fileOffsetBytes: 0,
      fd,
    });
    const startedMs = Date.now();
    let refused = 0;
    for (let index = 0; index < 8; index++) {
      try {
        victim.frontEnd.addMemRegion(one(index));
      } catch {
        refused += 1;
      }
    }
    assert.ok(refused > 0, "32 TiB were mapped");
    assert.ok(Date.now() - startedMs < 3000, "huge regions held up the target");
    victim.probe();
    scene.probeNeighbour();
  });
});

test("row 47: a file shorter than its region is refused", async () => {
  await scene.attack(() => {
    const victim = scene.victim();
    const fd = victim.own(sys.check(sys.memfd("short", REGION_BYTES), "memfd"));
    const base = { guestAddress: 2 ** 40, userAddress: 2 ** 46, fd };
    for (const [bytes, fileOffsetBytes] of [
      [REGION_BYTES + 1, 0],
      [REGION_BYTES, 1],
      [4096, REGION_BYTES],
      [4096, 2 ** 40],
    ] as const) {
      const region = { ...base, bytes, fileOffsetBytes };
      assert.throws(() => victim.frontEnd.addMemRegion(region), /refused ADD_MEM_REG/);
    }
    victim.probe();
  });
});

test("row 47: memory that can be sealed cannot be truncated any more", async () => {
  await scene.attack(() => {
    const victim = scene.victim({ kind: "memfd" });
    assert.ok(sys.ftruncate(first(victim).fd, 4096) < 0);
    victim.probe();
  });
});

test("row 47: memory truncated under the rings breaks them, and nothing else", async () => {
  for (const packed of [false, true]) {
    await scene.attack(async () => {
      const victim = scene.victim({ kind: "memfd-unsealable", packed });
      victim.probe();
      sys.check(sys.ftruncate(first(victim).fd, 4096), "ftruncate");
      for (const queue of victim.queues) victim.kick(queue);
      for (const queue of victim.queues) victim.waitBroken(queue);
      scene.probeNeighbour();
      victim.barrier();
      victim.frontEnd.getVringBase(0);
      sys.check(sys.ftruncate(first(victim).fd, REGION_BYTES + 2 * GUARD_BYTES), "ftruncate");
      first(victim).file.u8.fill(0xd5);
    });
  }
});

test("row 47: memory truncated under a request fails it; a drain still ends", async () => {
  for (const packed of [false, true]) {
    for (const statusToo of [false, true]) {
      await scene.attack(async () => {
        const rings = { guestAddress: GUEST_BASE, bytes: REGION_BYTES };
        const data = { guestAddress: GUEST_BASE + 2 * REGION_BYTES, bytes: REGION_BYTES };
        const kind = "memfd-unsealable" as const;
        const regions = [
          { ...rings, kind },
          { ...data, kind },
        ];
        const victim = scene.victim({ packed, regions });
        const { memory } = victim;
        const second = memory.regions[1] as HostileRegion;
        await scene.target.hold(scene.victimName);
        const headerGpa = victim.header(v.BLK_T_IN, 0);
        const dataGpa = memory.allocate(65536, 4096, second);
        const statusGpa = statusToo ? memory.allocate(1, 1, second) : victim.status();
        victim.ring.offer([
          { addr: headerGpa, len: 16 },
          { addr: dataGpa, len: 65536, write: true },
          { addr: statusGpa, len: 1, write: true },
        ]);
        victim.go();
        await scene.target.until(
          (counts) => counts.devices[scene.victimName]?.heldCount === 1,
          "taken",
        );
        sys.check(sys.ftruncate(second.fd, 0), "ftruncate");
        // The answer to this waits for the request, whose status cannot even be written.
        const state = new Uint8Array(8);
        victim.frontEnd.sendMessage({ request: m.GET_VRING_BASE, payload: state });
        await scene.target.release(scene.victimName);
        assert.equal(victim.frontEnd.receiveMessage().request, m.GET_VRING_BASE);
        if (!statusToo) assert.equal(memory.read(statusGpa, 1)[0], v.BLK_S_IOERR);
        victim.probe();
        sys.check(sys.ftruncate(second.fd, second.file.bytes), "ftruncate");
        second.file.u8.fill(0xd5);
      });
    }
  }
});

test("row 48: what is no memory file, or not writable, is refused as a region", async () => {
  await scene.attack(() => {
    const victim = scene.victim();
    const [reader, writer] = sys.pipe();
    const [left, right] = sys.socketPair(true);
    const readOnly = `/proc/self/fd/${first(victim).fd}`;
    const fds = [
      reader,
      writer,
      left,
      right,
      sys.check(sys.eventfd(), "eventfd"),
      openSync("/dev/zero", "r+"),
      openSync("/dev/null", "r+"),
      openSync(scene.target.folder, "r"),
      openSync("/proc/self/maps", "r"),
      sys.check(sys.open(readOnly, sys.O_RDONLY), "open"),
    ];
    for (const fd of fds) {
      victim.own(fd);
      const region = { ...first(victim), guestAddress: 2 ** 40, userAddress: 2 ** 46, fd };
      assert.throws(() => victim.frontEnd.addMemRegion(region), /refused ADD_MEM_REG/);
      const table = singleRegionPayload(region).subarray(8);
      const payload = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, ...table);
      victim.frontEnd.sendMessage({
        request: m.SET_MEM_TABLE,
        flags: NEED_REPLY,
        payload,
        fds: [fd],
      });
      assert.notEqual(victim.frontEnd.receiveMessage().payload[0], 0);
    }
    victim.probe();
  });
});

test("row 48: an ordinary file is memory that can be truncated", async () => {
  const path = join(scene.target.folder, "memory");
  writeFileSync(path, new Uint8Array(REGION_BYTES));
  await scene.attack(() => {
    const victim = scene.victim();
    const fd = victim.own(openSync(path, "r+"));
    const gpa = 2 ** 40;
    victim.frontEnd.addMemRegion({
      guestAddress: gpa,
      userAddress: 2 ** 46,
      bytes: REGION_BYTES,
      fileOffsetBytes: 0,
      fd,
    });
    const { chain, ...request } = victim.read(0, 512);
    const data = { addr: gpa + 512, len: 512, write: true };
    const ends = [chain[0], data, chain[2]] as typeof chain;
    assert.equal(victim.run({ ...request, chain: ends }).status, v.BLK_S_OK);
    sys.check(sys.ftruncate(fd, 0), "ftruncate");
    assert.deepEqual(victim.run({ ...request, chain: ends }), { status: v.BLK_S_IOERR, len: 1 });
    victim.probe();
  });
});

const HUGE_PAGE_BYTES = 2 * 1024 * 1024;
const noHugePages = hugePagesFree() < 4 ? "this machine has no free huge pages" : false;

function hugePagesFree(): number {
  const found = /HugePages_Free:\s+(\d+)/.exec(readFileSync("/proc/meminfo", "utf8"));
  return Number(found?.[1] ?? "0");
}

/** A memory file in huge pages. */
function hugeFile(victim: Victim, bytes: number): number {
  const SYS_MEMFD_CREATE = process.arch === "arm64" ? 279 : 319;
  const MFD_ALLOW_SEALING_HUGETLB = 2 | 4;
  const name = victim.memory.allocate(8, 8);
  const address = victim.memory.hostAddress(name);
  const fd = sys.syscall6(SYS_MEMFD_CREATE, address, MFD_ALLOW_SEALING_HUGETLB, 0, 0, 0, 0);
  victim.own(sys.check(fd, "memfd_create"));
  sys.check(sys.ftruncate(fd, bytes), "ftruncate");
  return fd;
}

test("row 48: huge pages work from any offset, in any part", { skip: noHugePages }, async () => {
  await scene.attack(() => {
    const victim = scene.victim();
    const fd = hugeFile(victim, 2 * HUGE_PAGE_BYTES);
    const gpa = 2 ** 40;
    for (const [fileOffsetBytes, bytes] of [
      [0, 2 * HUGE_PAGE_BYTES],
      [4096, 8192],
      [HUGE_PAGE_BYTES - 4096, 8192],
      [HUGE_PAGE_BYTES + 4096, HUGE_PAGE_BYTES - 4096],
    ] as const) {
      const region = { guestAddress: gpa, userAddress: 2 ** 46, bytes, fileOffsetBytes, fd };
      victim.frontEnd.addMemRegion(region);
      const { chain, ...request } = victim.read(0, 512);
      const data = { addr: gpa + bytes - 512, len: 512, write: true };
      const ends = [chain[0], data, chain[2]] as typeof chain;
      assert.equal(victim.run({ ...request, chain: ends }).status, v.BLK_S_OK);
      victim.frontEnd.remMemRegion(region);
    }
    // Plain stores go there: a hole punched into huge pages could make one fail.
    const inflight = { mmapSizeBytes: HUGE_PAGE_BYTES, mmapOffsetBytes: 0, queueCount: 1 };
    assert.throws(
      () => victim.frontEnd.setInflightFd({ ...inflight, queueSize: 16, fd }),
      /refused SET_INFLIGHT_FD/,
    );
    const payload = new Uint8Array(m.LOG.BYTES);
    new DataView(payload.buffer).setUint32(m.LOG.mmapSize, HUGE_PAGE_BYTES, true);
    assert.notEqual(victim.frontEnd.query(m.SET_LOG_BASE, payload, [fd]).payload[0], 0);
    victim.probe();
  });
});
