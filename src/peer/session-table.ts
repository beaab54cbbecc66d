// The sessions of one server, by volume and disk: fenced, resumed, superseded, closed. Which
// invariants hold for one of them is said in server-session.ts.
//
// Invariants:
//  - a fence or resume supersedes the session that was there at once, tells its owner before any
//    later grant can, and is answered when all of it has ended;
//  - grants outlive sessions: a fence's answer counts those of every earlier owner;
//  - a session without a connection waits SESSION_KEEP_MS for its owner, then it is closed.

import type { FenceAnswer, ReactorPort, ReplicaFailure, ReplicaProvider } from "../ports/index.ts";
import { encodeFenceAnswer, type ReplicaTarget } from "../wire/index.ts";
import { SERVER_SESSIONS_MAX, SESSION_KEEP_MS } from "./limits.ts";
import type { PeerGrants } from "./peer-grants.ts";
import type { PeerPlantedBugs } from "./planted.ts";
import type { ServerLink } from "./server-link.ts";
import { bufferWindow } from "./server-messages.ts";
import { ServerSession, type SessionOwner } from "./server-session.ts";

export interface SessionModules {
  readonly reactor: ReactorPort;
  readonly provider: ReplicaProvider;
  readonly grants: PeerGrants;
}

/** What happened to sessions, for telemetry. */
export interface SessionCounters {
  fenceCount: number;
  resumeCount: number;
  /** Sessions that a higher epoch has taken over. */
  fencedCount: number;
}

const NOTHING = new Uint8Array(0);

export class SessionTable implements SessionOwner {
  readonly counters: SessionCounters = { fenceCount: 0, resumeCount: 0, fencedCount: 0 };
  private readonly reactor: ReactorPort;
  private readonly provider: ReplicaProvider;
  private readonly grants: PeerGrants;
  private readonly planted: PeerPlantedBugs;
  private readonly sessions: Map<string, ServerSession> = new Map();
  /** See noteWait. */
  private readonly waits: Map<string, number> = new Map();
  private closing = 0;

  constructor(modules: SessionModules, planted: PeerPlantedBugs) {
    this.reactor = modules.reactor;
    this.provider = modules.provider;
    this.grants = modules.grants;
    this.planted = planted;
  }

  get size(): number {
    return this.sessions.size;
  }

  /** Something will be over some time: sweep() now and then. */
  get needsSweep(): boolean {
    return this.sessions.size > 0 || this.waits.size > 0;
  }

  /** Its connection is gone: its owner may come back within SESSION_KEEP_MS. */
  orphan(session: ServerSession): void {
    session.number = 0;
    session.orphanedUs = this.reactor.clock.nowUs();
  }

  /** Closes those that have waited long enough. */
  sweep(): void {
    const nowUs = this.reactor.clock.nowUs();
    for (const session of [...this.sessions.values()]) {
      const { orphanedUs } = session;
      if (orphanedUs > 0 && nowUs - orphanedUs > SESSION_KEEP_MS * 1000) this.close(session);
    }
    for (const [key, untilUs] of this.waits) if (untilUs <= nowUs) this.waits.delete(key);
  }

  closeAll(): void {
    for (const session of [...this.sessions.values()]) this.close(session);
  }

  /** Sessions that were closed and have something on its way to their disks. */
  get closingCount(): number {
    return this.closing;
  }

  /**
   * The replica is about to go away: its sessions end, and their connections with them, so that
   * the owners hear of it; every other session on those is resumed. All volumes of the disk when
   * none is named.
   */
  drop(diskUuid: string, volumeUuid: string | null): void {
    for (const session of [...this.sessions.values()]) {
      const [volume, disk] = session.key.split("/");
      if (disk !== diskUuid || (volumeUuid !== null && volume !== volumeUuid)) continue;
      if (session.number !== 0) session.link.close();
      this.close(session);
    }
  }

