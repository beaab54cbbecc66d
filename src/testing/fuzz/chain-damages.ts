// Chains of the hostile queue, and what can be wrong with them.
//
// Two things no damage may do, or what the target does rightly would look wrong: a header that
// writes never names the honest part of the disk, and no address lies in the honest guest's memory
// or in the poisoned region.

import type { Prng } from "../../base/index.ts";
import * as v from "../../virtio/index.ts";
import type { HostileRegion } from "../hostile/guest.ts";
import {
  type Buf,
  type GuestAddress,
  HostilePacked,
  type HostileRing,
  HostileSplit,
  putDescriptor,
  putTable,
} from "../hostile/rings.ts";
import type { Queue, Victim } from "../hostile/victim.ts";
import { HONEST_BYTES } from "./honest-guest.ts";
import { ATTACKED_BYTES } from "./stage.ts";

const SECTOR_BYTES = 512;
const FIRST_SECTOR = HONEST_BYTES / SECTOR_BYTES;
const SECTORS = ATTACKED_BYTES / SECTOR_BYTES;

export interface ChainDraft {
  chain: Buf[];
  readonly headerGpa: number;
}

export interface Workshop {
  readonly prng: Prng;
  readonly victim: Victim;
  readonly queue: Queue;
  readonly hostile: HostileRegion;
}

const TYPES = [
  v.BLK_T_IN,
  v.BLK_T_IN,
  v.BLK_T_OUT,
  v.BLK_T_FLUSH,
  v.BLK_T_GET_ID,
  v.BLK_T_DISCARD,
  v.BLK_T_WRITE_ZEROES,
  3,
  99,
];

/** A request as it should be, on the hostile part of the disk. */
export function makeChain(prng: Prng, victim: Victim, region: HostileRegion): ChainDraft {
  const { memory } = victim;
  const type = prng.pick(TYPES);
  const sectors = prng.between(1, 16);
  const sector = prng.between(FIRST_SECTOR, SECTORS - sectors);
  const headerGpa = memory.allocate(16, 16, region);
  victim.putHeader(headerGpa, type, sector);
  const statusGpa = memory.allocate(1, 1, region);
  const chain: Buf[] = [{ addr: headerGpa, len: 16 }];
  const isRange = type === v.BLK_T_DISCARD || type === v.BLK_T_WRITE_ZEROES;
  if (isRange) {
    const gpa = memory.allocate(16, 16, region);
    const view = memory.window(gpa, 16);
    view.setUint32(0, sector, true);
    view.setUint32(8, sectors, true);
    chain.push({ addr: gpa, len: 16 });
  } else if (type !== v.BLK_T_FLUSH) {
    const bytes = sectors * SECTOR_BYTES;
    const write = type === v.BLK_T_IN || type === v.BLK_T_GET_ID;
    chain.push({ addr: memory.allocate(bytes, 16, region), len: bytes, write });
  }
  chain.push({ addr: statusGpa, len: 1, write: true });
  return { chain, headerGpa };
}

export function offerDraft(
  { chain }: ChainDraft,
  ring: HostileRing,
  { memory }: Victim,
  prng: Prng,
): void {
  if (prng.chance(0.5) && chain.length <= ring.size) {
    ring.offer(chain);
    return;
  }
  const table = memory.allocate(chain.length * 16, 16, memory.regions[1]);
  putTable(memory, table, chain, ring.packed);
  ring.offerTable(table, chain.length * 16);
}

function edgeAddress({ prng, hostile }: Workshop): GuestAddress {
  const { guestAddress, bytes } = hostile;
  return prng.pick<GuestAddress>([
    0,
    1,
    guestAddress - 1,
    guestAddress - 16,
    guestAddress,
    guestAddress + prng.below(bytes),
    guestAddress + bytes - 1,
    guestAddress + bytes - 8,
    guestAddress + bytes,
    guestAddress + 2 * bytes - 1,
    guestAddress + 2 * bytes - 16,
    guestAddress + 2 * bytes,
    2n ** 52n,
    2n ** 53n - 1n,
    2n ** 53n,
    2n ** 63n,
    2n ** 64n - 1n,
    2n ** 64n - 16n,
  ]);
}

