// The modules of an open store put together, in the order in which they need each other.

import { SegmentCopier } from "../base/index.ts";
import type { Arena, Disk, ReactorPort } from "../ports/index.ts";
import { BlockLocks } from "./block-locks.ts";
import { BufferPool } from "./buffer-pool.ts";
import { Checkpoint } from "./checkpoint.ts";
import { Damage } from "./damage.ts";
import type { Geometry } from "./geometry.ts";
import { DURABILITY_POWER_LOSS_PROTECTED, DURABILITY_WRITE_THROUGH } from "./layouts.ts";
import { MetadataLog } from "./metadata-log.ts";
import { OpTable } from "./op-table.ts";
import { PageCache, type PageClient } from "./page-cache.ts";
import { PageTree } from "./page-tree.ts";
import type { StoreParts } from "./parts.ts";
import { NO_BUGS, type PlantedBugs } from "./planted.ts";
import { type ReadClient, ReadPath } from "./read-path.ts";
import { Recovery } from "./recovery.ts";
import { ReplicaSet, type ReplicaSetClient } from "./replica-set.ts";
import { type FlowClient, RequestFlow } from "./request-flow.ts";
import { RingIndex } from "./ring-index.ts";
import { type RingClient, RingJournal } from "./ring-journal.ts";
import { Scrub, type ScrubClient, type ScrubOptions } from "./scrub.ts";
import { SegmentView } from "./segments.ts";
import { SlabMap } from "./slab-map.ts";
import { StampHistory } from "./stamp-history.ts";
import type { Superblock } from "./superblock.ts";
import { ExtentTable, VolumeTable } from "./tables.ts";
import type { TaskRunner } from "./task.ts";
import { Upkeep, type UpkeepClient, type UpkeepParts } from "./upkeep.ts";
import { VolumeSet, type VolumeSetClient } from "./volume-set.ts";
import { WriteBack } from "./write-back.ts";
import { type WriteClient, WritePath } from "./write-path.ts";

export interface StoreOptions {
  /** Pages of metadata in memory, 4 KiB each and each for 2 MiB of data. */
  readonly pageCacheCount?: number;
  /** Parts of requests on their way at once. */
  readonly operationCount?: number;
  /** Buffers of 64 KiB for fresh data and for reads that need private memory. */
  readonly bufferCount?: number;
  /** Runs of at least so many fresh blocks are written in place; shorter ones are journaled. */
  readonly freshBlocksMin?: number;
  /** Share of the ring at which write-back begins. */
  readonly writeBackAt?: number;
  readonly scrub?: ScrubOptions;
  /** Opened with a lower incarnation than this, the disk is an old copy of itself. */
  readonly incarnationMin?: number;
  readonly planted?: PlantedBugs;
}

const PAGE_CACHE_DEFAULT = 16384;
const OPERATIONS_DEFAULT = 2048;
const BUFFERS_DEFAULT = 256;
const WRITE_BACK_AT_DEFAULT = 0.25;

export interface AssemblyParts extends UpkeepParts {
  readonly volumes: VolumeTable;
  readonly extents: ExtentTable;
  readonly history: StampHistory;
}

export interface StoreAssembly {
  readonly parts: AssemblyParts;
  readonly reads: ReadPath;
  readonly writes: WritePath;
  readonly upkeep: Upkeep;
  readonly flow: RequestFlow;
  readonly recovery: Recovery;
  readonly volumeSet: VolumeSet;
  readonly scrub: Scrub;
  readonly replicas: ReplicaSet;
}

/** Gives back the memory of all modules; nothing of the disk's may be on its way. */
export function freeAssembly({ parts }: StoreAssembly): void {
  const { memory, ring, cache, buffers, segments, metadataLog, writeBack, checkpoint } = parts;
  const arenas = [
    ring.arena,
    cache.arena,
    buffers.arena,
    segments.iovecs,
    metadataLog.buffer,
    writeBack.iovecs,
    checkpoint.buffer,
    checkpoint.superblockBuffer,
    parts.copier.zeroes as Arena,
  ];
  for (const arena of arenas) memory.free(arena);
}

