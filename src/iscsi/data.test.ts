// Data of reads and writes, in every combination of what can be negotiated about it.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { LoginOptions } from "../load/index.ts";
import { BLOCK_BYTES, Rig, read10, write10 } from "./_test-rig.ts";

const CHOICES = ["Yes", "No"] as const;
const DIGESTS = ["None", "CRC32C"] as const;
/** In blocks: below, at and above the pieces, bursts and segments. */
const SIZES = [1, 3, 16, 17, 128, 129, 300, 1024];

/** Writes and reads every size at once, and compares with the disk. */
function moveData(rig: Rig, change: Partial<LoginOptions>): { r2tCount: number } {
  const initiator = rig.login(change);
  let at = 0;
  let r2tCount = 0;
  const writes = SIZES.map((blocks) => {
    const data = rig.data(blocks * BLOCK_BYTES);
    const from = at;
    at += blocks;
    return { from, data, command: initiator.command({ cdb: write10(from, blocks), data }) };
  });
  rig.until(() => writes.every(({ command }) => command.isDone), "writes");
  for (const { from, data, command } of writes) {
    assert.equal(command.status, 0);
    assert.equal(command.residualFlags, 0);
    assert.deepEqual(rig.diskBytes(from * BLOCK_BYTES, data.length), data);
    r2tCount += command.r2tCount;
  }
  const reads = writes.map(({ from, data }) => {
    const cdb = read10(from, data.length / BLOCK_BYTES);
    return { data, command: initiator.command({ cdb, readBytes: data.length }) };
  });
  rig.until(() => reads.every(({ command }) => command.isDone), "reads");
  for (const { data, command } of reads) {
    assert.equal(command.status, 0);
    assert.deepEqual(command.data, data);
  }
  assert.deepEqual(initiator.violations, []);
  assert.equal(initiator.pipe.badDigestCount, 0);
  rig.scheduler.runUntilQuiet();
  assert.equal(
    [...rig.portal.sessions].every((session) => session.isQuiet),
    true,
  );
  initiator.logout();
  return { r2tCount };
}

for (const immediateData of CHOICES) {
  for (const initialR2T of CHOICES) {
    for (const headerDigest of DIGESTS) {
      for (const dataDigest of DIGESTS) {
        const name = `ImmediateData=${immediateData} InitialR2T=${initialR2T}`;
        test(`${name} HeaderDigest=${headerDigest} DataDigest=${dataDigest} moves data right`, () => {
          const rig = new Rig({ isShort: true, seed: 42 });
          const offers = {
            ImmediateData: immediateData,
            InitialR2T: initialR2T,
            HeaderDigest: headerDigest,
            DataDigest: dataDigest,
            MaxOutstandingR2T: "4",
            MaxBurstLength: "65536",
            FirstBurstLength: "16384",
          };
          const { r2tCount } = moveData(rig, { offers });
          assert.ok(r2tCount > 0, "long writes need R2Ts");
          rig.checkEmpty();
        });
      }
    }
  }
}

test("odd segments and bursts: lengths that are no multiple of a word or of a block", () => {
  for (const [segment, burst, first] of [
    ["513", "1025", "700"],
    ["4097", "70001", "512"],
    ["16777215", "16777215", "65536"],
  ] as const) {
    const rig = new Rig({ seed: Number(segment) });
    const offers = {
      MaxRecvDataSegmentLength: segment,
      MaxBurstLength: burst,
      FirstBurstLength: first,
      InitialR2T: "No",
      DataDigest: "CRC32C",
    };
    moveData(rig, { offers });
    rig.checkEmpty();
  }
});

test("several R2Ts are outstanding at once, as many as were agreed on and no more", () => {
  for (const outstanding of [1, 3, 8]) {
    const rig = new Rig();
    const offers = {
      ImmediateData: "No",
      InitialR2T: "Yes",
      MaxBurstLength: "4096",
      MaxOutstandingR2T: String(outstanding),
    };
    const initiator = rig.login({ offers });
    const data = rig.data(20 * 4096);
    const write = initiator.command({ cdb: write10(0, 160), data, isMute: true });
    rig.runMs(100);
    assert.equal(write.r2tCount, outstanding);
  }
});

