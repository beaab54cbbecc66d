// Peers that break the protocol, with or without a login: what they can hold is bounded, and the
// session beside them does not notice.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { IscsiInitiator } from "../load/index.ts";
import { Rig, read10, write10 } from "./_test-rig.ts";
import { LOGIN_MS, LOGINS_MAX, LOGINS_PER_ADDRESS_MAX } from "./limits.ts";

const CHAP = {
  users: [{ name: "alice", secret: "alices-secret-1" }],
  target: null,
};
const ALICE = { name: "alice", secret: "alices-secret-1", algorithms: [5] };

/** A session beside the hostile one: it must work before, meanwhile and after. */
class Witness {
  private readonly rig: Rig;
  private readonly initiator: IscsiInitiator;

  constructor(rig: Rig, isChap = false) {
    this.rig = rig;
    this.initiator = rig.login(isChap ? { chap: ALICE } : {});
    this.check();
  }

  check(): void {
    const data = this.rig.data(4096);
    const write = this.initiator.command({ cdb: write10(100, 8), data });
    this.rig.until(() => write.isDone, "the witness's write");
    const read = this.initiator.command({ cdb: read10(100, 8), readBytes: 4096 });
    this.rig.until(() => read.isDone, "the witness's read");
    assert.deepEqual(read.data, data);
    assert.deepEqual(this.initiator.violations, []);
  }

  close(): void {
    this.initiator.close();
  }
}

/** Sends raw bytes over a fresh connection; it must end by itself. */
function mustHangUp(rig: Rig, bytes: Uint8Array): void {
  const initiator = rig.dial();
  // The login it would send is replaced.
  initiator.login.start = () => initiator.pipe.sendRaw(bytes);
  rig.until(() => initiator.isEnded, "the end of a hostile connection");
}

test("malformed PDUs before the login: each ends its connection and nothing else", () => {
  const rig = new Rig();
  const witness = new Witness(rig);
  const header = (change: (bytes: Uint8Array) => void): Uint8Array => {
    const bytes = new Uint8Array(48);
    bytes[0] = 0x43;
    bytes[1] = 0x87;
    change(bytes);
    return bytes;
  };
  const cases: ((bytes: Uint8Array) => void)[] = [
    (bytes) => bytes.fill(0),
    (bytes) => bytes.fill(0xff),
    (bytes) => bytes.set([0x01]),
    (bytes) => bytes.set([0x03]),
    (bytes) => bytes.set([0xff, 0xff, 0xff], 5),
    (bytes) => bytes.set([0x00, 0x20, 0x01], 5),
    (bytes) => bytes.set([1], 3),
    (bytes) => bytes.set([0x8f], 1),
    (bytes) => bytes.set([0x81 | 0x08], 1),
    (bytes) => bytes.set([0x80], 1),
    (bytes) => bytes.set([0x86], 1),
    (bytes) => bytes.set([0xc1], 1),
    () => {},
  ];
  for (const change of cases) {
    mustHangUp(rig, header(change));
    witness.check();
  }
  const http = Buffer.from(
    "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: nobody at all\r\n\r\n",
  );
  mustHangUp(rig, http);
  witness.close();
  rig.checkEmpty();
});

test("malformed PDUs in a session: refused or the end, never more than the session", () => {
  const rig = new Rig();
  const witness = new Witness(rig);
  const send = (
    change: (header: Uint8Array, initiator: IscsiInitiator) => Uint8Array | null,
  ): IscsiInitiator => {
    const initiator = rig.login();
    const header = initiator.header(0x01, 0xc1, 0x55, true);
    const data = change(header, initiator);
    if (data === null) initiator.pipe.sendRaw(header);
    else initiator.pipe.send(header, data);
    rig.runMs(50);
    witness.check();
    return initiator;
  };
  const none = new Uint8Array(0);
  // Opcodes that no initiator has, and those of a target.
  for (const opcode of [0x03, 0x10, 0x07, 0x1f, 0x20, 0x21, 0x25, 0x31, 0x3f]) {
    const initiator = send((header) => {
      header[0] = 0x40 | opcode;
      return none;
    });
    assert.equal(initiator.rejects.length, 1, `opcode ${opcode}`);
    assert.equal(initiator.isEnded, false);
    initiator.close();
  }
  // A data segment longer than was declared.
  const long = send((header) => {
    header.set([0x04, 0x00, 0x01], 5);
    return null;
  });
  assert.equal(long.isEnded, true);
  // Additional header segments, as many as there can be: skipped.
  const ahs = rig.login();
  const whole = new Uint8Array(48 + 255 * 4);
  whole.set(ahs.header(0x00, 0x80, 0x66, true));
  whole[4] = 255;
  whole.set([0xff, 0xff, 0xff, 0xff], 20);
  ahs.pipe.sendRaw(whole);
  rig.until(() => ahs.pdus.length === 1, "an answer to a NOP with headers");
  ahs.close();
  witness.close();
  rig.checkEmpty();
});

