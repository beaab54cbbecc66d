// What is to be done so that every volume has its copies on disks that are there and that may keep
// them. Pure: whoever leads carries it out, one swap of a volume's record for each step, and a new
// leader that looks at the same records goes on where the last one stopped.
//
//   begin   a member is lost, cut off from its owner, or to be emptied: a disk with room becomes a
//           member, out, "new" (its node makes the copy, the volume's owner brings it up to date)
//   finish  the new copy is in sync, and the old one out: the old one leaves the members
//   drop    the new copy is not wanted any more, or cannot be made: it leaves again
//
// Invariants:
// - Only a member that is out leaves. Who is in sync is the owner's to say: it puts out the copy of
//   a disk that is to be emptied when it is told to (`leavingOf`), never the last one.
// - The old copy leaves only when the new one is in sync.
// - A lost copy that is in sync again before the new one is makes the plan superfluous. It is then
//   dropped: all that the old one lacked is there, and the new one lacks the rest of its data. If
//   the new one is first, the plan is finished: to drop it would throw away what was just copied.
// - That a member is cut off only its owner's node knows, which begins that plan itself; who leads
//   goes on with it as with any other.
// - The most endangered volume first: the one with the fewest copies in sync that can be reached.

import { formatBytes } from "../base/units.ts";
import { MetaError } from "./errors.ts";
import { type PlacementPlan, planPlacement } from "./placement.ts";
import { SEGMENT_BYTES } from "./placement-page.ts";
import type {
  DiskRecord,
  NodeRecord,
  OutMember,
  Replacement,
  ReplacementReason,
  VolumeRecord,
} from "./records.ts";

export interface RepairView {
  readonly nodes: ReadonlyMap<string, NodeRecord>;
  readonly disks: ReadonlyMap<string, DiskRecord>;
  readonly volumes: readonly VolumeRecord[];
  readonly isAlive: (nodeId: string) => boolean;
  /** How long the disk has been lost, or its node missing; 0 = it is there. */
  readonly lostMs: (diskId: string) => number;
  /**
   * How long this node, which owns the volume, has not reached the node of that copy, though it is
   * alive; 0 = it does, or owns it not.
   */
  readonly cutOffMs: (volumeId: string, diskId: string) => number;
  /** From this node. */
  readonly isReachable: (nodeId: string) => boolean;
  /** A copy that is lost for so long is made elsewhere; Infinity = never. */
  readonly afterMs: number;
  /** For people. */
  readonly now: string;
}

export interface RepairStep {
  readonly kind: "begin" | "finish" | "drop";
  readonly volume: VolumeRecord;
  /** What the record becomes, but for its change id. */
  readonly next: VolumeRecord;
  readonly replacement: Replacement;
  readonly why: string;
  /** For the node of the volume's owner, whoever leads. */
  readonly isOwners: boolean;
}

/** A copy that has to be made, and for which there is no place. */
export interface BlockedRepair {
  readonly volume: VolumeRecord;
  readonly message: string;
}

export interface RepairPlan {
  readonly steps: readonly RepairStep[];
  readonly blocked: readonly BlockedRepair[];
}

/** Where a copy would go, of a disk that is about to be given up. */
export interface ForeseenCopy {
  readonly volume: VolumeRecord;
  /** null: there are too few copies as it is. */
  readonly from: string | null;
  /** null: nowhere. */
  readonly to: string | null;
  readonly why: string;
}

/** Copies that are brought to one disk at the same time. */
const INCOMING_MAX = 2;

interface Need {
  readonly volume: VolumeRecord;
  readonly from: string | null;
  readonly reason: ReplacementReason;
  readonly safeCount: number;
  /** From its owner, which must reach the new place. */
  readonly isCutOff: boolean;
}

export function isInSync({ members, out }: VolumeRecord, disk: string): boolean {
  return members.includes(disk) && out.every((one) => one.disk !== disk);
}

export function membersInSync(record: VolumeRecord): readonly string[] {
  return record.members.filter((disk) => isInSync(record, disk));
}

/** Copies that the volume lacks: not those that come in place of another, or were replaced. */
export function outCopies({ out, replacement }: VolumeRecord): readonly OutMember[] {
  if (replacement === undefined) return out;
  const { from, to } = replacement;
  const isNewOut = out.some(({ disk }) => disk === to);
  return out.filter(({ disk }) => disk !== to && (isNewOut || disk !== from));
}

/** The copy that the owner is to put out now: the one that replaces it is in sync. */
export function leavingOf(record: VolumeRecord): string | null {
  const { replacement } = record;
  return replacement !== undefined && isInSync(record, replacement.to) ? replacement.from : null;
}

