// Which disks a volume's segments go to. Pure: the same question has the same answer on every node,
// whatever the order in which disks are listed.
//
// Hard rules: the copies of a segment lie on different nodes; a disk takes no more than it has
// free. Wishes, strongest first: one copy on the node where the VM is; copies in different racks;
// few different disks for one volume (a lost disk or node then concerns few volumes' records);
// disks with much room. A wish that cannot be kept is said, with the reason.
//
// Segments are placed one after another and stay on the set of disks of the one before while it has
// room. If that way does not end in a placement, the volume is placed without wishes, each segment
// on the nodes with the most room left: that finds a placement whenever there is one for segments
// of one size.

import { assert, formatBytes } from "../base/index.ts";
import { MetaError } from "./errors.ts";
import { SEGMENT_BYTES } from "./placement-page.ts";
import { REPLICAS_MAX } from "./records.ts";

export interface CandidateDisk {
  readonly number: number;
  readonly name: string;
  readonly node: string;
  readonly freeBytes: number;
}

export interface CandidateNode {
  readonly id: string;
  readonly name: string;
  readonly rack: string | null;
}

export interface PlacementRequest {
  readonly sizeBytes: number;
  readonly replicaCount: number;
  /** Where the VM is; null = not known yet. */
  readonly localNode: string | null;
}

/** Only what may take data: active disks of active nodes. */
export interface PlacementCandidates {
  readonly nodes: readonly CandidateNode[];
  readonly disks: readonly CandidateDisk[];
}

export interface ChosenDisk {
  readonly number: number;
  readonly bytes: number;
  /** For people: why this one. */
  readonly why: string;
}

export interface PlacementPlan {
  /** Disk numbers of each segment; the local one first, if there is one. */
  readonly segments: readonly (readonly number[])[];
  /** In order of first use. */
  readonly disks: readonly ChosenDisk[];
  /** Wishes that were not kept, a sentence each. */
  readonly compromises: readonly string[];
}

/** A disk with what is left of it as the plan grows. */
interface Disk {
  readonly number: number;
  readonly name: string;
  readonly node: CandidateNode;
  leftBytes: number;
}

type Wishes = "all" | "none";

export function planPlacement(
  request: PlacementRequest,
  candidates: PlacementCandidates,
): PlacementPlan {
  const { replicaCount, sizeBytes } = request;
  assert(replicaCount >= 1 && replicaCount <= REPLICAS_MAX, "checked with the request");
  assert(sizeBytes > 0, "checked with the request");
  const segments =
    placeAll(request, readDisks(candidates), "all") ??
    placeAll(request, readDisks(candidates), "none");
  if (segments === null) throw noRoom(request, readDisks(candidates));
  return explain(request, readDisks(candidates), segments);
}

/** Sorted, so that the order of the question does not matter. */
function readDisks({ nodes, disks }: PlacementCandidates): Disk[] {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  return disks
    .flatMap(({ number, name, node: nodeId, freeBytes }) => {
      const node = byId.get(nodeId);
      return node === undefined ? [] : [{ number, name, node, leftBytes: freeBytes }];
    })
    .sort((a, b) => a.number - b.number);
}

function segmentSizes(sizeBytes: number): number[] {
  const sizes: number[] = [];
  for (let left = sizeBytes; left > 0; left -= SEGMENT_BYTES) {
    sizes.push(Math.min(left, SEGMENT_BYTES));
  }
  return sizes;
}

function placeAll(request: PlacementRequest, disks: Disk[], wishes: Wishes): Disk[][] | null {
  const placed: Disk[][] = [];
  let set: Disk[] = [];
  for (const sizeBytes of segmentSizes(request.sizeBytes)) {
    const fits = set.length > 0 && set.every((disk) => disk.leftBytes >= sizeBytes);
    if (!fits || wishes === "none") {
      const chosen = chooseSet(request, disks, sizeBytes, wishes);
      if (chosen === null) return null;
      set = chosen;
    }
    for (const disk of set) disk.leftBytes -= sizeBytes;
    placed.push(set);
  }
  return placed;
}

function chooseSet(
  request: PlacementRequest,
  disks: readonly Disk[],
  sizeBytes: number,
  wishes: Wishes,
): Disk[] | null {
  const fitting = disks.filter((disk) => disk.leftBytes >= sizeBytes);
  const room = roomOfNodes(fitting, sizeBytes);
  const set: Disk[] = [];
  while (set.length < request.replicaCount) {
    const left = fitting.filter((disk) => set.every((other) => other.node !== disk.node));
    let choice = left;
    if (wishes === "all") {
      const local = left.filter((disk) => disk.node.id === request.localNode);
      const otherRack = left.filter((disk) => set.every((other) => differs(disk, other)));
      if (set.length === 0 && local.length > 0) choice = local;
      else if (otherRack.length > 0) choice = otherRack;
    }
    const best = roomiest(choice, room);
    if (best === null) return null;
    set.push(best);
  }
  return set;
}

