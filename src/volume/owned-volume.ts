// A replicated volume at its owner, as a BlockDevice of 4096-byte blocks:
//
//   const volume = new OwnedVolume(options, members, modules);
//   volume.takeOver((outcome) => ...);    // requests wait until it serves
//   volume.drain(() => ...);              // answers what is under way, says "clean", lets go
//   volume.handOver(to, () => ...);       // the same, and names the next owner
//
//   idle --takeOver--> taking over --> serving --drain--> draining --> surrendered
//                           |             '------------- deposed ----------^
//                           '---------------------------------------------'
//
// A volume that has surrendered answers -EIO and never serves again; a new one takes its place.

import { assert } from "../base/index.ts";
import type { BlockDeviceInfo, MemberState } from "../ports/index.ts";
import { OwnerBackground } from "./background.ts";
import { IoPath } from "./io-path.ts";
import { type Member, ROLE_COUNTED, ROLE_OUT } from "./member.ts";
import { MEMBERS_MAX, Membership } from "./membership.ts";
import { bugsOf, OWNER_TIMINGS, type OwnerModules, type OwnerOptions } from "./owner-settings.ts";
import { NONE } from "./owner-workspace.ts";
import { RecordKeeper, type RecordOutcome } from "./record-keeper.ts";
import type { ResyncProgress } from "./resync.ts";
import type { WholeBlockDevice } from "./sector-device.ts";
import { Sessions } from "./sessions.ts";
import { Takeover, type TakeoverParts } from "./takeover.ts";
import { Upkeep } from "./upkeep.ts";

const DRAIN_CHECK_MS = 2;
/** What virtio-blk has room for. */
const SERIAL_BYTES = 20;

export type OwnerState = "idle" | "taking-over" | "serving" | "draining" | "surrendered";

class OwnedInfo implements BlockDeviceInfo {
  capacityBytes: number;
  readonly blockBytes = 4096;
  readonly physicalBlockBytes = 4096;
  readonly optimalIoBytes = 65536;
  readonly readOnly: boolean;
  readonly canDiscard = true;
  readonly discardGranularityBytes = 4096;
  readonly serial: string;

  constructor(options: OwnerOptions) {
    this.capacityBytes = options.capacityBytes;
    this.serial = options.serial ?? options.volume.slice(0, SERIAL_BYTES);
    this.readOnly = options.readOnly === true;
  }
}

export class OwnedVolume implements WholeBlockDevice {
  readonly info: OwnedInfo;
  readonly members: readonly Member[];
  private readonly io: IoPath;
  private readonly keeper: RecordKeeper;
  private readonly upkeep: Upkeep;
  private readonly parts: TakeoverParts;
  private takeover: Takeover | null = null;
  private current: OwnerState = "idle";
  private onTakenOver: ((outcome: "serving" | "deposed") => void) | null = null;
  /** Both are needed to serve: the record says that it is ours, and the members are. */
  private isClaimed = false;
  private isTaken = false;
  /** Whom the volume is handed over to; null = nobody, it is let go of. */
  private successor: string | null = null;
  /** Who waits for its end. */
  private readonly leaving: (() => void)[] = [];

  constructor(options: OwnerOptions, disks: readonly string[], modules: OwnerModules) {
    assert(disks.length > 0 && disks.length <= MEMBERS_MAX, "one to eight members");
    const { reactor, records, grants } = modules;
    const bugs = bugsOf(options);
    this.info = new OwnedInfo(options);
    const capacityBytes = (): number => this.info.capacityBytes;
    const { readOnly } = this.info;
    const facts = { capacityBytes, readOnly, grants, bugs, clock: reactor.clock };
    const io = new IoPath(modules.workspace, facts);
    const keeper = new RecordKeeper(options.owner, bugs, { reactor, records });
    const timings = options.timings ?? OWNER_TIMINGS;
    const membership = new Membership(disks, io);
    this.members = membership.members;
    const sessions = new Sessions(io, keeper, modules, timings);
    const { members } = this;
    const background = modules.background ?? new OwnerBackground(reactor);
    this.parts = { io, keeper, sessions, options, timings, modules, members, background };
    keeper.onRecord = (record) => {
      const isOurs = record.owner === options.owner && record.epoch === io.epoch;
      if (!isOurs && this.takeover !== null) return;
      for (const member of membership.follow(record)) this.upkeep.removed(member);
      this.upkeep.membersChanged();
      this.tell();
    };
    this.io = io;
    this.keeper = keeper;
    this.upkeep = new Upkeep(this.parts, () => this.surrendered());
    io.members = members;
    io.care = this.upkeep;
  }

  get state(): OwnerState {
    return this.current;
  }

  get epoch(): number {
    return this.io.epoch;
  }

  /** Slabs that the takeover rewrote. */
  get equalisedCount(): number {
    return this.takeover?.equalisedCount ?? 0;
  }

  get resyncProgress(): ResyncProgress | null {
    return this.upkeep.resyncProgress;
  }

  get repairedCount(): number {
    return this.upkeep.repairedCount;
  }

  /** Disks that hold everything, as far as is known. */
  get inSync(): string[] {
    return this.members.filter(({ role }) => role === ROLE_COUNTED).map(({ disk }) => disk);
  }