function edgeLength(prng: Prng): number {
  return prng.pick([0, 1, 2, 15, 16, 17, 511, 512, 513, 4096, 65536, 0x7fffffff, 0xffffffff]);
}

/** Replaces one buffer of the chain. */
function change(draft: ChainDraft, prng: Prng, how: (buffer: Buf) => Buf): void {
  const at = prng.below(draft.chain.length);
  draft.chain[at] = how(draft.chain[at] as Buf);
}

type Damage = (draft: ChainDraft, shop: Workshop) => void;

/** Damage to the chain itself; it is then offered in the usual way. */
const CHAIN_DAMAGES: Readonly<Record<string, Damage>> = {
  address: (draft, shop) =>
    change(draft, shop.prng, (buffer) => ({ ...buffer, addr: edgeAddress(shop) })),
  length: (draft, { prng }) =>
    change(draft, prng, (buffer) => ({ ...buffer, len: edgeLength(prng) })),
  "address and length": (draft, shop) =>
    change(draft, shop.prng, (buffer) => ({
      ...buffer,
      addr: edgeAddress(shop),
      len: edgeLength(shop.prng),
    })),
  direction: (draft, { prng }) =>
    change(draft, prng, (buffer) => ({ ...buffer, write: buffer.write !== true })),
  order: (draft, { prng }) => {
    draft.chain.sort(() => prng.unit() - 0.5);
  },
  "left out": (draft, { prng }) => {
    if (draft.chain.length > 1) draft.chain.splice(prng.below(draft.chain.length), 1);
  },
  "put in": (draft, shop) => {
    const { prng } = shop;
    const buffer = { addr: edgeAddress(shop), len: edgeLength(prng), write: prng.chance(0.5) };
    draft.chain.splice(prng.below(draft.chain.length + 1), 0, buffer);
  },
  twice: (draft) => {
    draft.chain.push(...draft.chain);
  },
  "very long": (draft, { prng }) => {
    const [header, ...rest] = draft.chain;
    const filler = new Array<Buf>(prng.pick([20, 300, 1100])).fill({
      addr: draft.headerGpa,
      len: prng.pick([1, 16]),
    });
    draft.chain = [header as Buf, ...filler, ...rest];
  },
  type: (draft, { prng, victim }) => {
    const type = prng.pick([2, 5, 7, 10, 14, 0x80000000, 0xffffffff]);
    victim.memory.window(draft.headerGpa, 16).setUint32(0, type, true);
  },
  sector: (draft, { prng, victim }) => {
    const sector = prng.pick([
      BigInt(SECTORS),
      BigInt(SECTORS - 1),
      2n ** 32n,
      2n ** 44n,
      2n ** 53n + 1n,
      2n ** 55n + BigInt(FIRST_SECTOR),
      2n ** 63n,
      2n ** 64n - 1n,
    ]);
    victim.memory.window(draft.headerGpa, 16).setBigUint64(8, sector, true);
  },
  segment: (draft, { prng, victim }) => {
    const addr = draft.chain[1]?.addr;
    const isOurs = typeof addr === "number" && draft.chain[1]?.write !== true;
    if (!isOurs || draft.chain[1]?.len !== 16) return;
    const segment = victim.memory.window(addr, 16);
    if (prng.chance(0.5)) segment.setUint32(8, prng.pick([0, 0xffffffff, SECTORS]), true);
    else segment.setUint32(12, prng.pick([1, 2, 3, 0x80000000]), true);
  },
};

