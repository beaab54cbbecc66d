// A replicated volume on real stores: the owner of volume/ over replicas of chunk/, each on a lying
// disk, all in one process of the simulator. A campaign loads the volume, lets the process or the
// power die, lets a disk fail for the rest of a life, takes the volume over again, and looks at
// what can be read; at its end the disks are compared, slab by slab.

import { assert, Prng, SegmentCopier } from "../../base/index.ts";
import type { Replica } from "../../ports/index.ts";
import {
  NO_OWNER_BUGS,
  OWNER_TIMINGS,
  OwnedVolume,
  type OwnerBugs,
  OwnerWorkspace,
} from "../../volume/index.ts";
import { CheckedClient, ModelVolume, SimClient, SimMedia, SimMemory } from "../sim/index.ts";
import { step } from "../store/program.ts";
import { formatMedia, SimStore } from "../store/sim-store.ts";
import { SimRecordStore } from "./sim-records.ts";

const UUID = "66666666-2222-3333-4444-555555555555";
const SLAB_BYTES = 65536;
const SIZE_BYTES = 2 * 1048576;
const DISK_BYTES = 8 * 1048576;
const MEMORY_BYTES = 48 * 1048576;
const DEPTH_MAX = 16;
const SECOND_US = 1e6;

export interface CampaignCounts {
  deaths: number;
  powerCuts: number;
  stops: number;
  diskFailures: number;
  equalisedSlabs: number;
  returns: number;
  slabsCompared: number;
}

interface Life {
  readonly stores: readonly SimStore[];
  readonly owner: OwnedVolume;
  readonly client: CheckedClient;
}

export class Campaign {
  readonly counts: CampaignCounts = {
    deaths: 0,
    powerCuts: 0,
    stops: 0,
    diskFailures: 0,
    equalisedSlabs: 0,
    returns: 0,
    slabsCompared: 0,
  };
  private readonly seed: number;
  private readonly planted: OwnerBugs;
  private readonly prng: Prng;
  private readonly model: ModelVolume = new ModelVolume();
  private readonly media: readonly SimMedia[];
  private record: SimRecordStore["entry"];
  private lifeCount = 0;

  constructor(seed: number, diskCount: number, planted: Partial<OwnerBugs> = {}) {
    this.seed = seed;
    this.planted = { ...NO_OWNER_BUGS, ...planted };
    this.prng = new Prng(seed);
    this.media = Array.from({ length: diskCount }, () => {
      const media = new SimMedia({ capacityBytes: DISK_BYTES, volatileCache: true });
      formatMedia(media);
      return media;
    });
    const none = { epoch: 0, owner: null, state: "clean", out: [] } as const;
    const versions = { membershipVersion: 1, clusterGeneration: 1 };
    const members = this.media.map((_, index) => `disk${index}`);
    this.record = { revision: 1, record: { ...none, ...versions, members } };
  }

  run(lives: number): CampaignCounts {
    for (let index = 0; index < lives; index++) {
      const life = this.begin();
      this.load(life);
      this.end(life);
    }
    const last = this.begin();
    this.awaitAll(last);
    this.compare(last);
    return this.counts;
  }

  private begin(): Life {
    this.lifeCount += 1;
    const stores: SimStore[] = [];
    const memory = new SimMemory(MEMORY_BYTES);
    for (const media of this.media) {
      const seed = this.seed * 131 + this.lifeCount;
      const [beside] = stores;
      const store = new SimStore({ media, seed, memory, ...(beside ? { beside } : {}) });
      const error = store.open();
      if (error !== null) throw error;
      if (this.lifeCount === 1) store.createVolume(SIZE_BYTES, UUID, true);
      stores.push(store);
    }
    const { reactor, scheduler } = stores[0];
    const owner = this.ownerOn(stores);
    let outcome: string | null = null;
    owner.takeOver((given) => {
      outcome = given;
    });
    scheduler.runUntil(() => outcome !== null, "the takeover");
    assert(outcome === "serving", "a takeover without a rival fails");
    this.counts.equalisedSlabs += owner.equalisedCount;
    const device = new SimClient({ reactor, memory, device: owner, cutter: scheduler.fork() });
    const client = new CheckedClient({ client: device, model: this.model });
    client.read(0, SIZE_BYTES);
    scheduler.runUntil(() => client.inflightCount === 0, "the first read");
    return { stores, owner, client };
  }

