// Disks with replicas of one volume that nobody has open: each slab must be the same on all of
// them, data and states. Reads them through real stores, in this thread.

import { assert } from "../../base/index.ts";
import { Store } from "../../chunk/index.ts";
import type { FenceAnswer, Replica, ReplicaFailure, SlabImage } from "../../ports/index.ts";
import { Reactor } from "../../reactor/index.ts";
import * as sys from "../../sys/index.ts";
import { BackingOpening, closeBacking, createDisk, type OpenedBacking } from "../../uring/index.ts";

const BLOCK_BYTES = 4096;
const SLAB_BYTES = 65536;
const SLABS_PER_EXTENT = 4096;
/** No owner of a test comes so far. */
const EPOCH = 1_000_000;

class OpenedDisk {
  readonly replica: Replica;
  private readonly reactor: Reactor;
  private readonly store: Store;
  private readonly backing: OpenedBacking;

  constructor(reactor: Reactor, path: string, volumeUuid: string) {
    this.reactor = reactor;
    const sizes = { sizeBytes: BLOCK_BYTES, blockBytes: BLOCK_BYTES } as const;
    const opening = new BackingOpening({
      path,
      direct: "auto",
      ...sizes,
      create: false,
      readOnly: false,
    });
    assert(opening.attempt(), `${path} is in use`);
    this.backing = opening.finish();
    const geometry = { ...this.backing, capacityBytes: this.backing.sizeBytes };
    const disk = createDisk(geometry, {
      ring: reactor.ring,
      scheduler: reactor,
      requestSlots: 4096,
    });
    this.store = new Store({}, { disk, reactor });
    disk.setHandler(this.store);
    const error = this.await<unknown>((done) => this.store.open(done));
    if (error !== null) throw error;
    const handler = { replicaCompleted: (): undefined => undefined };
    this.replica = this.store.openReplica(volumeUuid, { name: path, handler });
    const answer = this.await<FenceAnswer | ReplicaFailure>((done) =>
      this.replica.fence(EPOCH, done),
    );
    assert(!("code" in answer), "a fence of a replica that nobody has is refused");
  }

  await<T>(start: (done: (value: T) => void) => void): T {
    let value: { readonly is: T } | null = null;
    start((is) => {
      value = { is };
    });
    while (value === null) this.reactor.turn();
    return (value as { readonly is: T }).is;
  }

  close(): void {
    this.replica.close();
    this.await<null>((done) => this.store.close(() => done(null)));
    closeBacking(this.backing);
  }
}

/** Throws where they differ. */
export function compareReplicas(
  paths: readonly string[],
  volumeUuid: string,
  sizeBytes: number,
): { readonly slabs: number; readonly withData: number } {
  const memory = new sys.SystemMemory();
  const log = { log: (): undefined => undefined };
  const options = { requestSlots: 64, ringEntries: 256, watchesMax: 16, timersMax: 64 };
  const modules = { memory, clock: new sys.SystemClock(), log };
  const reactor = new Reactor({ ...options, pollMaxUs: 0 }, modules);
  const disks = paths.map((path) => new OpenedDisk(reactor, path, volumeUuid));
  const [first, second] = [memory.allocate(SLAB_BYTES), memory.allocate(SLAB_BYTES)] as const;
  let withData = 0;
  const slabs = Math.ceil(sizeBytes / SLAB_BYTES);
  for (let number = 0; number < slabs; number++) {
    const at = {
      extentIndex: Math.floor(number / SLABS_PER_EXTENT),
      slab: number % SLABS_PER_EXTENT,
    };
    let expected: string | null = null;
    let isData = false;
    for (const disk of disks) {
      const { address, u8 } = expected === null ? first : second;
      const image = disk.await<SlabImage | ReplicaFailure>((done) =>
        disk.replica.readSlab(at, address, done),
      );
      const found = JSON.stringify(image);
      expected ??= found;
      isData = !("code" in image) && image.states !== 0;
      const isEqual = found === expected && Buffer.compare(first.u8, u8) === 0;
      if ("code" in image || !isEqual) {
        throw new Error(`slab ${number} differs on ${disk.replica.name}: ${found}, ${expected}`);
      }
    }
    if (isData) withData += 1;
  }
  for (const disk of disks) disk.close();
  reactor.close();
  return { slabs, withData };
}