test("data that nobody asked for, at wrong places or in wrong order, fails its command only", () => {
  const rig = new Rig();
  const witness = new Witness(rig);
  const offers = { ImmediateData: "No", InitialR2T: "Yes", MaxBurstLength: "8192" };
  const initiator = rig.login({ offers });
  const ttt = (): number => {
    const r2t = initiator.pdus.findLast(({ header }) => header[0] === 0x31);
    return new DataView((r2t as { header: Uint8Array }).header.buffer).getUint32(20);
  };
  type Send = (command: ReturnType<IscsiInitiator["command"]>, data: Uint8Array) => void;
  const cases: [string, number, Send][] = [
    ["DataSN begins with 1", 0x0b0c0d, (c, d) => initiator.dataOut(c, ttt(), 1, 0, d, true)],
    ["offset is wrong", 0x0b0c0d, (c, d) => initiator.dataOut(c, ttt(), 0, 512, d, true)],
    ["past the burst", 0x0b0c0d, (c) => initiator.dataOut(c, ttt(), 0, 0, rig.data(8704), true)],
    ["too short", 0x0b0c0d, (c, d) => initiator.dataOut(c, ttt(), 0, 0, d.slice(0, 512), true)],
    ["offset of 4 GiB", 0x0b0c0d, (c, d) => initiator.dataOut(c, ttt(), 0, 0xfffffe00, d, true)],
    [
      "twice",
      0x0b0c0d,
      (c, d) => {
        initiator.dataOut(c, ttt(), 0, 0, d.slice(0, 512), false);
        initiator.dataOut(c, ttt(), 0, 0, d.slice(0, 512), false);
      },
    ],
  ];
  for (const [name, sense, send] of cases) {
    const data = rig.data(8192);
    const before = rig.diskBytes(0, 16384);
    const write = initiator.command({ cdb: write10(0, 32), data: rig.data(16384), isMute: true });
    rig.until(() => write.r2tCount === 1, "an R2T");
    send(write, data);
    rig.until(() => write.isDone, name);
    assert.equal(write.status, 2, name);
    assert.equal(write.senseTriple, sense, name);
    assert.deepEqual(rig.diskBytes(0, 16384), before, name);
    witness.check();
  }
  // Of no task at all: dropped.
  const other = initiator.command({ cdb: read10(0, 1), readBytes: 512 });
  for (const tag of [0, 1, 0x7fffffff, 0x12345678, 0xffffffff]) {
    initiator.dataOut(other, tag, 0, 0, rig.data(512), true);
  }
  // Immediate data where none may be.
  const header = initiator.header(0x01, 0xa1, 0x4444, false);
  header.set([0, 0, 2, 0], 20);
  initiator.pipe.send(header, rig.data(512));
  rig.until(() => initiator.violations.length > 0, "an answer");
  assert.deepEqual([...(initiator.pdus.at(-1)?.data ?? [])].slice(14, 16), [0x0c, 0x0c]);
  witness.check();
  initiator.close();
  witness.close();
  rig.checkEmpty();
});

