// A portal and initiators in the simulator: no sockets, one seed, virtual time.

import assert from "node:assert/strict";
import { Prng } from "../base/index.ts";
import { IscsiInitiator, type LoginOptions } from "../load/index.ts";
import {
  type SimConnection,
  SimMemory,
  SimNetwork,
  SimReactor,
  SimScheduler,
} from "../testing/sim/index.ts";
import { BLOCK_BYTES, STUB_BYTES, StubScsi } from "./_test-scsi.ts";
import type { ChapCredentials } from "./chap.ts";
import type { TargetWishes } from "./negotiation.ts";
import { Portal, type PortalLimits } from "./portal.ts";
import type { IscsiTarget, TargetDirectory } from "./target.ts";

export const TARGET_NAME = "iqn.2024-01.io.ringstore:vol1";
export const INITIATOR_NAME = "iqn.2024-01.io.ringstore:initiator";

export interface RigOptions {
  readonly seed?: number;
  readonly wishes?: TargetWishes;
  readonly chap?: ChapCredentials;
  readonly discoveryChap?: ChapCredentials;
  readonly target?: Partial<IscsiTarget>;
  readonly extraTargets?: number;
  readonly isShort?: boolean;
  readonly windowBytes?: number;
  readonly limits?: Partial<PortalLimits>;
  readonly memoryMiB?: number;
}

export class Rig {
  readonly scheduler: SimScheduler;
  readonly memory: SimMemory;
  readonly reactor: SimReactor;
  readonly network: SimNetwork;
  readonly scsi: StubScsi;
  readonly portal: Portal;
  readonly targets: Map<string, IscsiTarget> = new Map();
  readonly prng: Prng;
  /** Arenas before the first connection. */
  readonly idleArenas: number;
  private count = 0;

  constructor(options: RigOptions = {}) {
    const { seed = 1, isShort, windowBytes } = options;
    this.scheduler = new SimScheduler(seed);
    this.memory = new SimMemory((options.memoryMiB ?? 192) << 20);
    this.reactor = new SimReactor({
      scheduler: this.scheduler,
      memory: this.memory,
      requestSlots: 1024,
    });
    this.network = new SimNetwork({
      scheduler: this.scheduler,
      memory: this.memory,
      ...(isShort === undefined ? {} : { isShort }),
      ...(windowBytes === undefined ? {} : { windowBytes }),
    });
    this.prng = new Prng(seed + 1000);
    this.scsi = new StubScsi(this.reactor);
    this.addTarget(TARGET_NAME, { chap: options.chap ?? null, ...options.target });
    for (let index = 0; index < (options.extraTargets ?? 0); index++) {
      this.addTarget(`iqn.2024-01.io.ringstore:extra${index}`, {});
    }
    const directory: TargetDirectory = {
      find: (name) => this.targets.get(name) ?? null,
      list: () => [...this.targets.values()],
      discoveryChap: options.discoveryChap ?? null,
    };
    this.portal = new Portal(this.reactor, this.reactor.log, {
      address: "10.0.0.1:3260",
      directory,
      ...(options.wishes === undefined ? {} : { wishes: options.wishes }),
      ...(options.limits === undefined ? {} : { limits: options.limits }),
    });
    this.idleArenas = this.memory.arenaCount;
  }

  addTarget(name: string, change: Partial<IscsiTarget>): void {
    this.targets.set(name, {
      name,
      alias: "",
      portalGroupTag: 1,
      addresses: [],
      initiators: null,
      chap: null,
      redirect: null,
      scsi: this.scsi,
      ...change,
    });
  }

  /** Options of a login to the first target; each has an ISID of its own. */
  options(change: Partial<LoginOptions> = {}): LoginOptions {
    this.count += 1;
    return {
      initiatorName: INITIATOR_NAME,
      targetName: TARGET_NAME,
      isid: this.count.toString(16).padStart(12, "0"),
      ...change,
    };
  }

  /** An initiator that dials; it has not logged in yet. */
  dial(change: Partial<LoginOptions> = {}, from = "10.0.0.9"): IscsiInitiator {
    return new IscsiInitiator(this.memory, this.dialer(from), this.options(change));
  }

  dialer(from: string): ReturnType<SimNetwork["dialer"]> {
    return this.network.dialer({
      streamAccepted: (stream) => this.portal.streamAccepted(stream, from),
    });
  }

  lastConnection(): SimConnection {
    return this.network.connections.at(-1) as SimConnection;
  }

  /** Dials and logs in; throws where that fails. */
  login(change: Partial<LoginOptions> = {}): IscsiInitiator {
    const initiator = this.dial(change);
    this.until(() => initiator.login.isDone || initiator.isEnded, "a login");
    assert.equal(initiator.login.status, 0, "the login was refused");
    return initiator;
  }

  /** The status of a login that is expected to be refused. */
  refused(change: Partial<LoginOptions> = {}): number {
    const initiator = this.dial(change);
    this.until(() => initiator.isEnded, "the end of a refused login");
    return initiator.login.status;
  }

  until(condition: () => boolean, what: string): void {
    this.scheduler.runUntil(condition, what);
  }

  runMs(ms: number): void {
    this.scheduler.runFor(ms * 1000);
  }

  /** Random data. */
  data(bytes: number): Uint8Array {
    const data = new Uint8Array(bytes);
    for (let index = 0; index < bytes; index++) data[index] = this.prng.u32();
    return data;
  }

  diskBytes(from: number, bytes: number): Uint8Array {
    return this.scsi.disk.u8.slice(from, from + bytes);
  }

  fillDisk(): void {
    const { u32 } = this.scsi.disk;
    for (let index = 0; index < STUB_BYTES / 4; index++) u32[index] = this.prng.u32();
  }

  /** Nothing that a peer has caused is left. */
  checkEmpty(): void {
    this.until(() => this.portal.sessions.size + this.portal.logins.size === 0, "all ends");
    this.scheduler.runUntilQuiet();
    assert.equal(this.scsi.inflightCount, 0, "tasks are left");
    assert.equal(this.scsi.nexusCount, 0, "a nexus is left");
    assert.equal(this.memory.arenaCount, this.idleArenas, "arenas are left");
  }
}

export function read10(block: number, blocks: number): Uint8Array {
  return cdb10(0x28, block, blocks);
}

export function write10(block: number, blocks: number): Uint8Array {
  return cdb10(0x2a, block, blocks);
}

function cdb10(opcode: number, block: number, blocks: number): Uint8Array {
  const cdb = Buffer.alloc(16);
  cdb[0] = opcode;
  cdb.writeUInt32BE(block, 2);
  cdb.writeUInt16BE(blocks, 7);
  return cdb;
}

export { BLOCK_BYTES };