export function planRepairs(view: RepairView): RepairPlan {
  const steps: RepairStep[] = [];
  const needs: Need[] = [];
  for (const volume of view.volumes) {
    if (volume.phase !== "ready") continue;
    if (volume.replacement !== undefined) {
      const step = nextStep(volume, volume.replacement, view);
      if (step !== null) steps.push(step);
    } else {
      const need = needOf(volume, view);
      if (need !== null) needs.push(need);
    }
  }
  const blocked: BlockedRepair[] = [];
  const incoming = incomingOf(view);
  for (const need of needs.sort(byDanger)) {
    const place = placeCopy(need, view, incoming);
    if ("problem" in place) {
      blocked.push({ volume: need.volume, message: place.problem });
      continue;
    }
    if ((incoming.get(place.to)?.count ?? 0) >= INCOMING_MAX) continue;
    expect(incoming, place.to, need.volume);
    steps.push(beginStep(need, place, view));
  }
  return { steps, blocked };
}

/** What would become of the copies on those disks, if they were given up. */
export function foresee(view: RepairView, disks: ReadonlySet<string>): readonly ForeseenCopy[] {
  const needs = view.volumes.flatMap((volume): Need[] => {
    if (volume.phase !== "ready") return [];
    const staying = volume.members.filter((disk) => !disks.has(disk));
    const safeCount = staying.filter((disk) => isSafe(volume, disk, view)).length;
    const gone = volume.members.filter((disk) => disks.has(disk) && !isOnItsWay(volume, disk));
    return gone.map((from) => ({ volume, from, reason: "drain", safeCount, isCutOff: false }));
  });
  const incoming = incomingOf(view);
  return needs.sort(byDanger).map((need) => {
    const { volume, from } = need;
    const place = placeCopy(need, view, incoming, disks);
    if ("problem" in place) return { volume, from, to: null, why: place.problem };
    expect(incoming, place.to, volume);
    return { volume, from, ...place };
  });
}

function byDanger(a: Need, b: Need): number {
  if (a.safeCount !== b.safeCount) return a.safeCount - b.safeCount;
  return a.volume.name < b.volume.name ? -1 : 1;
}

function isOnItsWay({ replacement }: VolumeRecord, disk: string): boolean {
  return replacement?.to === disk || replacement?.from === disk;
}

function isSafe(volume: VolumeRecord, disk: string, view: RepairView): boolean {
  return isInSync(volume, disk) && view.lostMs(disk) === 0;
}

function isDraining(diskId: string, { disks, nodes }: RepairView): boolean {
  const disk = disks.get(diskId);
  if (disk === undefined) return false;
  return disk.phase === "draining" || nodes.get(disk.node)?.phase === "draining";
}

/** null: it has what it should have, or nothing to copy from. */
function needOf(volume: VolumeRecord, view: RepairView): Need | null {
  const { members, replicaCount } = volume;
  const safeCount = members.filter((disk) => isSafe(volume, disk, view)).length;
  if (safeCount === 0) return null;
  const isOver = (ms: number): boolean => ms > 0 && ms >= view.afterMs;
  const lost = members
    .filter((disk) => isOver(view.lostMs(disk)))
    .sort((a, b) => view.lostMs(b) - view.lostMs(a));
  const need = (from: string | null, reason: ReplacementReason, isCutOff = false): Need => ({
    volume,
    from,
    reason,
    safeCount,
    isCutOff,
  });
  if (lost[0] !== undefined) return need(lost[0], "lost");
  const cutOff = members.find(
    (disk) => !isInSync(volume, disk) && isOver(view.cutOffMs(volume.id, disk)),
  );
  if (cutOff !== undefined) return need(cutOff, "lost", true);
  if (members.length < replicaCount) return need(null, "too-few");
  const draining = members.find((disk) => isDraining(disk, view));
  return draining === undefined ? null : need(draining, "drain");
}

// Steps ------------------------------------------------------------------------------------------

function beginStep(need: Need, place: Place, { now }: RepairView): RepairStep {
  const { volume, from, reason, isCutOff } = need;
  const { to } = place;
  const why = isCutOff ? `its owner does not reach the copy there; ${place.why}` : place.why;
  const sinceStamp = { epoch: 0, sequence: 0 };
  const replacement = { from, to, reason, since: now };
  const next = {
    ...volume,
    members: [...volume.members, to],
    out: [...volume.out, { disk: to, sinceStamp, reason: "new" as const, since: now }],
    membershipVersion: volume.membershipVersion + 1,
    replacement,
  };
  return { kind: "begin", volume, next, replacement, why, isOwners: isCutOff };
}

/** null: it goes on as it is. */
function nextStep(
  volume: VolumeRecord,
  replacement: Replacement,
  view: RepairView,
): RepairStep | null {
  const { from, to } = replacement;
  const end = (
    kind: "finish" | "drop",
    gone: string | null,
    why: string,
    isOwners = false,
  ): RepairStep => ({
    kind,
    volume,
    next: without(volume, gone),
    replacement,
    why,
    isOwners,
  });
  if (!volume.members.includes(to)) return end("drop", null, "its new place was taken out");
  if (isInSync(volume, to)) {
    if (from !== null && isInSync(volume, from)) return null;
    return end("finish", from, "the new copy is in sync");
  }
  const why = superfluous(volume, replacement, view);
  if (why !== null) return end("drop", to, why);
  const cutOffMs = view.cutOffMs(volume.id, to);
  if (cutOffMs === 0 || cutOffMs < view.afterMs) return null;
  return end("drop", to, "the disk that was to take it is cut off from the owner", true);
}