/** Nodes without a rack are told apart by nothing: they do not count as another rack. */
function differs(a: Disk, b: Disk): boolean {
  return a.node.rack !== b.node.rack;
}

/** Segments that a node could still take: what decides whether there is a placement at all. */
function roomOfNodes(fitting: readonly Disk[], sizeBytes: number): Map<string, number> {
  const room = new Map<string, number>();
  for (const { node, leftBytes } of fitting) {
    room.set(node.id, (room.get(node.id) ?? 0) + Math.floor(leftBytes / sizeBytes));
  }
  return room;
}

/** The disk with the most room on the node with the most room; the lowest number of equals. */
function roomiest(disks: readonly Disk[], room: ReadonlyMap<string, number>): Disk | null {
  let best: Disk | null = null;
  for (const disk of disks) {
    if (best === null) {
      best = disk;
      continue;
    }
    const more = (room.get(disk.node.id) ?? 0) - (room.get(best.node.id) ?? 0);
    const isBetter = more > 0 || (more === 0 && disk.leftBytes > best.leftBytes);
    if (isBetter) best = disk;
  }
  return best;
}

function explain(
  request: PlacementRequest,
  disks: readonly Disk[],
  placed: readonly (readonly Disk[])[],
): PlacementPlan {
  const sizes = segmentSizes(request.sizeBytes);
  const bytes = new Map<number, number>();
  for (const [index, set] of placed.entries()) {
    for (const { number } of set) bytes.set(number, (bytes.get(number) ?? 0) + sizes[index]!);
  }
  const known = new Map(disks.map((disk) => [disk.number, disk]));
  const chosen = [...bytes].map(([number, taken]) => {
    const disk = known.get(number)!;
    return { number, bytes: taken, why: reasonOf(request, disk) };
  });
  return {
    segments: placed.map((set) => set.map((disk) => disk.number)),
    disks: chosen,
    compromises: compromisesOf(request, disks, placed),
  };
}

function reasonOf({ localNode, replicaCount }: PlacementRequest, disk: Disk): string {
  const where = `${disk.name} on ${disk.node.name}`;
  const free = `${formatBytes(disk.leftBytes)} free`;
  if (disk.node.id === localNode) return `${where}: the node where it is attached, ${free}`;
  if (replicaCount === 1) return `${where}: the most room, ${free}`;
  const rack = disk.node.rack === null ? "another node" : `another node, rack ${disk.node.rack}`;
  return `${where}: ${rack}, ${free}`;
}

function compromisesOf(
  request: PlacementRequest,
  disks: readonly Disk[],
  placed: readonly (readonly Disk[])[],
): string[] {
  const said: string[] = [];
  const { localNode, sizeBytes } = request;
  const awayCount = placed.filter((set) => set.every((disk) => disk.node.id !== localNode)).length;
  if (localNode !== null && awayCount > 0) {
    const local = disks.filter((disk) => disk.node.id === localNode);
    const free = local.reduce((sum, disk) => sum + disk.leftBytes, 0);
    const part = awayCount === placed.length ? "No part" : "Not all";
    const reason =
      local.length === 0
        ? "it has no disk that takes data"
        : `${formatBytes(free)} are free there for ${formatBytes(sizeBytes)}`;
    said.push(`${part} of it lies on the node where it is attached: ${reason}.`);
  }
  const racks = new Set(disks.map((disk) => disk.node.rack));
  const isCramped = placed.some((set) => new Set(set.map((d) => d.node.rack)).size < set.length);
  if (racks.size > 1 && isCramped) {
    said.push(`Copies share a rack: ${racks.size} racks are known, and not enough have room.`);
  }
  return said;
}

function noRoom(request: PlacementRequest, disks: readonly Disk[]): MetaError {
  const { replicaCount, sizeBytes } = request;
  const size = formatBytes(sizeBytes);
  const nodes = new Map<CandidateNode, number>();
  for (const { node, leftBytes } of disks) nodes.set(node, (nodes.get(node) ?? 0) + leftBytes);
  if (nodes.size < replicaCount) {
    const copies =
      replicaCount === 1
        ? "1 copy needs a node"
        : `${replicaCount} copies need ${replicaCount} nodes`;
    const message = `${copies} with a disk that takes data; there are ${nodes.size}.`;
    const advice = "Add a node with a disk, or ask for fewer replicas.";
    return new MetaError("no-room", message, { advice });
  }
  const rows = [...nodes]
    .sort((a, b) => (a[0].name < b[0].name ? -1 : 1))
    .map(([node, free]) => `${node.name} ${formatBytes(free)}`);
  const free = rows.join(", ");
  const message = `${replicaCount} × ${size} on different nodes do not fit. Free: ${free}.`;
  const advice = "Add a disk, or ask for a smaller volume.";
  return new MetaError("no-room", message, { advice });
}