test("unsolicited data past the first burst fails its command only", () => {
  const rig = new Rig();
  const offers = { ImmediateData: "No", InitialR2T: "No", FirstBurstLength: "4096" };
  const initiator = rig.login({ offers });
  const write = initiator.command({ cdb: write10(0, 32), data: rig.data(16384) });
  initiator.dataOut(write, 0xffffffff, 1, 4096, rig.data(4096), true);
  rig.until(() => write.isDone, "a good write: what came behind is stray");
  assert.equal(write.status, 0);
  const header = initiator.header(0x01, 0x21, 0x777, false);
  header.set([0, 0, 0x40, 0], 20);
  header.set(write10(0, 32), 32);
  initiator.pipe.send(header);
  const fake = { ...write, tag: 0x777 } as typeof write;
  initiator.dataOut(fake, 0xffffffff, 0, 0, rig.data(4608), true);
  rig.until(() => initiator.violations.length > 0, "an answer");
  assert.deepEqual([...(initiator.pdus.at(-1)?.data ?? [])].slice(14, 16), [0x0c, 0x0c]);
  initiator.close();
  rig.checkEmpty();
});

test("wrong digests: of a header the end, of data a Reject and CRC sense; others go on", () => {
  const rig = new Rig();
  const witness = new Witness(rig);
  const offers = { HeaderDigest: "CRC32C", DataDigest: "CRC32C" };
  const broken = rig.login({ offers });
  const nop = broken.pipe.encode(broken.header(0x00, 0x80, 9, true), new Uint8Array(0));
  nop[50] = (nop[50] as number) ^ 1;
  broken.pipe.sendRaw(nop);
  rig.until(() => broken.isEnded, "the end");

  const initiator = rig.login({ offers });
  const before = rig.diskBytes(0, 512);
  const flip = (bytes: Uint8Array): Uint8Array => {
    bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 0x80;
    return bytes;
  };
  // Immediate data: damaged on its way.
  const { encode } = initiator.pipe;
  initiator.pipe.encode = (header, data) => flip(encode.call(initiator.pipe, header, data));
  const write = initiator.command({ cdb: write10(0, 1), data: rig.data(512) });
  rig.until(() => write.isDone, "an answer");
  assert.equal(write.senseTriple, 0x0b4705);
  assert.equal(initiator.rejects[0]?.header[2], 0x02);
  assert.equal(initiator.rejects[0]?.data[0], 0x01, "the header that was refused");
  // And asked for.
  const long = initiator.command({ cdb: write10(0, 256), data: rig.data(131072) });
  rig.until(() => long.isDone, "an answer");
  assert.equal(long.senseTriple, 0x0b4705);
  // A ping is refused and not answered.
  const ping = initiator.nop(rig.data(100));
  rig.until(() => initiator.rejects.length >= 3, "a reject");
  assert.equal(ping.isDone, false);
  initiator.pipe.encode = encode;
  assert.deepEqual(rig.diskBytes(0, 512), before);
  const good = initiator.command({ cdb: write10(0, 1), data: rig.data(512) });
  rig.until(() => good.isDone, "a good write");
  assert.equal(good.status, 0);
  witness.check();
  initiator.close();
  witness.close();
  rig.checkEmpty();
});

test("oversized text: in a login, in one value, in a session; memory stays where it was", () => {
  const rig = new Rig();
  const witness = new Witness(rig);
  const arenas = rig.memory.arenaCount;
  const big = "x".repeat(5000);
  assert.equal(rig.refused({ offers: { "X-big": big } }), 0x0200);
  const many = Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`X-${i}`, "1"]));
  assert.equal(rig.refused({ offers: many }), 0x0200);
  const huge = Object.fromEntries(
    Array.from({ length: 20 }, (_, i) => [`X-${i}`, "y".repeat(2000)]),
  );
  assert.equal(rig.refused({ offers: huge }), 0x0200);
  rig.runMs(100);
  assert.equal(rig.memory.arenaCount, arenas);
  const initiator = rig.login();
  for (let index = 0; index < 10; index++) {
    const header = initiator.header(0x04, 0x40, 0x900 + index, true);
    header.set([0xff, 0xff, 0xff, 0xff], 20);
    initiator.pipe.send(header, Buffer.from("A".repeat(4000)));
  }
  rig.until(() => initiator.isEnded, "the end of a text without end");
  witness.check();
  witness.close();
  rig.checkEmpty();
});

