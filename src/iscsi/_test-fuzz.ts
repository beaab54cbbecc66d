// One round of the PDU fuzzer: hostile sessions beside a witness, in the simulator, from one seed.
// Good PDUs, damaged ones, wrong order, wrong tags, raw bytes; then everything must be whole.
//
// What is wrong shows as: memory touched that is not there (SimMemory throws), an assertion, a
// witness whose data is not what it wrote, or something that is left when all are gone.

import assert from "node:assert/strict";
import { type Prng, TWO_32 } from "../base/index.ts";
import type { IscsiInitiator } from "../load/index.ts";
import { Rig, read10, write10 } from "./_test-rig.ts";

const EDGES = [0, 1, 2, 3, 4, 47, 48, 511, 512, 513, 4096, 65535, 65536, 0x7fffffff, 0xffffffff];
const OPCODES = [0, 1, 2, 4, 5, 6, 0x10, 3, 0x20, 0x25, 0x31, 0x3f];
const WITNESS_BLOCK = 8000;
const WITNESS_TARGET = "iqn.2024-01.io.ringstore:witness";

function edge(prng: Prng): number {
  return prng.chance(0.7) ? prng.pick(EDGES) : Math.floor(prng.unit() * TWO_32);
}

function offers(prng: Prng): Record<string, string> {
  const yesNo = (): string => prng.pick(["Yes", "No"]);
  return {
    ImmediateData: yesNo(),
    InitialR2T: yesNo(),
    HeaderDigest: prng.pick(["None", "CRC32C"]),
    DataDigest: prng.pick(["None", "CRC32C"]),
    MaxRecvDataSegmentLength: String(prng.pick([512, 777, 8192, 262144])),
    MaxBurstLength: String(prng.pick([512, 4096, 65536, 1048576])),
    FirstBurstLength: String(prng.pick([512, 2048, 65536])),
    MaxOutstandingR2T: String(prng.pick([1, 2, 8])),
  };
}

export class FuzzRound {
  readonly rig: Rig;
  private readonly prng: Prng;
  private readonly witness: IscsiInitiator;
  sentCount = 0;

  constructor(seed: number) {
    this.rig = new Rig({ seed, isShort: seed % 2 === 0 });
    this.prng = this.rig.scheduler.fork();
    // A target of its own: TARGET COLD RESET may end every session of the hostile one's.
    this.rig.addTarget(WITNESS_TARGET, {});
    this.witness = this.rig.login({ targetName: WITNESS_TARGET });
  }

  private checkWitness(): void {
    const { rig, witness } = this;
    const data = rig.data(9 * 512);
    const write = witness.command({ cdb: write10(WITNESS_BLOCK, 9), data });
    rig.until(() => write.isDone || witness.isEnded, "the witness's write");
    const read = witness.command({ cdb: read10(WITNESS_BLOCK, 9), readBytes: data.length });
    rig.until(() => read.isDone || witness.isEnded, "the witness's read");
    assert.equal(witness.isEnded, false, "the witness was hung up on");
    // Resets of a hostile session are allowed to stop a task of the witness; none is under way.
    assert.deepEqual(read.data, data, "the witness reads what it wrote");
    assert.deepEqual(witness.violations, []);
  }

  run(): void {
    const { rig, prng } = this;
    const sessions = Array.from({ length: prng.between(1, 3) }, () =>
      rig.login({ offers: offers(prng), firstCmdSn: prng.pick([1, 0xfffffff0]) }),
    );
    for (let step = 0; step < 60; step++) {
      const initiator = prng.pick(sessions);
      if (!initiator.isEnded) this.step(initiator);
      if (prng.chance(0.2)) rig.runMs(prng.pick([0.01, 1, 5]));
      if (prng.chance(0.05)) rig.scsi.isStuck = !rig.scsi.isStuck;
      if (!rig.scsi.isStuck) rig.scsi.release();
      if (step % 20 === 19) {
        rig.scsi.release();
        rig.runMs(20);
        this.checkWitness();
      }
    }
    rig.scsi.release();
    rig.runMs(50);
    this.checkWitness();
    for (const initiator of [...sessions, this.witness]) initiator.close();
    rig.checkEmpty();
  }

  /** One PDU, or a few bytes that are none. */
  private step(initiator: IscsiInitiator): void {
    const { rig, prng } = this;
    this.sentCount += 1;
    const kind = prng.below(10);
    const blocks = prng.pick([1, 2, 16, 17, 100, 400]);
    const block = prng.below(4000);
    const isMute = prng.chance(0.3);
    if (kind < 2) {
      initiator.command({ cdb: read10(block, blocks), readBytes: blocks * 512, isMute });
    } else if (kind < 5) {
      const data = rig.data(blocks * 512);
      const { expectedBytes } = this.maybeWrongLength(data.length);
      initiator.command({ cdb: write10(block, blocks), data, expectedBytes, isMute });
    } else if (kind === 5) {
      this.wrongData(initiator);
    } else if (kind === 6) {
      initiator.manage(prng.below(10), null, prng.chance(0.5));
    } else if (kind === 7 && prng.chance(0.1)) {
      initiator.pipe.sendRaw(rig.data(prng.between(1, 300)));
    } else {
      this.damaged(initiator);
    }
  }

  private maybeWrongLength(bytes: number): { expectedBytes: number } {
    const { prng } = this;
    if (prng.chance(0.8)) return { expectedBytes: bytes };
    return { expectedBytes: prng.pick([0, 1, 511, bytes - 1, bytes + 1, bytes * 2, 0xffffffff]) };
  }

  /** Data-Out for tags that are, were, or never were. */
  private wrongData(initiator: IscsiInitiator): void {
    const { prng, rig } = this;
    const r2ts = initiator.pdus.filter(({ header }) => header[0] === 0x31);
    const known = r2ts.length > 0 && prng.chance(0.8) ? prng.pick(r2ts).header : null;
    const view = known === null ? null : new DataView(known.buffer);
    const command = initiator.command({ cdb: new Uint8Array(16) });
    const tag = view === null ? edge(prng) : view.getUint32(16);
    const ttt = view === null ? edge(prng) : view.getUint32(20);
    const offset = view === null || prng.chance(0.4) ? edge(prng) : view.getUint32(40);
    const sn = prng.chance(0.7) ? 0 : edge(prng);
    const data = rig.data(prng.pick([0, 1, 511, 512, 4096]));
    const subject = { ...command, tag } as typeof command;
    initiator.dataOut(subject, ttt, sn, offset, data, prng.chance(0.7));
  }

  /** Any request with fields changed at random. */
  private damaged(initiator: IscsiInitiator): void {
    const { prng, rig } = this;
    const header = initiator.header(
      prng.pick(OPCODES),
      prng.below(256),
      edge(prng),
      prng.chance(0.5),
    );
    const view = new DataView(header.buffer);
    for (let count = prng.below(4); count > 0; count--) {
      view.setUint32(prng.pick([8, 16, 20, 24, 28, 32, 36, 40, 44]), edge(prng));
    }
    if (prng.chance(0.3)) header.set(rig.data(16), 32);
    const data = rig.data(prng.pick([0, 0, 1, 3, 48, 512, 5000]));
    const bytes = initiator.pipe.encode(header, data);
    // Now and then the framing itself: the connection does not survive that, and need not.
    if (prng.chance(0.03)) bytes[prng.pick([4, 5, 6, 7])] = prng.below(256);
    if (prng.chance(0.05)) bytes[prng.below(bytes.length)] = prng.below(256);
    initiator.pipe.sendRaw(bytes);
  }
}
