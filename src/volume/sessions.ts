// The owner's sessions with its members: opened by a fence, resumed by another fence in the same
// epoch, closed when a member is put out. The replica's side lets everything of the old session end
// or refuses it before it answers a fence; then what is not confirmed is sent again.

import { assert } from "../base/index.ts";
import type { FenceAnswer, OwnedRecord, Replica, ReplicaFailure } from "../ports/index.ts";
import type { IoPath } from "./io-path.ts";
import { type Member, MemberSession, ROLE_OUT } from "./member.ts";
import type { OwnerModules, OwnerTimings } from "./owner-settings.ts";
import { isNewerThan, type RecordKeeper } from "./record-keeper.ts";

export type Fenced = (answer: FenceAnswer | ReplicaFailure) => void;

export class Sessions {
  private readonly io: IoPath;
  private readonly keeper: RecordKeeper;
  private readonly modules: OwnerModules;
  private readonly timings: OwnerTimings;

  constructor(io: IoPath, keeper: RecordKeeper, modules: OwnerModules, timings: OwnerTimings) {
    this.io = io;
    this.keeper = keeper;
    this.modules = modules;
    this.timings = timings;
  }

  private get nowUs(): number {
    return this.modules.reactor.clock.nowUs();
  }

  /** Fences in our epoch. On success the session may be made ready. */
  fence(member: Member, done: Fenced): void {
    assert(!member.isFencing, "a member is fenced once at a time");
    if (member.replica === null) {
      member.session = new MemberSession(member, this.io);
      member.replica = this.modules.openReplica(member.disk, member.session);
      member.lostSinceUs = this.nowUs;
    }
    const { session } = member;
    const { record } = this.keeper;
    member.isFencing = true;
    (session as MemberSession).isOver = false;
    const answered: Fenced = (answer) => {
      // Of a session that was closed meanwhile.
      if (member.session !== session) return;
      member.isFencing = false;
      if ("code" in answer) {
        member.retryAtUs = this.nowUs + this.timings.retryMs * 1000;
        if (answer.code === "stale-epoch") {
          this.io.deposed();
          return;
        }
        if (answer.code === "rolled-back") {
          this.lookAgain(member, record, () => done(answer));
          return;
        }
      }
      done(answer);
    };
    member.replica.fence(this.io.epoch, answered, {
      clusterGeneration: record.clusterGeneration,
      membershipVersion: record.membershipVersion,
    });
  }

  /**
   * The replica has seen a newer list of members than we came with: others may have changed it. If
   * the metadata itself knows no newer one it was put back from a backup, and nobody may serve
   * from it; least of all by putting out whoever remembers.
   */
  private lookAgain(member: Member, shown: OwnedRecord, again: () => void): void {
    const { session } = member;
    member.isFencing = true;
    this.keeper.look((outcome) => {
      const { record } = this.keeper;
      if (outcome === "deposed" || !isNewerThan(record, shown)) {
        const { log } = this.modules.reactor;
        log.log("error", "volume-metadata-older", { member: member.disk, epoch: this.io.epoch });
        this.io.deposed();
        return;
      }
      if (member.session !== session) return;
      member.isFencing = false;
      again();
    });
  }

  /** Sends what is not confirmed; false while calls of before have not completed. */
  makeReady(member: Member): boolean {
    const session = member.session as MemberSession;
    if (session.outstandingCount > 0) return false;
    member.isReady = true;
    (member.replica as Replica).setCommitted(this.io.watermark);
    this.io.resend(member);
    if (session.isOver) this.lost(member);
    this.modules.changed?.();
    return true;
  }

  lost(member: Member): void {
    if (!member.isReady) return;
    member.isReady = false;
    member.lostSinceUs = this.nowUs;
    member.retryAtUs = this.nowUs;
    this.modules.changed?.();
  }

  /** Nothing is said or heard any more; memory comes back as its calls complete. */
  close(member: Member): void {
    const { replica } = member;
    member.role = ROLE_OUT;
    member.isReady = false;
    member.isFencing = false;
    member.isLeaving = false;
    member.session = null;
    member.replica = null;
    this.io.forgetMember(member);
    replica?.close();
    this.modules.changed?.();
  }
}
