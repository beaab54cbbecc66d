// A member whose disk is memory: replicas that complete at the next flush of their reactor. What is
// left when it is measured is the wire. Blocks wrap at the size of the memory.

import type {
  Arena,
  FenceAnswer,
  Poller,
  ReactorPort,
  Replica,
  ReplicaFailure,
  ReplicaHandler,
  ReplicaProvider,
  SlabImage,
  SlabPage,
} from "../../ports/index.ts";

const BLOCK_BYTES = 4096;
const TAGS = 1024;
const REFUSED: ReplicaFailure = { code: "disk", message: "memory has no slabs" };

export class MemoryMember implements ReplicaProvider {
  readonly blocks: Arena;
  readonly blockCount: number;
  private readonly reactor: ReactorPort;

  constructor(reactor: ReactorPort, blockCount: number) {
    this.reactor = reactor;
    this.blockCount = blockCount;
    this.blocks = reactor.memory.allocate(blockCount * BLOCK_BYTES);
  }

  openReplica(_volume: string, _disk: string, handler: ReplicaHandler): Replica {
    return new MemoryReplica(this, this.reactor, handler);
  }
}

class MemoryReplica implements Replica, Poller {
  readonly name = "memory";
  readonly isLocal = true;
  private readonly member: MemoryMember;
  private readonly reactor: ReactorPort;
  private readonly handler: ReplicaHandler;
  private readonly tags: Int32Array = new Int32Array(TAGS);
  private tagCount = 0;

  constructor(member: MemoryMember, reactor: ReactorPort, handler: ReplicaHandler) {
    this.member = member;
    this.reactor = reactor;
    this.handler = handler;
    reactor.addPoller(this);
  }

  poll(): number {
    return 0;
  }

  arm(): boolean {
    return false;
  }

  disarm(): void {}

  flush(): void {
    const count = this.tagCount;
    this.tagCount = 0;
    for (let index = 0; index < count; index++) {
      this.handler.replicaCompleted(this.tags[index] as number, 0);
    }
  }

  write(tag: number, op: number, firstBlock: number, blockCount: number, address: number): void {
    const at = (firstBlock % this.member.blockCount) * BLOCK_BYTES;
    const bytes = Math.min(blockCount * BLOCK_BYTES, this.member.blocks.bytes - at);
    if (op === 0) this.reactor.memory.copy(this.member.blocks.address + at, address, bytes);
    else this.reactor.memory.fill(this.member.blocks.address + at, 0, bytes);
    this.tags[this.tagCount] = tag;
    this.tagCount += 1;
    this.reactor.requestFlush(this);
  }

  submitRead(slot: number): void {
    const { requests, memory } = this.reactor;
    const at = (requests.offsetBytes[slot] as number) % this.member.blocks.bytes;
    const bytes = Math.min(requests.lengthBytes[slot] as number, this.member.blocks.bytes - at);
    memory.copy(requests.segmentAddress(slot, 0), this.member.blocks.address + at, bytes);
    requests.complete(slot, 0);
  }

  setCommitted(): void {}

  fence(_epoch: number, done: (answer: FenceAnswer | ReplicaFailure) => void): void {
    const none = { epoch: 0, sequence: 0, committedEpoch: 0, committedSequence: 0 };
    done({ ...none, above: [], uncertain: [] });
  }

  listSlabs(
    _since: unknown,
    _cursor: number,
    done: (page: SlabPage | ReplicaFailure) => void,
  ): void {
    done(REFUSED);
  }

  readSlab(_at: unknown, _to: number, done: (image: SlabImage | ReplicaFailure) => void): void {
    done(REFUSED);
  }

  writeSlab(
    _at: unknown,
    _image: SlabImage,
    _from: number,
    done: (failure: ReplicaFailure | null) => void,
  ): void {
    done(REFUSED);
  }

  close(): void {
    this.reactor.removePoller(this);
  }
}