test("login floods: connections by address and in total are bounded, the witness is not touched", () => {
  const limits = { connectionsPerAddress: 5, logins: 20 };
  const rig = new Rig({ memoryMiB: 700, limits });
  const witness = new Witness(rig);
  const flood: IscsiInitiator[] = [];
  for (let index = 0; index < 200; index++) flood.push(rig.dial({}, `10.1.0.${index % 4}`));
  rig.runMs(20);
  assert.ok(rig.portal.logins.size <= limits.logins);
  assert.ok(rig.portal.counters.turnedAwayCount > 100);
  rig.runMs(500);
  assert.ok(rig.portal.sessions.size <= 1 + 4 * limits.connectionsPerAddress);
  witness.check();
  for (const one of flood) if (!one.isEnded) one.close();
  rig.runMs(500);

  // From one address: no more than its share, and others still come in.
  const held: IscsiInitiator[] = [];
  for (let index = 0; index < limits.connectionsPerAddress + 10; index++) {
    const one = rig.dial({}, "10.2.0.1");
    rig.runMs(20);
    held.push(one);
  }
  const inside = held.filter((one) => !one.isEnded && one.isLoggedIn).length;
  assert.equal(inside, limits.connectionsPerAddress);
  const other = rig.dial({}, "10.2.0.2");
  rig.until(() => other.login.isDone, "another's login");
  assert.equal(other.login.status, 0);
  witness.check();
  for (const one of [...held, other]) if (!one.isEnded) one.close();
  witness.close();
  rig.checkEmpty();
});

test("half-open sessions: silent connections are bounded, hung up on in time, and cost little", () => {
  const rig = new Rig();
  const witness = new Witness(rig);
  const silent: IscsiInitiator[] = [];
  for (let index = 0; index < 3 * LOGINS_MAX; index++) {
    const one = rig.dial({}, `10.3.0.${Math.floor(index / LOGINS_PER_ADDRESS_MAX)}`);
    one.login.start = () => {};
    silent.push(one);
  }
  rig.runMs(50);
  assert.equal(rig.portal.logins.size, LOGINS_MAX, "the oldest made room");
  witness.check();
  // Half a login: named, then nothing more.
  const half = rig.dial({ pieceBytes: 20 }, "10.4.0.1");
  half.login.take = () => {};
  rig.runMs(LOGIN_MS + 1500);
  assert.equal(rig.portal.logins.size, 0);
  assert.ok([...silent, half].every((one) => one.isEnded));
  witness.check();
  witness.close();
  rig.checkEmpty();
});

test("CHAP wrong 1000 times: memory and connections stay bounded, other sessions unaffected", () => {
  const rig = new Rig({ chap: CHAP });
  const witness = new Witness(rig, true);
  const arenas = rig.memory.arenaCount;
  for (let index = 0; index < 1000; index++) {
    const chap = { ...ALICE, secret: `guess-number-${index}` };
    assert.equal(rig.refused({ chap }), 0x0201);
    if (index % 100 === 0) witness.check();
  }
  rig.runMs(100);
  assert.equal(rig.memory.arenaCount, arenas);
  assert.equal(rig.portal.logins.size, 0);
  assert.equal(rig.portal.counters.refusedLoginCount, 1000);
  assert.doesNotMatch(JSON.stringify(rig.reactor.entries), /guess-number|alices-secret/);
  witness.check();
  witness.close();
  rig.checkEmpty();
});

test("connections cut at any byte leave nothing behind", () => {
  const rig = new Rig({ seed: 7, isShort: true });
  const witness = new Witness(rig);
  for (let round = 0; round < 150; round++) {
    const initiator = rig.dial({ offers: { InitialR2T: "No", DataDigest: "CRC32C" } });
    rig.until(() => initiator.isOpened, "a connection");
    const connection = rig.lastConnection();
    connection.toAccepted.cutAtBytes = 1 + rig.prng.below(60_000);
    if (rig.prng.chance(0.3)) connection.toDialled.cutAtBytes = 1 + rig.prng.below(60_000);
    rig.until(() => initiator.login.isDone || initiator.isEnded, "a login or its end");
    for (let index = 0; index < 10 && !initiator.isEnded; index++) {
      initiator.command({ cdb: write10(index, 20), data: rig.data(10_240) });
      initiator.command({ cdb: read10(index, 20), readBytes: 10_240 });
    }
    rig.runMs(20);
    initiator.close();
    if (round % 30 === 0) witness.check();
  }
  witness.check();
  witness.close();
  rig.checkEmpty();
});
