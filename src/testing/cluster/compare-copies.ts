// The copies of a volume at the end: the owner lets go, then every slab is read from every store that
// has the volume, and data, states and stamp must be the same.

import type { SlabImage } from "../../ports/index.ts";
import type { SimScheduler } from "../sim/index.ts";
import type { ClusterNode, NodeProcess } from "./cluster-node.ts";
import type { ClusterOwner } from "./cluster-owner.ts";

const SLAB_BYTES = 65536;

/** What differs, in words; null = nothing. */
export function compareCopies(
  world: SimScheduler,
  holders: readonly ClusterNode[],
  uuid: string,
  owner: ClusterOwner,
  slabCount: number,
): string | null {
  let isDrained = false;
  owner.drain(() => {
    isDrained = true;
  });
  world.runUntil(() => isDrained, "the owner to let go");
  const epoch = owner.owned.epoch + 1;
  const copies = holders.map(({ process }) =>
    readCopy(world, process as NodeProcess, uuid, epoch, slabCount),
  );
  for (let slab = 0; slab < slabCount; slab++) {
    for (const [index, copy] of copies.entries()) {
      if (copy[slab] === copies[0][slab]) continue;
      const [first, second] = [holders[0].index, holders[index].index];
      return `slab ${slab} of ${uuid} differs between the nodes ${first} and ${second}`;
    }
  }
  return null;
}

/** Every slab as text. */
function readCopy(
  world: SimScheduler,
  process: NodeProcess,
  uuid: string,
  epoch: number,
  slabCount: number,
): string[] {
  const { memory, store } = process;
  const handler = { replicaCompleted: (): undefined => undefined };
  const replica = store.openReplica(uuid, { name: "looker", handler });
  let isFenced = false;
  replica.fence(epoch, (answer) => {
    if ("code" in answer) throw new Error(`a fence of a free volume is refused: ${answer.message}`);
    isFenced = true;
  });
  world.runUntil(() => isFenced, "a fence");
  const arena = memory.allocate(SLAB_BYTES);
  const slabs: string[] = [];
  for (let slab = 0; slab < slabCount; slab++) {
    let image: SlabImage | null = null;
    replica.readSlab({ extentIndex: 0, slab }, arena.address, (read) => {
      if ("code" in read) throw new Error(`slab ${slab} of ${process.name}: ${read.message}`);
      image = read;
    });
    world.runUntil(() => image !== null, "a slab");
    slabs.push(`${JSON.stringify(image)} ${Buffer.from(arena.u8).toString("base64")}`);
  }
  memory.free(arena);
  return slabs;
}
