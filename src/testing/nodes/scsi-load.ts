// Verified load on units of a virtio-scsi controller, by a driver of ours that follows it from
// daemon to daemon as a guest would, were its VM started again elsewhere: what was under way is
// answered by the next back-end, and sent again.
//
// Invariants: a block belongs to one lane, which has one command at a time, so that what a read has
// to show is known exactly; a write counts when it was answered GOOD; a unit that is not there, or
// fails, is a failure of the load; one that becomes ready is waited for.

import { setTimeout as sleep } from "node:timers/promises";
import { ScsiDriver, type ScsiPending } from "../../load/index.ts";
import { SCSI_S_RESET } from "../../vhost-user/layouts-scsi.ts";
import { read10, write10 } from "../fakes/cdb.ts";

const BLOCK_BYTES = 4096;
const BLOCK_SECTORS = 8;
/** Of each unit. */
const AREA_BLOCKS = 256;
const LANES = 8;
/** Every so many commands of a lane one is a read. */
const READ_EVERY = 3;
const PATIENCE_MS = 60_000;
const AGAIN_MS = 20;
const NOT_READY = 0x020401;
const UNIT_ATTENTION = 0x06;

/** What a block holds after its `round`-th write. */
function content(lun: number, index: number, round: number): Uint8Array {
  const data = new Uint8Array(BLOCK_BYTES).fill((lun * 31 + index * 7 + round * 13) & 0xff);
  const view = new DataView(data.buffer);
  for (const [at, value] of [lun, index, round].entries()) view.setUint32(at * 4, value);
  return data;
}

class Lane {
  readonly lun: number;
  readonly first: number;
  /** Rounds that were answered, by block; 0 = never written. */
  readonly acked: number[] = [];
  count = 0;
  isRead = false;
  pending: ScsiPending | null = null;
  /** A command that was answered with "again" is sent no sooner. */
  notBeforeMs = 0;

  constructor(lun: number, first: number) {
    this.lun = lun;
    this.first = first;
    for (let at = first; at < AREA_BLOCKS; at += LANES) this.acked.push(0);
  }

  get at(): number {
    return this.count % this.acked.length;
  }

  get block(): number {
    return this.first + this.at * LANES;
  }
}

export class ScsiLoad {
  readonly driver: ScsiDriver = new ScsiDriver();
  readonly failures: string[] = [];
  /** Reads that were answered GOOD. */
  readCount = 0;
  /** How often a unit was there and not ready. */
  notReadyCount = 0;
  /** Commands that a back-end answered for its predecessor. */
  resetCount = 0;
  longestPauseMs = 0;
  private lanes: Lane[] = [];
  private answeredMs = performance.now();
  private isConnected = false;
  private isStopped = false;
  private readonly running: Promise<void>;

  constructor(luns: readonly number[]) {
    for (const lun of luns) {
      for (let first = 0; first < LANES; first += 1) this.lanes.push(new Lane(lun, first));
    }
    this.running = this.run();
  }

  /** Commands that were answered GOOD. */
  get count(): number {
    return this.lanes.reduce((sum, lane) => sum + lane.count, 0);
  }

  /** To a back-end that is there, or comes. */
  async connect(socket: string): Promise<void> {
    const deadlineMs = performance.now() + PATIENCE_MS;
    for (;;) {
      try {
        this.driver.connect(socket);
        break;
      } catch (error) {
        if (performance.now() > deadlineMs) throw error;
        await sleep(AGAIN_MS);
      }
    }
    this.isConnected = true;
  }

  /** The back-end has died, or the guest is to be elsewhere. */
  disconnect(): void {
    this.isConnected = false;
    this.driver.disconnect();
  }

  /** The units with that number are gone for good, with their host. */
  forget(lun: number): void {
    this.lanes = this.lanes.filter((lane) => lane.lun !== lun);
  }

