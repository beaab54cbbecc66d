// One incarnation of a daemon that owns the volume: reactor, memory, owner, and a client that is told
// to the model. Its clock drifts; it may be paused, with everything that comes for it waiting, or die.

import { SegmentCopier } from "../../base/index.ts";
import type { Clock, TimerHandler } from "../../ports/index.ts";
import {
  NO_OWNER_BUGS,
  OWNER_TIMINGS,
  OwnedVolume,
  type OwnerBugs,
  OwnerWorkspace,
} from "../../volume/index.ts";
import {
  CheckedClient,
  type ModelVolume,
  SimClient,
  SimMemory,
  SimReactor,
  type SimReactorOptions,
  type SimScheduler,
} from "../sim/index.ts";
import type { SimLink } from "./sim-link.ts";
import { GRANT_US, type SimNode } from "./sim-node.ts";
import type { SimRecordStore } from "./sim-records.ts";
import { type SimHost, SimReplica } from "./sim-replica.ts";

const MEMORY_BYTES = 6 * 1048576;
const HEARTBEAT_US = 200_000;
/** What is taken off a grant for clocks that drift apart. */
const MARGIN = 0.1;

class DriftingReactor extends SimReactor {
  override readonly clock: Clock;
  private readonly host: SimProcess;

  constructor(options: SimReactorOptions, host: SimProcess, rate: number) {
    super(options);
    const { clock } = options.scheduler;
    this.host = host;
    this.clock = { nowUs: () => clock.nowUs() * rate };
  }

  override scheduleTurn(): void {
    if (!this.host.isPaused) super.scheduleTurn();
  }

  override setTimer(delayMs: number, handler: TimerHandler, tag: number): number {
    const timerFired = (): void => this.host.run(() => handler.timerFired(tag));
    return super.setTimer(delayMs, { timerFired }, tag);
  }
}

export interface SimProcessOptions {
  readonly name: string;
  /** The node on the same host. */
  readonly home: number;
  readonly scheduler: SimScheduler;
  readonly nodes: readonly SimNode[];
  readonly links: readonly SimLink[];
  readonly store: SimRecordStore;
  readonly model: ModelVolume;
  readonly capacityBytes: number;
  readonly planted?: OwnerBugs;
}

export class SimProcess implements SimHost {
  readonly name: string;
  readonly home: number;
  readonly memory: SimMemory = new SimMemory(MEMORY_BYTES);
  readonly reactor: SimReactor;
  readonly volume: OwnedVolume;
  readonly client: CheckedClient;
  readonly links: readonly SimLink[];
  isPaused = false;
  isGone = false;
  private readonly options: SimProcessOptions;
  private readonly waiting: (() => void)[] = [];
  private readonly grantedUs: Map<string, number> = new Map();

  constructor(options: SimProcessOptions) {
    this.options = options;
    const { scheduler, nodes, links, store, model, capacityBytes } = options;
    const { memory } = this;
    this.name = options.name;
    this.home = options.home;
    this.links = links;
    const rate = 0.99 + scheduler.prng.unit() * 0.02;
    this.reactor = new DriftingReactor({ scheduler, memory }, this, rate);
    const { requests } = this.reactor;
    const copier = new SegmentCopier(requests, memory);
    const workspace = new OwnerWorkspace({ pieceCount: 16 }, { requests, memory, copier });
    this.volume = new OwnedVolume(
      {
        owner: options.name,
        volume: "sim",
        capacityBytes,
        timings: { ...OWNER_TIMINGS, lagPenaltyMs: 1000, returnMs: 300 },
        planted: options.planted ?? NO_OWNER_BUGS,
      },
      nodes.map(({ disk }) => disk),
      {
        reactor: this.reactor,
        workspace,
        records: store.clientOf(this),
        grants: { grantedUntilUs: (disk) => this.grantedUs.get(disk) ?? 0 },
        openReplica: (disk, session) => {
          const index = nodes.findIndex((node) => node.disk === disk);
          return new SimReplica(this, nodes[index], links[index], session);
        },
      },
    );
    const client = new SimClient({ reactor: this.reactor, memory, device: this.volume });
    this.client = new CheckedClient({ client, model });
    for (let index = 0; index < nodes.length; index++) this.heartbeat(index);
  }

  get requests(): SimReactor["requests"] {
    return this.reactor.requests;
  }

  /** Blocks of changes that have not been answered. */
  unansweredBlocks(): Set<number> {
    // Only a test looks inside: what is under way is nobody else's business.
    const io = this.volume["io"];
    const { shared } = io;
    const blocks = new Set<number>();
    for (let at = io.firstPiece; at !== -1; at = shared.pieceNext[at]) {
      if (shared.pieceAnswered[at] === 1) continue;
      for (let index = 0; index < shared.pieceBlocks[at]; index++) {
        blocks.add(shared.pieceFirst[at] + index);
      }
    }
    return blocks;
  }

  // Its life --------------------------------------------------------------------------------------

  run(action: () => void): void {
    if (this.isGone) return;
    if (this.isPaused) this.waiting.push(action);
    else action();
  }

  later(delayUs: number, action: () => void): void {
    this.options.scheduler.after(delayUs, () => this.run(action), { label: `${this.name} later` });
  }

  pause(us: number): void {
    if (this.isPaused || this.isGone) return;
    this.isPaused = true;
    this.options.scheduler.after(us, () => this.resume(), { label: `${this.name} resumes` });
  }

  resume(): void {
    if (!this.isPaused) return;
    this.isPaused = false;
    for (const action of this.waiting.splice(0)) this.run(action);
  }

  /** Killed: what it has sent may still arrive. */
  crash(): void {
    this.isGone = true;
    this.reactor.stop();
    for (const link of this.links) link.breakAll();
  }

  // Grants ----------------------------------------------------------------------------------------

  private heartbeat(index: number): void {
    if (this.isGone) return;
    const { scheduler } = this.options;
    this.run(() => this.askGrant(index));
    scheduler.after(HEARTBEAT_US, () => this.heartbeat(index), {
      label: `${this.name} heartbeat`,
      isBackground: true,
    });
  }

  private askGrant(index: number): void {
    const node = this.options.nodes[index];
    const link = this.links[index];
    const { scheduler } = this.options;
    const sentUs = this.reactor.clock.nowUs();
    const { epoch } = this.volume;
    if (epoch === 0 || !link.isForwardUp) return;
    const answer = (): void => {
      if (!node.grant(this.name, epoch) || !link.isBackwardUp) return;
      scheduler.after(
        link.delayUs(),
        () => {
          this.run(() => this.grantedUs.set(node.disk, sentUs + GRANT_US * (1 - MARGIN)));
        },
        { isBackground: true, label: "grant" },
      );
    };
    scheduler.after(link.delayUs(), answer, { isBackground: true, label: "heartbeat" });
  }
}
