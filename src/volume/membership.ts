// The list of a volume's members at its owner, kept as the record has it: others may add a disk
// that is out ("new"), which then returns like any other, and take away one that is out.
//
// Invariants: a disk that the record names in sync is never dropped, and never joins while we serve
// but by our own hand; a place among the members is used again once no write is outstanding there.

import type { OwnedRecord } from "../ports/index.ts";
import type { IoPath } from "./io-path.ts";
import { Member, ROLE_OUT } from "./member.ts";
import { NONE } from "./owner-workspace.ts";

/** Masks of members are bytes. */
export const MEMBERS_MAX = 8;

export class Membership {
  /** One array for all who look at members: it changes in place. */
  readonly members: Member[];
  private readonly io: IoPath;

  constructor(disks: readonly string[], io: IoPath) {
    this.members = disks.map((disk, index) => new Member(index, disk));
    this.io = io;
  }

  /** Those that the record does not name any more, and that must be let go of first. */
  follow(record: OwnedRecord): Member[] {
    const { members } = this;
    const gone: Member[] = [];
    for (const member of members) {
      const isNamed = record.members.includes(member.disk);
      if (isNamed === !member.isRemoved) continue;
      if (isNamed) {
        member.isRemoved = false;
      } else {
        member.isRemoved = true;
        if (member.role !== ROLE_OUT || member.replica !== null) gone.push(member);
      }
    }
    for (const disk of record.members) this.add(disk);
    return gone;
  }

  /** Without a free place it is left for the next record, or the next owner. */
  private add(disk: string): void {
    const { members } = this;
    if (members.some((one) => one.disk === disk)) return;
    const isFree = (one: Member): boolean =>
      one.isRemoved && one.role === ROLE_OUT && one.replica === null && !this.isBusy(one);
    const free = members.findIndex(isFree);
    if (free !== -1) members[free] = new Member(free, disk);
    else if (members.length < MEMBERS_MAX) members.push(new Member(members.length, disk));
  }

  private isBusy(member: Member): boolean {
    const { io } = this;
    const { shared } = io;
    for (let at = io.firstPiece; at !== NONE; at = shared.pieceNext[at]) {
      if ((shared.outstandingMask[at] & member.bit) !== 0) return true;
    }
    return false;
  }
}