/** Why a copy that is not in sync yet is not to be made there, null = it is. */
function superfluous(
  volume: VolumeRecord,
  { from, to, reason }: Replacement,
  view: RepairView,
): string | null {
  if (!view.disks.has(to) || (view.lostMs(to) > 0 && view.lostMs(to) >= view.afterMs)) {
    return "the disk that was to take it is lost";
  }
  if (isDraining(to, view)) return "the disk that was to take it is to be emptied";
  if (from === null || !isSafe(volume, from, view)) return null;
  if (reason === "lost") return "the copy that was lost is in sync again";
  return isDraining(from, view) ? null : "its disk may keep the copy";
}

function without(volume: VolumeRecord, disk: string | null): VolumeRecord {
  const { replacement: _, ...rest } = volume;
  return {
    ...rest,
    members: volume.members.filter((one) => one !== disk),
    out: volume.out.filter((one) => one.disk !== disk),
    membershipVersion: volume.membershipVersion + 1,
  };
}

// Places -----------------------------------------------------------------------------------------

interface Incoming {
  count: number;
  bytes: number;
}

interface Place {
  readonly to: string;
  readonly why: string;
}

function sizeOf({ sizeBytes, growToBytes }: VolumeRecord): number {
  return Math.max(sizeBytes, growToBytes ?? 0);
}

function expect(incoming: Map<string, Incoming>, disk: string, volume: VolumeRecord): void {
  const known = incoming.get(disk) ?? { count: 0, bytes: 0 };
  incoming.set(disk, { count: known.count + 1, bytes: known.bytes + sizeOf(volume) });
}

/** What is on its way to disks: their room is as good as taken. */
function incomingOf({ volumes }: RepairView): Map<string, Incoming> {
  const incoming = new Map<string, Incoming>();
  for (const volume of volumes) {
    const to = volume.replacement?.to;
    if (to !== undefined && !isInSync(volume, to)) expect(incoming, to, volume);
  }
  return incoming;
}

/** By the rules of placement.ts, beside the copies that stay. `given`: disks that are given up. */
function placeCopy(
  { volume, from, isCutOff }: Need,
  view: RepairView,
  incoming: ReadonlyMap<string, Incoming>,
  given: ReadonlySet<string> = new Set(),
): Place | { readonly problem: string } {
  const size = sizeOf(volume);
  const staying = volume.members.filter((disk) => disk !== from && !given.has(disk));
  const taken = new Set(staying.map((disk) => view.disks.get(disk)?.node));
  const nodes = [...view.nodes.values()].filter(
    ({ id, phase }) =>
      phase === "active" &&
      view.isAlive(id) &&
      !taken.has(id) &&
      (!isCutOff || view.isReachable(id)),
  );
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const disks = [...view.disks.values()]
    .filter(({ id, phase }) => phase === "active" && view.lostMs(id) === 0)
    .filter(({ id, node }) => id !== from && !given.has(id) && byId.has(node))
    .map((disk) => ({
      ...disk,
      freeBytes: Math.max(0, disk.freeBytes - (incoming.get(disk.id)?.bytes ?? 0)),
    }));
  const roomy = disks.filter(({ freeBytes }) => freeBytes >= size);
  const { node: localNode } = volume.attachment;
  const racks = new Set(
    staying.map((disk) => view.nodes.get(view.disks.get(disk)?.node ?? "")?.rack ?? null),
  );
  const otherRack = roomy.filter(({ node }) => !racks.has(byId.get(node)?.rack ?? null));
  const isLocal = roomy.some(({ node }) => node === localNode);
  // Where the guest is, before another rack, before the most room: as for a new volume.
  const candidates = isLocal || otherRack.length === 0 ? roomy : otherRack;
  let plan: PlacementPlan;
  try {
    const sizeBytes = Math.min(size, SEGMENT_BYTES);
    plan = planPlacement({ sizeBytes, replicaCount: 1, localNode }, { nodes, disks: candidates });
  } catch (error) {
    if (!(error instanceof MetaError) || error.code !== "no-room") throw error;
    const whose = isCutOff ? "that its owner reaches" : "that is alive";
    return { problem: noPlace(size, nodes, disks, whose) };
  }
  const number = plan.segments[0]?.[0];
  const to = candidates.find((disk) => disk.number === number)!.id;
  return { to, why: plan.disks[0]?.why ?? "" };
}

function noPlace(
  size: number,
  nodes: readonly NodeRecord[],
  disks: readonly { readonly node: string; readonly freeBytes: number }[],
  whose: string,
): string {
  const rows = nodes.flatMap(({ id, name }) => {
    const free = disks.filter(({ node }) => node === id).map((disk) => disk.freeBytes);
    return free.length === 0 ? [] : [`${name} ${formatBytes(Math.max(...free))}`];
  });
  const where = rows.sort().join(", ") || `every node ${whose} has a copy`;
  return `no other node has a disk with ${formatBytes(size)} free: ${where}`;
}
