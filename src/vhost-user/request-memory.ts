// The memory requests: SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG. New regions are checked and mapped
// before anything changes; old ones are unmapped only after the rings have drained, because the
// kernel may still be writing into them.
// Specification: vhost-user, "Memory regions description" and "Multiple regions".

import { closeReceived } from "../sys/index.ts";
import type { Connection } from "./connection.ts";
import type { MemoryBudget } from "./memory-budget.ts";
import { MemoryRegion, parseRegion, type RegionDescription } from "./memory-region.ts";
import * as m from "./messages.ts";
import { LATER, OK, type Outcome, takeOne } from "./outcome.ts";
import type { Session } from "./session.ts";

export function setMemoryTable(session: Session, message: Connection): Outcome {
  const fds = message.takeDescriptors();
  const regions = mapTable(session, message, fds);
  for (const fd of fds) closeReceived(fd);
  if (typeof regions === "string") return regions;
  // The session's from now on: it may end while this waits.
  session.nextRegions = regions;
  session.drain(session.rings, () => {
    for (const old of session.memory.clear()) old.unmap();
    for (const region of session.nextRegions.splice(0)) session.memory.add(region);
    session.laterOutcome = OK;
    session.memoryChanged();
  });
  return LATER;
}

function mapTable(
  session: Session,
  message: Connection,
  fds: readonly number[],
): MemoryRegion[] | string {
  const { payload } = message;
  const count = payload.getUint32(m.MEM_TABLE.regionCount, true);
  if (count < 1 || count > m.MEM_TABLE_REGIONS_MAX) return `a memory table of ${count} regions`;
  if (message.payloadBytes < m.MEM_TABLE.regions + count * m.MEMORY_REGION.BYTES) {
    return `a memory table of ${count} regions in ${message.payloadBytes} bytes`;
  }
  if (fds.length !== count) return `a memory table of ${count} regions with ${fds.length} files`;
  const regions: MemoryRegion[] = [];
  for (let index = 0; index < count; index++) {
    const at = m.MEM_TABLE.regions + index * m.MEMORY_REGION.BYTES;
    const region = mapOne(session, payload, at, fds[index] as number, regions);
    if (typeof region === "string") {
      for (const mapped of regions) mapped.unmap();
      return `region ${index}: ${region}`;
    }
    regions.push(region);
  }
  return regions;
}

function mapOne(
  session: Session,
  payload: DataView,
  at: number,
  fd: number,
  others: readonly RegionDescriptionLike[],
): MemoryRegion | string {
  const description = parseRegion(payload, at);
  if (typeof description === "string") return description;
  for (const other of others) {
    if (overlaps(description, other)) return "a region that overlaps another";
  }
  return MemoryRegion.map(description, fd, mapOptions(session));
}

function mapOptions(session: Session): { trusted: boolean; budget: MemoryBudget } {
  return { trusted: session.device.trustMemory, budget: session.device.memoryBudget };
}

type RegionDescriptionLike = Omit<RegionDescription, "fileOffset">;

function overlaps(a: RegionDescriptionLike, b: RegionDescriptionLike): boolean {
  const guest =
    a.guestAddress < b.guestAddress + b.bytes && b.guestAddress < a.guestAddress + a.bytes;
  const user = a.userAddress < b.userAddress + b.bytes && b.userAddress < a.userAddress + a.bytes;
  return guest || user;
}

export function addRegion(session: Session, message: Connection): Outcome {
  const fd = takeOne(message);
  if (fd < 0) return "ADD_MEM_REG without its one descriptor";
  const description = parseRegion(message.payload, m.SINGLE_REGION.region);
  const problem =
    typeof description === "string" ? description : session.memory.conflict(description);
  if (typeof description === "string" || problem !== null) {
    closeReceived(fd);
    return problem as string;
  }
  const region = MemoryRegion.map(description, fd, mapOptions(session));
  closeReceived(fd);
  if (typeof region === "string") return region;
  session.memory.add(region);
  session.memoryChanged();
  return OK;
}

export function removeRegion(session: Session, message: Connection): Outcome {
  // Some front-ends attach a descriptor; it is not needed.
  for (const fd of message.takeDescriptors()) closeReceived(fd);
  const description = parseRegion(message.payload, m.SINGLE_REGION.region);
  if (typeof description === "string") return description;
  const { guestAddress, userAddress, bytes } = description;
  if (!session.memory.has(guestAddress, userAddress, bytes)) {
    return `no region of ${bytes} bytes at guest address ${guestAddress}`;
  }
  session.drain(session.rings, () => {
    const region = session.memory.remove(guestAddress, userAddress, bytes);
    if (region !== null) region.unmap();
    session.laterOutcome = OK;
    session.memoryChanged();
  });
  return LATER;
}
