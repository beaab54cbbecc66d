// @hot
// A replica on a disk of this node, as an owner in the same process sees it: the store's own, with
// what owners elsewhere must hear and what they may still rely on.
//
//   fence --> owners elsewhere lose their session --> the store's fence --> answer + their grants
//
// It grants itself while nobody has fenced past it: the store says so at once, in this process.

import type {
  Address,
  Clock,
  FenceAnswer,
  MetadataVersion,
  Replica,
  ReplicaFailure,
  ReplicaHandler,
  SlabImage,
  SlabPage,
} from "../ports/index.ts";
import type { GrantSource } from "./peer-grants.ts";

/** Whoever serves the node's replicas to others; see SessionTable. */
export interface LocalFences {
  fenceLocally(volumeUuid: string, diskUuid: string, epoch: number): number;
}

export interface LocalReplicaOptions {
  readonly name: string;
  readonly volumeUuid: string;
  readonly diskUuid: string;
  readonly handler: ReplicaHandler;
}

export interface LocalReplicaModules {
  readonly clock: Clock;
  readonly server: LocalFences;
  /** The store's replica, for this session, or why there is none. */
  readonly open: (handler: ReplicaHandler) => Replica | ReplicaFailure;
}

export class LocalReplica implements Replica, GrantSource, ReplicaHandler {
  readonly name: string;
  readonly isLocal = true;
  private readonly options: LocalReplicaOptions;
  private readonly modules: LocalReplicaModules;
  private readonly handler: ReplicaHandler;
  private store: Replica | null = null;
  private epoch = 0;
  private isHeld = false;

  private constructor(options: LocalReplicaOptions, modules: LocalReplicaModules) {
    this.name = options.name;
    this.options = options;
    this.modules = modules;
    this.handler = options.handler;
  }

  /** To be fenced next; or why there is none. */
  // @cold
  static open(
    options: LocalReplicaOptions,
    modules: LocalReplicaModules,
  ): LocalReplica | ReplicaFailure {
    const replica = new LocalReplica(options, modules);
    const found = modules.open(replica);
    if ("code" in found) return found;
    replica.store = found;
    return replica;
  }

  private get inner(): Replica {
    return this.store as Replica;
  }

  /** See ReadGrants. */
  get grantedUntilUs(): number {
    return this.isHeld ? Number.MAX_SAFE_INTEGER : 0;
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
    this.inner.write(tag, op, firstBlock, blockCount, address, sequence);
  }

  submitRead(slot: number): void {
    this.inner.submitRead(slot);
  }

  setCommitted(sequence: number): void {
    this.inner.setCommitted(sequence);
  }

  replicaCompleted(tag: number, result: number): void {
    this.handler.replicaCompleted(tag, result);
  }

  // --- cold --------------------------------------------------------------------------------------

  // @cold
  replicaFenced(epoch: number): void {
    this.isHeld = false;
    this.handler.replicaFenced?.(epoch);
  }

  // @cold
  replicaLost(): void {
    this.handler.replicaLost?.();
  }

  // @cold
  fence(
    epoch: number,
    done: (answer: FenceAnswer | ReplicaFailure) => void,
    metadata?: MetadataVersion,
  ): void {
    const { volumeUuid, diskUuid } = this.options;
    const { server, clock } = this.modules;
    const waitUntilUs = server.fenceLocally(volumeUuid, diskUuid, epoch);
    this.epoch = epoch;
    const answered = (answer: FenceAnswer | ReplicaFailure): void => {
      if ("code" in answer) {
        done(answer);
        return;
      }
      if (this.epoch === epoch) this.isHeld = true;
      const grantWaitUs = Math.max(answer.grantWaitUs ?? 0, waitUntilUs - clock.nowUs());
      done({ ...answer, grantWaitUs });
    };
    this.inner.fence(epoch, answered, metadata);
  }

  // @cold
  listSlabs(
    since: { readonly epoch: number; readonly sequence: number },
    cursor: number,
    done: (page: SlabPage | ReplicaFailure) => void,
  ): void {
    this.inner.listSlabs(since, cursor, done);
  }

  // @cold
  readSlab(
    at: { readonly extentIndex: number; readonly slab: number },
    address: Address,
    done: (image: SlabImage | ReplicaFailure) => void,
  ): void {
    this.inner.readSlab(at, address, done);
  }

  // @cold
  writeSlab(
    at: { readonly extentIndex: number; readonly slab: number },
    image: SlabImage,
    address: Address,
    done: (failure: ReplicaFailure | null) => void,
  ): void {
    this.inner.writeSlab(at, image, address, done);
  }

  // @cold
  close(): void {
    this.isHeld = false;
    this.inner.close();
  }
}
