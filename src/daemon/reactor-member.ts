// @hot
// A member of an owned volume as its owner keeps it: the replica behind it, on a disk of this node
// or at the other end of a link, found anew with each fence. A disk may be opened later than the
// volume, closed meanwhile, and a peer may come and go.
//
//   fence --> replica still the one to use? --no--> look for it --none--> failure, asked again
//
// Invariants:
//  - a disk's store is used only while the disk is open here: see letGo();
//  - for a member on this node no grant is needed, because whoever fences it tells us in the same
//    call; while its disk is closed there is none, because then nobody tells us.

import { ENOTCONN } from "../base/index.ts";
import type {
  Address,
  FenceAnswer,
  MetadataVersion,
  ReactorPort,
  Replica,
  ReplicaFailure,
  SlabImage,
  SlabPage,
} from "../ports/index.ts";
import type { MemberSession } from "../volume/index.ts";

/** Where a member's replica comes from. */
export interface MemberSource {
  readonly isLocal: boolean;
  /** A replica to be fenced next, or why there is none. */
  open(session: MemberSession): Replica | ReplicaFailure;
  /** False: another one has to be opened. */
  isUsable(replica: Replica): boolean;
  /** See ReadGrants. */
  grantedUntilUs(replica: Replica): number;
  isConnected(replica: Replica): boolean;
  isReachable(): boolean;
}

export interface MemberModules {
  readonly reactor: ReactorPort;
  /** It is closed: the owner has done with it. */
  readonly closed: () => void;
}

interface SlabPlace {
  readonly extentIndex: number;
  readonly slab: number;
}

const GONE: ReplicaFailure = { code: "lost", message: "the replica's disk or node is gone" };

export class MemberReplica implements Replica {
  readonly name: string;
  readonly isLocal: boolean;
  private readonly source: MemberSource;
  private readonly session: MemberSession;
  private readonly modules: MemberModules;
  private readonly reactor: ReactorPort;
  private inner: Replica | null = null;

  constructor(name: string, source: MemberSource, session: MemberSession, modules: MemberModules) {
    this.name = name;
    this.isLocal = source.isLocal;
    this.source = source;
    this.session = session;
    this.modules = modules;
    this.reactor = modules.reactor;
  }

  get grantedUntilUs(): number {
    return this.inner === null ? 0 : this.source.grantedUntilUs(this.inner);
  }

  /** A session with it is open. */
  get isConnected(): boolean {
    return this.inner !== null && this.source.isConnected(this.inner);
  }

  get isReachable(): boolean {
    return this.inner !== null && this.source.isReachable();
  }

  /** Its disk is being closed, or its peer has left the cluster. */
  // @cold
  letGo(): void {
    const { inner } = this;
    this.inner = null;
    inner?.close();
    this.session.replicaLost();
  }

  // --- hot ---------------------------------------------------------------------------------------

  write(
    tag: number,
    op: number,
    firstBlock: number,
    blockCount: number,
    address: Address,
    sequence: number,
  ): void {
    const { inner } = this;
    if (inner === null) this.refuse(tag);
    else inner.write(tag, op, firstBlock, blockCount, address, sequence);
  }

  submitRead(slot: number): void {
    const { inner } = this;
    if (inner === null) this.reactor.requests.complete(slot, -ENOTCONN);
    else inner.submitRead(slot);
  }

  setCommitted(sequence: number): void {
    const { inner } = this;
    if (inner !== null) inner.setCommitted(sequence);
  }

  // @cold
  private refuse(tag: number): void {
    this.later(() => this.session.replicaCompleted(tag, -ENOTCONN));
  }

  // --- cold --------------------------------------------------------------------------------------

  /** Nothing is answered within the call that asks. */
  // @cold
  private later(action: () => void): void {
    this.reactor.setTimer(0, { timerFired: action }, 0);
  }

  // @cold
  fence(
    epoch: number,
    done: (answer: FenceAnswer | ReplicaFailure) => void,
    metadata?: MetadataVersion,
  ): void {
    const { source } = this;
    if (this.inner !== null && !source.isUsable(this.inner)) {
      this.inner.close();
      this.inner = null;
    }
    if (this.inner === null) {
      const found = source.open(this.session);
      if ("code" in found) {
        this.later(() => done(found));
        return;
      }
      this.inner = found;
    }
    this.inner.fence(epoch, done, metadata);
  }

  // @cold
  listSlabs(
    since: { readonly epoch: number; readonly sequence: number },
    cursor: number,
    done: (page: SlabPage | ReplicaFailure) => void,
  ): void {
    if (this.inner === null) this.later(() => done(GONE));
    else this.inner.listSlabs(since, cursor, done);
  }

  // @cold
  readSlab(
    at: SlabPlace,
    address: Address,
    done: (image: SlabImage | ReplicaFailure) => void,
  ): void {
    if (this.inner === null) this.later(() => done(GONE));
    else this.inner.readSlab(at, address, done);
  }

  // @cold
  writeSlab(
    at: SlabPlace,
    image: SlabImage,
    address: Address,
    done: (failure: ReplicaFailure | null) => void,
  ): void {
    if (this.inner === null) this.later(() => done(GONE));
    else this.inner.writeSlab(at, image, address, done);
  }

  // @cold
  close(): void {
    const { inner } = this;
    this.inner = null;
    inner?.close();
    this.modules.closed();
  }
}