test("the longest command moves; many of them at once wait for memory, none is lost", () => {
  const rig = new Rig();
  const initiator = rig.login();
  const data = rig.data(4 << 20);
  const write = initiator.command({ cdb: write10(0, 8192), data });
  rig.until(() => write.isDone, "a long write");
  assert.deepEqual(rig.diskBytes(0, data.length), data);
  const reads = Array.from({ length: 12 }, () =>
    initiator.command({ cdb: read10(0, 8192), readBytes: data.length }),
  );
  const writes = Array.from({ length: 6 }, () =>
    initiator.command({ cdb: write10(0, 8192), data }),
  );
  const small = initiator.command({ cdb: read10(5, 1), readBytes: 512 });
  rig.until(() => [...reads, ...writes, small].every((command) => command.isDone), "all of them");
  for (const read of reads) assert.deepEqual(read.data, data);
  assert.deepEqual(initiator.violations, []);
});

test("residuals: the initiator expects more, less, or the wrong direction", () => {
  const rig = new Rig();
  rig.fillDisk();
  const initiator = rig.login();
  const cases = [
    { cdb: read10(0, 1), readBytes: 1024, flags: 2, residual: 512 },
    { cdb: read10(0, 2), readBytes: 512, flags: 4, residual: 512 },
    { cdb: read10(0, 1), readBytes: 0, flags: 4, residual: 512 },
    { cdb: write10(0, 1), data: rig.data(1024), flags: 2, residual: 512 },
    { cdb: write10(0, 2), data: rig.data(512), flags: 4, residual: 512 },
  ];
  for (const { flags, residual, ...options } of cases) {
    const command = initiator.command(options);
    rig.until(() => command.isDone, "a command");
    assert.equal(command.residualFlags, flags, JSON.stringify(options.cdb));
    assert.equal(command.residual, residual);
  }
  assert.deepEqual(initiator.violations, []);
});

test("errors carry sense data, INQUIRY its data, an unknown logical unit its code", () => {
  const rig = new Rig();
  const initiator = rig.login({ offers: { DataDigest: "CRC32C", HeaderDigest: "CRC32C" } });
  const run = (
    options: Parameters<typeof initiator.command>[0],
  ): ReturnType<typeof initiator.command> => {
    const command = initiator.command(options);
    rig.until(() => command.isDone, "a command");
    return command;
  };
  assert.equal(run({ cdb: read10(1 << 20, 1), readBytes: 512 }).senseTriple, 0x052100);
  assert.equal(run({ cdb: read10(0, 1), readBytes: 512, lun: 9 }).senseTriple, 0x052500);
  assert.equal(run({ cdb: Uint8Array.of(0xee) }).senseTriple, 0x052000);
  const inquiry = run({ cdb: Uint8Array.of(0x12, 0, 0, 0, 36), readBytes: 36 });
  assert.equal(inquiry.status, 0);
  assert.match(Buffer.from(inquiry.data).toString("latin1"), /RINGSTOR/);
  assert.equal(run({ cdb: new Uint8Array(6) }).status, 0);
  assert.deepEqual(initiator.violations, []);
});

test("depth: the window never closes for good, and never lets more in than it says", () => {
  const rig = new Rig();
  rig.fillDisk();
  const initiator = rig.login({ offers: { InitialR2T: "No" } });
  let done = 0;
  const pending: ReturnType<typeof initiator.command>[] = [];
  while (done < 1000) {
    while (((initiator.maxCmdSn - initiator.cmdSn) | 0) >= 0 && done + pending.length < 1000) {
      const block = rig.prng.below(1000);
      const isWrite = rig.prng.chance(0.5);
      const blocks = rig.prng.between(1, 40);
      if (isWrite) {
        const data = rig.data(blocks * BLOCK_BYTES);
        pending.push(initiator.command({ cdb: write10(block, blocks), data }));
      } else {
        const readBytes = blocks * BLOCK_BYTES;
        pending.push(initiator.command({ cdb: read10(block, blocks), readBytes }));
      }
    }
    rig.until(() => pending.some((command) => command.isDone), "the next");
    for (let index = pending.length - 1; index >= 0; index--) {
      if (pending[index]?.isDone !== true) continue;
      assert.equal(pending[index]?.status, 0);
      pending.splice(index, 1);
      done += 1;
    }
  }
  assert.deepEqual(initiator.violations, []);
});