  fence(link: ServerLink, op: number, number: number, epoch: number, target: ReplicaTarget): void {
    const key = `${target.volumeUuid}/${target.diskUuid}`;
    this.counters.fenceCount += 1;
    const before = this.sessions.get(key);
    const isSame =
      before !== undefined &&
      before.nodeId === link.nodeId &&
      before.incarnation === link.incarnation;
    if (before !== undefined && (before.epoch > epoch || (before.epoch === epoch && !isSame))) {
      link.answerFailure(op, staleFailure(before.epoch));
      return;
    }
    if (before === undefined && this.sessions.size >= SERVER_SESSIONS_MAX) {
      const message = `this node serves ${SERVER_SESSIONS_MAX} sessions already`;
      link.answerFailure(op, { code: "limit", message });
      return;
    }
    const waitUntilUs = this.noteWait(key, isSame ? undefined : before);
    const session = new ServerSession(key, epoch, link, number, this);
    session.isFencing = true;
    this.sessions.set(key, session);
    if (before !== undefined) this.supersede(before, epoch);
    const goOn = (): void => {
      before?.replica?.close();
      this.fenceReplica(session, op, target, waitUntilUs);
    };
    if (before === undefined) goOn();
    else before.whenIdle(goOn);
  }

  /**
   * Until when grants for this replica may be in use that anybody but the next owner was given,
   * with those of `loser`. Kept until they have ended, because sessions come and go meanwhile: of
   * three owners in a row the third has to wait for the first one's grants as well.
   */
  private noteWait(key: string, loser: ServerSession | undefined): number {
    const known = Math.max(this.waits.get(key) ?? 0, this.grants.earlierRunUntilUs);
    const given = loser === undefined ? 0 : this.grants.givenUntilUs(loser.nodeId);
    const untilUs = Math.max(known, given);
    if (untilUs > this.reactor.clock.nowUs()) this.waits.set(key, untilUs);
    return untilUs;
  }

  /** Nothing more is accepted from it; its owner hears of it unless it is the one who fences. */
  private supersede(session: ServerSession, epoch: number): void {
    session.isSuperseded = true;
    session.fencedEpoch = epoch;
    if (epoch > session.epoch) this.counters.fencedCount += 1;
    if (session.number === 0) return;
    session.link.removeSession(session);
    const isNews = epoch > session.epoch && !this.planted.silentFence;
    if (isNews) session.link.sendFenced(session, epoch);
    session.number = 0;
  }

  private fenceReplica(
    session: ServerSession,
    op: number,
    target: ReplicaTarget,
    waitUntilUs: number,
  ): void {
    const found = this.provider.openReplica(target.volumeUuid, target.diskUuid, session);
    if ("code" in found) {
      this.fenced(session, op, found, 0);
      return;
    }
    const ended = (answer: FenceAnswer | ReplicaFailure): void => {
      if ("code" in answer) found.close();
      else session.replica = found;
      const nowUs = this.reactor.clock.nowUs();
      this.fenced(session, op, answer, Math.max(0, waitUntilUs - nowUs));
    };
    found.fence(session.epoch, ended, target.metadata ?? undefined);
  }

  private fenced(
    session: ServerSession,
    op: number,
    answer: FenceAnswer | ReplicaFailure,
    grantWaitUs: number,
  ): void {
    const { link } = session;
    const wasSuperseded = session.isSuperseded;
    if ("code" in answer) {
      if (this.sessions.get(session.key) === session) this.sessions.delete(session.key);
      link.answerFailure(op, answer);
    } else if (wasSuperseded) {
      const newer = this.sessions.get(session.key)?.epoch ?? session.epoch;
      link.answerFailure(op, staleFailure(newer));
    } else {
      this.answerFence(session, op, { ...answer, grantWaitUs });
    }
    session.fenceEnded();
  }