  /** Waits until every lane has got some commands further. */
  async goesOn(): Promise<void> {
    const from = new Map(this.lanes.map((lane) => [lane, lane.count]));
    const deadlineMs = performance.now() + PATIENCE_MS;
    const isOn = (): boolean =>
      this.lanes.every((lane) => lane.count >= (from.get(lane) as number) + READ_EVERY);
    while (!isOn()) {
      if (this.failures.length > 0) throw new Error(this.failures.join("\n"));
      if (performance.now() > deadlineMs) throw new Error(`it does not go on: ${this.describe()}`);
      await sleep(AGAIN_MS);
    }
  }

  /** Until commands of every lane lie in the rings of a back-end that has been stopped. */
  async fill(): Promise<void> {
    while (this.lanes.some(({ pending }) => pending === null)) await sleep(1);
  }

  private describe(): string {
    const stuck = this.lanes.filter(({ pending }) => pending !== null);
    return `${stuck.length} commands under way, ${this.count} answered`;
  }

  /** Ends it, and reads everything back that was answered; returns how many blocks that were. */
  async finish(): Promise<number> {
    this.isStopped = true;
    await this.running;
    let checked = 0;
    for (const { lun, first, acked } of this.lanes) {
      for (const [at, round] of acked.entries()) {
        if (round === 0) continue;
        const block = first + at * LANES;
        const options = { lun, room: BLOCK_BYTES };
        const answer = this.driver.retried(read10(block * BLOCK_SECTORS, BLOCK_SECTORS), options);
        this.check(lun, block, round, answer.data);
        checked += 1;
      }
    }
    if (this.failures.length > 0) throw new Error(this.failures.join("\n"));
    return checked;
  }

  close(): void {
    this.isStopped = true;
    this.isConnected = false;
    this.driver.close();
  }

  private async run(): Promise<void> {
    while (!this.isStopped || this.lanes.some(({ pending }) => pending !== null)) {
      if (this.isStopped && !this.isConnected) return;
      if (this.isConnected) for (const lane of this.lanes) this.step(lane);
      await sleep(1);
    }
  }

  private step(lane: Lane): void {
    const { pending } = lane;
    if (pending === null) {
      if (!this.isStopped && performance.now() >= lane.notBeforeMs) this.start(lane);
      return;
    }
    if (!this.driver.isAnswered(pending)) return;
    lane.pending = null;
    const { response, status, sense, data } = this.driver.wait(pending);
    const nowMs = performance.now();
    if (response === SCSI_S_RESET || sense >>> 16 === UNIT_ATTENTION || sense === NOT_READY) {
      if (response === SCSI_S_RESET) this.resetCount += 1;
      if (sense === NOT_READY) this.notReadyCount += 1;
      lane.notBeforeMs = nowMs + (sense === NOT_READY ? AGAIN_MS : 0);
      return;
    }
    const { lun, block, at } = lane;
    const round = lane.acked[at] as number;
    if (response !== 0 || status !== 0) {
      const what = `${lane.isRead ? "read" : "write"} of block ${block} of LUN ${lun}`;
      this.failures.push(`${what}: ${response}, ${status}, sense ${sense.toString(16)}`);
    } else if (lane.isRead) {
      this.readCount += 1;
      this.check(lun, block, round, data);
    } else lane.acked[at] = round + 1;
    lane.count += 1;
    this.longestPauseMs = Math.max(this.longestPauseMs, nowMs - this.answeredMs);
    this.answeredMs = nowMs;
  }

  private start(lane: Lane): void {
    const { lun, block, at, count } = lane;
    const round = lane.acked[at] as number;
    lane.isRead = count % READ_EVERY === 0 && round > 0;
    const lba = block * BLOCK_SECTORS;
    lane.pending = lane.isRead
      ? this.driver.start(read10(lba, BLOCK_SECTORS), { lun, room: BLOCK_BYTES })
      : this.driver.start(write10(lba, BLOCK_SECTORS), {
          lun,
          out: content(lun, block, round + 1),
        });
  }

  private check(lun: number, block: number, round: number, data: Uint8Array): void {
    if (Buffer.compare(data, content(lun, block, round)) === 0) return;
    const found = data.length < 12 ? "nothing" : Buffer.from(data).readUInt32BE(8);
    this.failures.push(`block ${block} of LUN ${lun} shows round ${found}, not ${round}`);
  }
}
