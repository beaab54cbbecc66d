// The two ends of a link over real sockets, each in a reactor of its own: a member that serves
// replicas in memory, and an owner that writes to one with so many writes under way.

import { Prng, SegmentCopier } from "../../base/index.ts";
import { PeerGrants, PeerLink, type RemoteReplica, ReplicaServer } from "../../peer/index.ts";
import type { Arena, Log, ReplicaHandler } from "../../ports/index.ts";
import { Reactor } from "../../reactor/index.ts";
import * as sys from "../../sys/index.ts";
import { UringDialer, UringListener } from "../../uring/index.ts";
import { MemoryMember } from "./memory-member.ts";

const CLUSTER = "11111111-0000-4000-8000-000000000001";
const OWNER = "aaaaaaaa-0000-4000-8000-000000000001";
const MEMBER = "bbbbbbbb-0000-4000-8000-000000000002";
const VOLUME = "99999999-0000-4000-8000-000000000009";
const DISK = "dddddddd-0000-4000-8000-00000000000d";
const KEY = new Uint8Array(32).fill(3);
const QUIET: Log = { log(): void {} };

export function newReactor(pollMaxUs: number): Reactor {
  const memory = new sys.SystemMemory();
  return new Reactor(
    { requestSlots: 256, ringEntries: 256, watchesMax: 16, timersMax: 64, pollMaxUs },
    { memory, clock: new sys.SystemClock(), log: QUIET },
  );
}

export class LoopbackMember {
  readonly reactor: Reactor;
  readonly member: MemoryMember;
  readonly server: ReplicaServer;
  readonly listener: UringListener;
  readonly port: number;

  constructor(reactor: Reactor) {
    this.reactor = reactor;
    this.member = new MemoryMember(reactor, 4096);
    const identity = { clusterId: CLUSTER, nodeId: MEMBER, incarnation: 1, reactor: 0 };
    this.server = new ReplicaServer(
      { identity, isKnownNode: (nodeId) => nodeId === OWNER },
      {
        reactor,
        provider: this.member,
        secret: new sys.HmacSecret(KEY),
        grants: new PeerGrants(reactor.clock),
        log: QUIET,
      },
    );
    const fd = sys.check(sys.listenTcp({ host: "127.0.0.1", port: 0 }, 16), "listen");
    this.port = sys.boundPort(fd);
    this.listener = new UringListener(reactor.ring, reactor.memory, fd, this.server);
  }
}

export class LoopbackOwner implements ReplicaHandler {
  readonly reactor: Reactor;
  readonly link: PeerLink;
  readonly replica: RemoteReplica;
  readonly data: Arena;
  completedCount = 0;
  failedCount = 0;
  inflightCount = 0;
  resumeCount = 0;
  /** Writes are begun while this holds. */
  isRunning = false;
  private depth = 0;
  private readonly blocks: number;
  private readonly prng: Prng = new Prng(7);
  private sequence = 0;

  constructor(reactor: Reactor, port: number, depthMax: number, blocks: number) {
    this.reactor = reactor;
    this.blocks = blocks;
    this.data = reactor.memory.allocate(depthMax * blocks * 4096);
    for (let word = 0; word < this.data.u32.length; word += 97) {
      this.data.u32[word] = this.prng.u32();
    }
    const identity = { clusterId: CLUSTER, nodeId: OWNER, incarnation: 1, reactor: 0 };
    this.link = new PeerLink(
      { identity, targetNodeId: MEMBER },
      {
        reactor,
        dialer: new UringDialer(reactor.ring, reactor.memory, { host: "127.0.0.1", port }),
        secret: new sys.HmacSecret(KEY),
        random: this.prng,
        copier: new SegmentCopier(reactor.requests, reactor.memory),
        log: QUIET,
      },
    );
    this.replica = this.link.openReplica({
      name: "member/disk",
      volumeUuid: VOLUME,
      diskUuid: DISK,
      handler: this,
      events: {
        replicaResumed: () => {
          this.resumeCount += 1;
        },
        replicaLost: () => {},
      },
    });
  }

  start(depth: number): void {
    this.depth = depth;
    this.isRunning = true;
    while (this.inflightCount < depth) this.writeOne(this.inflightCount);
  }

  private writeOne(tag: number): void {
    this.inflightCount += 1;
    this.sequence += 1;
    const block = this.prng.below(4096 - this.blocks);
    const address = this.data.address + tag * this.blocks * 4096;
    this.replica.write(tag, 0, block, this.blocks, address, this.sequence);
  }

  replicaCompleted(tag: number, result: number): void {
    this.inflightCount -= 1;
    if (result === 0) this.completedCount += 1;
    else this.failedCount += 1;
    if (this.isRunning && result === 0 && this.inflightCount < this.depth) this.writeOne(tag);
  }
}
