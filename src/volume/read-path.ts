// @hot
// The reads of one volume at its owner. A read
//   waits for changes before it --> goes to a member, and to another when that one fails
//   --> waits for changes that began meanwhile --> waits for grants --> is answered
//
// Invariants: what is answered was answered to its writer before, and every member that may be in
// sync grants it at that moment. A read is parked, never failed, while members cannot be reached;
// only where every copy is damaged it fails.

import { EIO, ENOTCONN, ESTALE, type RequestTable } from "../base/index.ts";
import type { Replica } from "../ports/index.ts";
import type { IoPathOptions, VolumeCare } from "./care.ts";
import { type ChangeOrder, ENTRY_READ, ENTRY_READ_END } from "./change-order.ts";
import { type Member, ROLE_COUNTED } from "./member.ts";
import { NONE, type OwnerWorkspace, type WorkspaceClient } from "./owner-workspace.ts";

const BLOCK_BYTES = 4096;

/** The volume whose reads they are. */
export interface ReadHost extends WorkspaceClient {
  readonly shared: OwnerWorkspace;
  readonly order: ChangeOrder;
  readonly members: readonly Member[];
  readonly countedMask: number;
  readonly isSurrendered: boolean;
  readonly care: VolumeCare | null;
  inflightCount: number;
  deposed(): void;
}

export class ReadPath {
  private readonly host: ReadHost;
  private readonly shared: OwnerWorkspace;
  private readonly requests: RequestTable;
  private readonly options: IoPathOptions;
  private nextReader = 0;
  /** Reads that found no member, and reads whose data is here and whose grants are not. */
  private parkedHead: number = NONE;
  private ungrantedHead: number = NONE;

  constructor(host: ReadHost, options: IoPathOptions) {
    this.host = host;
    this.shared = host.shared;
    this.requests = host.shared.requests;
    this.options = options;
  }

  get hasParked(): boolean {
    return this.parkedHead !== NONE || this.ungrantedHead !== NONE;
  }

  get hasUngranted(): boolean {
    return this.ungrantedHead !== NONE;
  }

  begin(slot: number, first: number, end: number): void {
    const { order } = this.host;
    this.shared.readMember[slot] = NONE;
    this.shared.triedMask[slot] = 0;
    this.shared.damagedMask[slot] = 0;
    const mustWait = !order.isOpen || order.isBusy(first, end);
    if (mustWait && !(order.isOpen && this.options.bugs.readUncommitted)) {
      order.add(ENTRY_READ, slot, first, end);
    } else {
      this.dispatch(slot);
    }
  }

  dispatch(slot: number): void {
    const { shared } = this;
    const reader = this.chooseReader(shared.triedMask[slot] as number);
    if (reader === null) {
      this.park(slot);
      return;
    }
    if (!shared.isAdopted(slot)) shared.adopt(slot, this.host);
    shared.readMember[slot] = reader.index;
    (reader.replica as Replica).submitRead(slot);
  }

  /** The local one first, else in turn. */
  private chooseReader(triedMask: number): Member | null {
    const { members } = this.host;
    let chosen: Member | null = null;
    for (let step = 0; step < members.length; step++) {
      const member = members[(this.nextReader + step) % members.length] as Member;
      if (member.role !== ROLE_COUNTED || !member.isReady || (triedMask & member.bit) !== 0)
        continue;
      if ((member.replica as Replica).isLocal) return member;
      if (chosen === null) chosen = member;
    }
    this.nextReader = (this.nextReader + 1) % Math.max(1, members.length);
    return chosen;
  }

  private park(slot: number): void {
    const { shared } = this;
    const damaged = shared.damagedMask[slot] as number;
    if (damaged !== 0 && (this.host.countedMask & ~damaged) === 0) {
      this.answer(slot, -EIO);
      return;
    }
    // Members come back, or are put out: it is tried again from the start, but for the damage.
    shared.triedMask[slot] = damaged;
    shared.slotNext[slot] = this.parkedHead;
    this.parkedHead = slot;
    (this.host.care as VolumeCare).wantTick();
  }

  done(slot: number, result: number): void {
    const { shared, requests } = this;
    const index = shared.readMember[slot] as number;
    const member = this.host.members[index] as Member;
    if (this.host.isSurrendered) {
      this.answer(slot, -EIO);
      return;
    }
    if (result === 0) {
      const first = (requests.offsetBytes[slot] as number) / BLOCK_BYTES;
      const end = first + (requests.lengthBytes[slot] as number) / BLOCK_BYTES;
      if (this.host.order.isBusy(first, end) && !this.options.bugs.readUncommitted) {
        this.host.order.add(ENTRY_READ_END, slot, first, end);
      } else {
        this.finish(slot);
      }
      return;
    }
    if (result === -ESTALE) {
      this.host.deposed();
      this.answer(slot, -EIO);
      return;
    }
    shared.triedMask[slot] = (shared.triedMask[slot] as number) | member.bit;
    if (result === -ENOTCONN) {
      (this.host.care as VolumeCare).sessionLost(member);
    } else {
      shared.damagedMask[slot] = (shared.damagedMask[slot] as number) | member.bit;
    }
    this.dispatch(slot);
  }

  finish(slot: number): void {
    if (!this.holdsGrants() && !this.options.bugs.readsWithoutGrants) {
      this.shared.slotNext[slot] = this.ungrantedHead;
      this.ungrantedHead = slot;
      (this.host.care as VolumeCare).wantTick();
      return;
    }
    if (this.shared.damagedMask[slot] !== 0) this.tellDamage(slot);
    this.answer(slot, 0);
  }

  // @cold
  private tellDamage(slot: number): void {
    const first = (this.requests.offsetBytes[slot] as number) / BLOCK_BYTES;
    const end = first + (this.requests.lengthBytes[slot] as number) / BLOCK_BYTES;
    for (const member of this.host.members) {
      if (((this.shared.damagedMask[slot] as number) & member.bit) === 0) continue;
      (this.host.care as VolumeCare).foundDamage(first, end, member);
    }
  }

  answer(slot: number, result: number): void {
    this.host.inflightCount -= 1;
    if (this.shared.isAdopted(slot)) this.shared.answerAdopted(slot, result);
    else this.requests.complete(slot, result);
  }

  /** Does every member that may be in sync still promise to let nobody else take over? */
  private holdsGrants(): boolean {
    const { members } = this.host;
    const nowUs = this.options.clock.nowUs();
    for (let at = 0; at < members.length; at++) {
      const member = members[at] as Member;
      if ((this.host.countedMask & member.bit) === 0) continue;
      if (this.options.grants.grantedUntilUs(member.disk) <= nowUs) return false;
    }
    return true;
  }

  /** Tries again what was parked. */
  // @cold
  retryParked(): void {
    let slot = this.parkedHead;
    this.parkedHead = NONE;
    while (slot !== NONE) {
      const next = this.shared.slotNext[slot] as number;
      this.dispatch(slot);
      slot = next;
    }
    slot = this.ungrantedHead;
    this.ungrantedHead = NONE;
    while (slot !== NONE) {
      const next = this.shared.slotNext[slot] as number;
      this.finish(slot);
      slot = next;
    }
  }

  // @cold
  failParked(): void {
    for (const head of [this.parkedHead, this.ungrantedHead]) {
      for (let slot = head; slot !== NONE; ) {
        const next = this.shared.slotNext[slot] as number;
        this.answer(slot, -EIO);
        slot = next;
      }
    }
    this.parkedHead = NONE;
    this.ungrantedHead = NONE;
  }
}