  private ownerOn(stores: readonly SimStore[]): OwnedVolume {
    const { reactor, scheduler, memory } = stores[0];
    const { requests } = reactor;
    const records = new SimRecordStore(scheduler, this.record.record);
    records.entry = this.record;
    records.onChange = () => {
      this.record = records.entry;
    };
    const host = {
      name: `life ${this.lifeCount}`,
      memory,
      requests,
      run: (action: () => void) => action(),
      later: (us: number, action: () => void) =>
        void scheduler.after(us, action, { label: "later" }),
    };
    const copier = new SegmentCopier(requests, memory);
    return new OwnedVolume(
      {
        owner: host.name,
        volume: "sim",
        capacityBytes: SIZE_BYTES,
        timings: { ...OWNER_TIMINGS, lagPenaltyMs: 500, returnMs: 200 },
        planted: this.planted,
      },
      stores.map((_, index) => `disk${index}`),
      {
        reactor,
        workspace: new OwnerWorkspace({ pieceCount: 16 }, { requests, memory, copier }),
        records: records.clientOf(host),
        // All members are in this process, which has the locks on their disks.
        grants: { grantedUntilUs: () => Number.MAX_SAFE_INTEGER },
        openReplica: (disk, session) => {
          const store = stores[Number(disk.slice("disk".length))];
          return store.store.openReplica(UUID, { name: disk, handler: session });
        },
      },
    );
  }

  private load({ stores, owner, client }: Life): void {
    const { prng } = this;
    const { scheduler } = stores[0];
    const failsAt = prng.chance(0.3) ? prng.below(150) : -1;
    for (let request = 0; request < 200; request++) {
      // The last disk that holds everything is never given up: its volume would wait for good.
      if (request === failsAt && owner.inSync.length === stores.length) {
        this.counts.diskFailures += 1;
        stores[prng.below(stores.length)].disk.faults.add({ kind: "eio", on: "write" });
      }
      step(client, prng, SIZE_BYTES);
      if (prng.chance(0.02)) scheduler.runFor(prng.between(60_000, 400_000));
      const depth = prng.below(DEPTH_MAX);
      scheduler.runUntil(() => client.inflightCount <= depth, "requests");
    }
  }

  private end({ stores, owner, client }: Life): void {
    const { prng, counts } = this;
    const { scheduler, reactor } = stores[0];
    const kind = prng.below(3);
    if (kind === 0) {
      counts.stops += 1;
      scheduler.runUntil(() => client.inflightCount === 0, "the last requests");
      let isDrained = false;
      owner.drain(() => {
        isDrained = true;
      });
      scheduler.runUntil(() => isDrained, "the owner to let go");
    } else if (kind === 1) counts.powerCuts += 1;
    else counts.deaths += 1;
    const isPower = kind === 1;
    for (const { disk, media } of stores) {
      disk.crash({ kind: isPower ? "power" : "process", lateChance: 0.5 });
      if (isPower) media.dropLateWrites();
      else media.landLateWrites();
    }
    reactor.stop();
    this.model.crashed();
  }

  /** Until every disk holds everything again. */
  private awaitAll({ stores, owner }: Life): void {
    const { scheduler } = stores[0];
    this.counts.returns += stores.length - owner.inSync.length;
    for (let waited = 0; owner.inSync.length < stores.length; waited++) {
      assert(waited < 120, "a disk does not come back");
      scheduler.runFor(SECOND_US);
    }
  }

  /** Every slab is the same on every disk: data, states and stamp. */
  private compare({ stores, owner, client }: Life): void {
    const { scheduler } = stores[0];
    client.read(0, SIZE_BYTES);
    scheduler.runUntil(() => client.inflightCount === 0, "the last read");
    let isDrained = false;
    owner.drain(() => {
      isDrained = true;
    });
    scheduler.runUntil(() => isDrained, "the owner to let go");
    const replicas = stores.map((store) => this.looker(store, owner.epoch + 1));
    for (let slab = 0; slab < SIZE_BYTES / SLAB_BYTES; slab++) {
      const images = replicas.map((replica, index) => readImage(stores[index], replica, slab));
      for (const image of images) {
        assert(image === images[0], `slab ${slab} differs between the disks`);
      }
      this.counts.slabsCompared += 1;
    }
  }

  private looker(store: SimStore, epoch: number): Replica {
    const handler = { replicaCompleted: (): undefined => undefined };
    const replica = store.store.openReplica(UUID, { name: "looker", handler });
    let answer: object | null = null;
    replica.fence(epoch, (given) => {
      answer = given;
    });
    store.scheduler.runUntil(() => answer !== null, "a fence");
    assert(!("code" in (answer as unknown as object)), "a fence of a free volume is refused");
    return replica;
  }
}

/** Data, states and stamp of a slab, as text. */
function readImage(store: SimStore, replica: Replica, slab: number): string {
  const { memory, scheduler } = store;
  const arena = memory.allocate(SLAB_BYTES);
  let text: string | null = null;
  replica.readSlab({ extentIndex: 0, slab }, arena.address, (image) => {
    text = JSON.stringify(image);
  });
  scheduler.runUntil(() => text !== null, "a slab");
  const data = Buffer.from(arena.u8).toString("base64");
  memory.free(arena);
  return `${text} ${data}`;
}