  /** What each member is, as far as is known; before the takeover all are out. */
  memberState(member: Member): MemberState {
    if (member.role === ROLE_COUNTED) return "in-sync";
    return member.role === ROLE_OUT ? "out" : "resyncing";
  }

  // As a device -----------------------------------------------------------------------------------

  submit(slot: number): void {
    this.io.submit(slot);
  }

  get inflightCount(): number {
    return this.io.inflightCount;
  }

  oldestInflightUs(nowUs: number): number {
    const piece = this.io.firstPiece;
    return piece === NONE ? 0 : nowUs - this.io.shared.pieceStartedUs[piece];
  }

  setCapacity(bytes: number): void {
    assert(bytes % 4096 === 0, "a capacity of whole blocks");
    this.info.capacityBytes = bytes;
  }

  /** At once and for good, as a crash would: drain() first for a clean end. */
  close(): void {
    if (!this.io.isSurrendered) this.io.surrender();
  }

  // Its life --------------------------------------------------------------------------------------

  takeOver(done: (outcome: "serving" | "deposed") => void): void {
    assert(this.current === "idle", "a volume is taken over once");
    this.current = "taking-over";
    this.onTakenOver = done;
    const claimed = (outcome: RecordOutcome): void => {
      if (this.io.isSurrendered) return;
      if (outcome === "deposed") {
        this.io.deposed();
        return;
      }
      this.isClaimed = true;
      this.fenceMembers();
      if (this.takeover !== null) this.takeover.isClaimed = true;
      this.serveIfReady();
    };
    this.keeper.claim(claimed, () => this.fenceMembers());
  }

  private fenceMembers(): void {
    if (this.takeover !== null || this.io.isSurrendered) return;
    this.takeover = new Takeover(this.parts, () => {
      this.isTaken = true;
      this.serveIfReady();
    });
    this.takeover.start();
  }

  /** Somebody has added a member to the record, or taken one away; or so it is said. */
  membersChanged(): void {
    if (this.io.isSurrendered || this.takeover === null) return;
    this.keeper.look((outcome) => {
      if (outcome === "deposed") this.io.deposed();
    });
  }

  /** The node of that disk can be reached again: see OwnerModules.canReach. */
  memberIsBack(disk: string): void {
    const member = this.members.find((one) => one.disk === disk);
    if (member !== undefined) this.upkeep.isBack(member);
  }

  /** The member on that disk is to go: it is put out once another is in sync. null: none is. */
  setLeaving(disk: string | null): void {
    this.upkeep.setLeaving(disk);
  }

  private serveIfReady(): void {
    if (!this.isClaimed || !this.isTaken || this.current !== "taking-over") return;
    this.current = "serving";
    const { reactor } = this.parts.modules;
    reactor.log.log("info", "volume-taken-over", {
      volume: this.parts.options.volume,
      epoch: this.epoch,
      equalised: this.equalisedCount,
    });
    this.upkeep.serve();
    this.tell();
    this.io.order.isOpen = true;
    this.io.order.run();
    const told = this.onTakenOver;
    this.onTakenOver = null;
    told?.("serving");
  }

  /**
   * As drain(), and the record names `to`, a run of another daemon, as the owner of the next epoch:
   * it need not wait for grants, and has nothing to equalise.
   */
  handOver(to: string, done: () => void): void {
    this.successor = to;
    this.drain(done);
  }

  /** Waits for what is under way. The front end has been stopped: what came later would fail. */
  drain(done: () => void): void {
    assert(this.current === "serving", "only what serves can be drained");
    this.current = "draining";
    this.tell();
    this.leaving.push(done);
    this.awaitEnd();
  }

  /**
   * Lets go in whatever state it is: drains what serves. A volume that has not been taken over is
   * left as it is, for the next owner; what waits for it fails.
   */
  surrender(done: () => void): void {
    if (this.current === "serving") {
      this.drain(done);
    } else if (this.current === "surrendered") {
      done();
    } else {
      this.leaving.push(done);
      if (this.current !== "draining") this.close();
    }
  }

  private awaitEnd(): void {
    if (this.io.isSurrendered) return;
    const isAtRest = this.io.firstPiece === NONE && this.io.inflightCount === 0;
    const isHasty = bugsOf(this.parts.options).surrenderBeforeDrain;
    if ((!isAtRest && !isHasty) || this.keeper.isBusy) {
      const timerFired = (): void => this.awaitEnd();
      this.parts.modules.reactor.setTimer(DRAIN_CHECK_MS, { timerFired }, 0);
      return;
    }
    this.io.order.isOpen = false;
    const ended = (): void => {
      if (!this.io.isSurrendered) this.io.surrender();
    };
    if (this.successor !== null) this.keeper.handOver(this.successor, ended);
    else this.keeper.change((record) => ({ ...record, state: "clean" }), ended);
  }

  private surrendered(): void {
    this.current = "surrendered";
    this.tell();
    const told = this.onTakenOver;
    this.onTakenOver = null;
    told?.("deposed");
    for (const left of this.leaving.splice(0)) left();
  }

  private tell(): void {
    this.parts.modules.changed?.();
  }
}