  private answerFence(session: ServerSession, op: number, answer: FenceAnswer): void {
    const { link } = session;
    const bytes = encodeFenceAnswer(bufferWindow(link, op), 0, answer);
    if (bytes < 0) {
      const stamps = answer.above.length + answer.uncertain.length;
      const message = `${stamps} slabs to equalise do not fit one answer`;
      link.answerFailure(op, { code: "limit", message });
      return;
    }
    if (link.isOpen) {
      link.addSession(session);
    } else {
      // Its owner may resume it, or fence again.
      this.orphan(session);
    }
    link.answerCold(op, NOTHING, bytes);
  }

  resume(link: ServerLink, op: number, number: number, epoch: number, target: ReplicaTarget): void {
    const key = `${target.volumeUuid}/${target.diskUuid}`;
    const session = this.sessions.get(key);
    const holder = session?.isSuperseded === true ? session.fencedEpoch : (session?.epoch ?? 0);
    if (holder > epoch) {
      link.answerFailure(op, staleFailure(holder));
      return;
    }
    if (
      session === undefined ||
      session.epoch !== epoch ||
      session.nodeId !== link.nodeId ||
      session.incarnation !== link.incarnation ||
      session.replica === null
    ) {
      const message = "there is no session to resume: fence the replica again";
      link.answerFailure(op, { code: "lost", message });
      return;
    }
    if (this.planted.resumeWithoutDrain || this.planted.oldConnectionLives) {
      this.resumeBadly(link, op, number, session, target);
      return;
    }
    if (session.number !== 0) {
      session.link.removeSession(session);
      this.orphan(session);
    }
    session.whenIdle(() => {
      // Meanwhile a fence may have come, or the connection may be gone.
      if (session.isSuperseded || this.sessions.get(key) !== session) {
        link.answerFailure(op, staleFailure(session.fencedEpoch));
        return;
      }
      if (link.isOpen) {
        session.resume(link, number);
        this.counters.resumeCount += 1;
        link.addSession(session);
        if (this.planted.forgetDone) session.resumedSequence = -1;
      }
      link.answerCold(op, NOTHING, 0);
    });
  }

  /** Planted: a second session beside the first, which ends when it likes. */
  private resumeBadly(
    link: ServerLink,
    op: number,
    number: number,
    before: ServerSession,
    target: ReplicaTarget,
  ): void {
    if (!this.planted.oldConnectionLives) before.link.removeSession(before);
    const session = new ServerSession(before.key, before.epoch, link, number, this);
    this.sessions.set(session.key, session);
    const found = this.provider.openReplica(target.volumeUuid, target.diskUuid, session);
    if (!("code" in found)) session.replica = found;
    link.addSession(session);
    link.answerCold(op, NOTHING, 0);
  }

  close(session: ServerSession): void {
    if (this.sessions.get(session.key) === session) this.sessions.delete(session.key);
    if (session.number !== 0) session.link.removeSession(session);
    session.number = 0;
    session.isSuperseded = true;
    this.closing += 1;
    session.whenIdle(() => {
      this.closing -= 1;
      session.replica?.close();
    });
  }

  sessionFenced(session: ServerSession, epoch: number): void {
    if (session.isSuperseded) return;
    this.noteWait(session.key, session);
    this.supersede(session, epoch);
    session.whenIdle(() => {
      if (this.sessions.get(session.key) !== session) return;
      this.sessions.delete(session.key);
      session.replica?.close();
    });
  }

  /**
   * An owner in this process is about to fence a replica of its own node in `epoch`: owners
   * elsewhere lose their session. Returns until when grants that they were given may be in use.
   */
  fenceLocally(volumeUuid: string, diskUuid: string, epoch: number): number {
    const key = `${volumeUuid}/${diskUuid}`;
    const session = this.sessions.get(key);
    const untilUs = this.noteWait(key, session);
    if (session !== undefined && session.epoch < epoch) this.sessionFenced(session, epoch);
    return untilUs;
  }
}

function staleFailure(epoch: number): ReplicaFailure {
  return { code: "stale-epoch", message: `epoch ${epoch} holds this replica`, epoch };
}