/** Damage to how a chain is offered. */
const RING_DAMAGES: Readonly<Record<string, Damage>> = {
  "table length": (draft, { prng, queue, victim }) => {
    const bytes = prng.pick([0, 1, 15, 17, 16, 32, 4096, 16384, 16400, 0xfffffff0, 0xffffffff]);
    const table = tableOf(draft, queue, victim);
    queue.ring.offerTable(table, bytes);
  },
  "table address": ({ chain }, shop) => {
    shop.queue.ring.offerTable(edgeAddress(shop), chain.length * 16);
  },
  "table flags": (draft, { prng, queue, victim }) => {
    const table = tableOf(draft, queue, victim);
    const extra = prng.pick([v.DESCRIPTOR_F_NEXT, v.DESCRIPTOR_F_WRITE, 3, 0x40, 0xff78]);
    queue.ring.offerTable(table, draft.chain.length * 16, extra);
  },
  "table in table": (draft, { queue, victim, prng }) => {
    const { memory } = victim;
    const inner = tableOf(draft, queue, victim);
    const outer = memory.allocate(32, 16, memory.regions[1]);
    const flags = v.DESCRIPTOR_F_INDIRECT | (prng.chance(0.3) ? v.DESCRIPTOR_F_NEXT : 0);
    const tail = queue.ring.packed ? { third: 0, fourth: flags } : { third: flags, fourth: 1 };
    putDescriptor(memory, outer, { addr: inner, len: draft.chain.length * 16, ...tail });
    putDescriptor(memory, outer + 16, { addr: inner, len: draft.chain.length * 16, ...tail });
    queue.ring.offerTable(outer, prng.pick([16, 32]));
  },
  "random words": (draft, shop) => {
    const { prng, queue, victim } = shop;
    offerDirect(draft, shop);
    const words = victim.memory.u32(queue.ring.descriptorGpa, queue.ring.size * 4);
    // Lengths, flags and links: addresses stay where they may be.
    for (let count = prng.between(1, 4); count > 0; count--) {
      words[prng.below(queue.ring.size) * 4 + prng.between(2, 3)] = prng.u32();
    }
  },
  "same again": (draft, shop) => {
    const { queue } = shop;
    const head = offerDirect(draft, shop);
    if (queue.ring instanceof HostileSplit) queue.ring.offerHead(head);
    else if (queue.ring instanceof HostilePacked) {
      queue.ring.place(draft.headerGpa, 16, head, 0);
    }
  },
  "head or id": (draft, shop) => {
    const { prng, queue } = shop;
    const value = prng.pick([queue.ring.size, queue.ring.size - 1, 0x7fff, 0x8000, 0xffff]);
    if (queue.ring instanceof HostileSplit) queue.ring.offerHead(value);
    else if (queue.ring instanceof HostilePacked) {
      queue.ring.place(draft.headerGpa, 16, value, prng.below(8));
    }
  },
  "index jumps": (draft, shop) => {
    const { prng, queue } = shop;
    offerDirect(draft, shop);
    if (queue.ring instanceof HostileSplit) {
      queue.ring.availIndex =
        (queue.ring.availIndex + prng.pick([1, queue.ring.size, 0x8000])) & 0xffff;
    } else if (queue.ring instanceof HostilePacked) {
      const at = prng.below(queue.ring.size);
      queue.ring.put(at, draft.headerGpa, 16, prng.below(queue.ring.size), prng.below(0x10000));
    }
  },
  "used ring": (draft, shop) => {
    const { prng, queue, victim } = shop;
    offerDirect(draft, shop);
    const { ring } = queue;
    const bytes = ring.packed ? 4 : 4 + 8 * ring.size + 2;
    const noise = Uint8Array.from({ length: bytes }, () => prng.below(256));
    victim.memory.write(ring.usedGpa, noise);
    if (ring instanceof HostileSplit) ring.usedIndex = ring.used[1] as number;
  },
  events: (draft, shop) => {
    const { prng, queue, victim } = shop;
    offerDirect(draft, shop);
    const { ring } = queue;
    if (ring instanceof HostileSplit) ring.avail[2 + ring.size] = prng.below(0x10000);
    else victim.memory.u32(ring.availGpa, 1)[0] = prng.u32();
  },
};

function tableOf(draft: ChainDraft, { ring }: Queue, { memory }: Victim): number {
  const table = memory.allocate(draft.chain.length * 16, 16, memory.regions[1]);
  putTable(memory, table, draft.chain, ring.packed);
  return table;
}

function offerDirect({ chain }: ChainDraft, { queue }: Workshop): number {
  return queue.ring.offer(chain.slice(0, queue.ring.size));
}

export const DAMAGES: readonly string[] = [
  ...Object.keys(CHAIN_DAMAGES),
  ...Object.keys(RING_DAMAGES),
];

export function damage(name: string, draft: ChainDraft, shop: Workshop): void {
  const toRing = RING_DAMAGES[name];
  if (toRing !== undefined) {
    toRing(draft, shop);
    return;
  }
  (CHAIN_DAMAGES[name] as Damage)(draft, shop);
  offerDraft(draft, shop.queue.ring, shop.victim, shop.prng);
}
