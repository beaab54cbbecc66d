// What the tests of the classic path share: an initiator in this process on a reactor of its own,
// and commands for it.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type CommandOptions,
  type InitiatorCommand,
  IscsiInitiator,
  type LoginOptions,
} from "../../load/index.ts";
import type { ClassicSpec, VolumeSpec } from "../../ports/index.ts";
import { Reactor } from "../../reactor/index.ts";
import { SystemClock, SystemMemory } from "../../sys/index.ts";
import { UringDialer } from "../../uring/index.ts";

export const INITIATOR = "iqn.2026-01.test:one";
export const PORTAL = {
  host: "127.0.0.1",
  port: 0,
  connectionsMax: 16,
  connectionsPerAddressMax: 16,
  discovery: null,
} as const;
const PATIENCE_MS = 20_000;

export function classicSpec(volume: VolumeSpec, more: Partial<ClassicSpec> = {}): ClassicSpec {
  return {
    volumeId: volume.id,
    targetName: `iqn.2024-01.io.ringstore:${volume.name}`,
    initiators: [],
    chap: null,
    portTag: 1,
    readOnly: false,
    naa: "3000000000000001",
    reservations: null,
    powerWasLost: false,
    ...more,
  };
}

function be(value: number, bytes: number): number[] {
  const digits = value.toString(16).padStart(2 * bytes, "0");
  return Array.from({ length: bytes }, (_, at) =>
    Number.parseInt(digits.slice(2 * at, 2 * at + 2), 16),
  );
}

/** A CDB of 16 bytes. */
function cdb(...bytes: readonly number[]): Uint8Array {
  const whole = new Uint8Array(16);
  whole.set(bytes);
  return whole;
}

export const read10 = (lba: number, blocks: number): Uint8Array =>
  cdb(0x28, 0, ...be(lba, 4), 0, ...be(blocks, 2));
export const write10 = (lba: number, blocks: number): Uint8Array =>
  cdb(0x2a, 0, ...be(lba, 4), 0, ...be(blocks, 2));
export const TEST_UNIT_READY: Uint8Array = cdb(0);
export const READ_CAPACITY: Uint8Array = cdb(0x25);

/** PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY (SPC-4 6.14). */
export function register(key: number, isAptpl: boolean): CommandOptions {
  const data = new Uint8Array(24);
  data.set(be(key, 8), 8);
  data[20] = isAptpl ? 1 : 0;
  return { cdb: cdb(0x5f, 6, 0, 0, 0, 0, 0, 0, 24), data };
}

/** RESERVE, write exclusive, for the nexus that has registered that key. */
export function reserve(key: number): CommandOptions {
  const data = new Uint8Array(24);
  data.set(be(key, 8));
  return { cdb: cdb(0x5f, 1, 1, 0, 0, 0, 0, 0, 24), data };
}

/** INQUIRY, VPD page 83h: who the unit is, and by which port it is seen. */
export const IDENTIFICATION: CommandOptions = {
  cdb: cdb(0x12, 1, 0x83, 1, 0),
  readBytes: 256,
};

const PORT_GROUPS: CommandOptions = {
  cdb: cdb(0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0),
  readBytes: 256,
};

/** REPORT TARGET PORT GROUPS: `group:state` of each, in the order of the answer. */
export async function portGroups(
  client: Pick<ClassicClient, "run">,
  initiator: IscsiInitiator,
): Promise<string> {
  const { status, data } = await client.run(initiator, PORT_GROUPS);
  assert.equal(status, 0);
  const bytes = Buffer.from(data);
  const end = 4 + bytes.readUInt32BE(0);
  const groups: string[] = [];
  for (let at = 4; at < end; at += 8 + 4 * (bytes[at + 7] as number)) {
    groups.push(`${bytes.readUInt16BE(at + 2)}:${(bytes[at] as number) & 0x0f}`);
  }
  return groups.join(" ");
}

/** PERSISTENT RESERVE IN, READ KEYS. */
export const READ_KEYS: CommandOptions = { cdb: cdb(0x5e, 0, 0, 0, 0, 0, 0, 1, 0), readBytes: 256 };

export function keysOf({ data }: InitiatorCommand): string[] {
  const bytes = Buffer.from(data.subarray(0, 256));
  const count = bytes.readUInt32BE(4) / 8;
  return Array.from({ length: count }, (_, at) => bytes.toString("hex", 8 + at * 8, 16 + at * 8));
}

export class ClassicClient {
  readonly reactor: Reactor;
  private count = 0;

  constructor() {
    this.reactor = new Reactor(
      { requestSlots: 64, ringEntries: 256, watchesMax: 16, timersMax: 64, pollMaxUs: 0 },
      { memory: new SystemMemory(), clock: new SystemClock(), log: { log(): void {} } },
    );
  }

  /** `address` is `HOST:PORT`. */
  dial(address: string, options: Partial<LoginOptions>): IscsiInitiator {
    this.count += 1;
    const { ring, memory } = this.reactor;
    const colon = address.lastIndexOf(":");
    const place = { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
    return new IscsiInitiator(memory, new UringDialer(ring, memory, place), {
      initiatorName: INITIATOR,
      targetName: null,
      isid: this.count.toString(16).padStart(12, "0"),
      ...options,
    });
  }

  /** Comes back when the login is over, however it went; see `login.status`. */
  async tryLogin(address: string, options: Partial<LoginOptions>): Promise<IscsiInitiator> {
    const initiator = this.dial(address, options);
    await this.until(() => initiator.login.isDone || initiator.isEnded, "a login");
    return initiator;
  }

  /** Logs in, and takes the unit attention that begins a session (POWER ON, SPC-4 5.6.6). */
  async login(address: string, targetName: string): Promise<IscsiInitiator> {
    const initiator = await this.tryLogin(address, { targetName });
    assert.equal(initiator.login.status, 0);
    const first = await this.run(initiator, { cdb: TEST_UNIT_READY });
    assert.equal(first.senseTriple >>> 8, 0x0629);
    return initiator;
  }

  async run(initiator: IscsiInitiator, options: CommandOptions): Promise<InitiatorCommand> {
    const command = initiator.command(options);
    await this.until(() => command.isDone || initiator.isEnded, "a command");
    assert.deepEqual(initiator.violations, []);
    return command;
  }

  /** Turns the reactor, and lets this thread's own events happen. */
  async until(condition: () => boolean, what: string): Promise<void> {
    const deadlineMs = performance.now() + PATIENCE_MS;
    while (!condition()) {
      this.reactor.turn();
      await sleep(1);
      assert.ok(performance.now() < deadlineMs, `waited in vain for ${what}`);
    }
  }

  /** The same while a promise is waited for. */
  async during<T>(work: Promise<T>): Promise<T> {
    let isOver = false;
    const over = (): void => {
      isOver = true;
    };
    work.then(over, over);
    await this.until(() => isOver, "an operation");
    return await work;
  }
}