/** Store, as the modules see it. */
export interface AssemblyClient
  extends RingClient,
    PageClient,
    ReadClient,
    WriteClient,
    FlowClient,
    UpkeepClient,
    VolumeSetClient,
    ReplicaSetClient,
    ScrubClient {
  diskFailed(what: string, result: number): void;
}

interface Environment {
  readonly disk: Disk;
  readonly reactor: ReactorPort;
  readonly runner: TaskRunner;
}

export function assembleStore(
  superblock: Superblock,
  geometry: Geometry,
  options: StoreOptions,
  environment: Environment,
  client: AssemblyClient,
): StoreAssembly {
  const { reactor, runner } = environment;
  const { memory, requests } = reactor;
  const base = baseParts(superblock, geometry, options, environment, client);
  const { ops } = base;
  const ring = new RingJournal(base);
  const cache = new PageCache(options.pageCacheCount ?? PAGE_CACHE_DEFAULT, base);
  const writeParts = {
    ...base,
    locks: new BlockLocks(ops),
    cache,
    ring,
    index: new RingIndex(geometry.ringBlocks),
    slabs: new SlabMap(geometry.slabCount),
    doubtful: new Set<number>(),
    buffers: new BufferPool(options.bufferCount ?? BUFFERS_DEFAULT, memory),
    segments: new SegmentView(requests, memory, ops.capacity),
  };
  const metadataLog = new MetadataLog(base, ring);
  const volumes = new VolumeTable(geometry);
  const history = new StampHistory(volumes);
  const tables = { volumes, extents: new ExtentTable(geometry), history };
  const logParts = { ...writeParts, metadataLog, ...tables };
  const reads = new ReadPath(writeParts, client);
  const writeBack = new WriteBack(logParts, () => reads.oldestSequence);
  const checkpoint = new Checkpoint(logParts, superblock);
  const recovery = new Recovery(logParts, superblock);
  const { pending } = recovery;
  const writeBackAt = options.writeBackAt ?? WRITE_BACK_AT_DEFAULT;
  const parts = { ...logParts, runner, writeBack, checkpoint, pending, writeBackAt };
  const flow = new RequestFlow(requests, ops, base.copier, client);
  const volumeSet = new VolumeSet(parts, flow, client);
  const replicas = new ReplicaSet(parts, flow, volumeSet, client);
  volumeSet.replicas = replicas;
  ring.setClient(client);
  cache.setClient(client);
  return {
    parts,
    reads,
    recovery,
    flow,
    writes: new WritePath(writeParts, client, options.freshBlocksMin),
    upkeep: new Upkeep(parts, client),
    volumeSet,
    replicas,
    scrub: new Scrub(parts, client, options.scrub ?? null),
  };
}

function baseParts(
  superblock: Superblock,
  geometry: Geometry,
  options: StoreOptions,
  { disk, reactor }: Environment,
  client: AssemblyClient,
): StoreParts & { readonly damage: Damage } {
  const { memory, requests, log } = reactor;
  const planted = options.planted ?? NO_BUGS;
  const isSafe =
    superblock.durability === DURABILITY_POWER_LOSS_PROTECTED ||
    superblock.durability === DURABILITY_WRITE_THROUGH;
  const damage = new Damage(log);
  return {
    geometry,
    disk,
    memory,
    reactor,
    log,
    copier: new SegmentCopier(requests, memory),
    ops: new OpTable(options.operationCount ?? OPERATIONS_DEFAULT),
    tree: new PageTree(geometry),
    uuidWords: new Uint32Array(superblock.uuid.slice().buffer),
    journalId: superblock.journalId,
    planted,
    flushNeeded: !isSafe && !planted.trustCompletion,
    damage,
    pageDamaged: (kind, number, fault) => damage.page(kind, number, fault),
    diskFailed: (what, result) => client.diskFailed(what, result),
  };
}
