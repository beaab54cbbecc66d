// Are the recorded histories of several clients those of one volume? Each sector is a register (see
// sim/register-history.ts); a request of many sectors is a request of each.
//
// A write that failed, or was never answered, may be done at any later time, or never: it counts
// from the first read that shows it. A read that was not answered well shows nothing.

import { RegisterHistory } from "../sim/register-history.ts";
import { NOBODY } from "../sim/sector-stamp.ts";
import type { HistoryRequest } from "./history-file.ts";

const VIOLATIONS_MAX = 10;

export interface HistoryVerdict {
  /** A sentence each; none: the histories are linearizable. */
  readonly violations: readonly string[];
  readonly writeCount: number;
  /** Writes that may have been done or not. */
  readonly openWriteCount: number;
  readonly checkedSectors: number;
  /** Reads of a sector that another request was changing meanwhile. */
  readonly contendedSectors: number;
}

interface Event {
  readonly request: HistoryRequest;
  readonly isEnd: boolean;
  readonly atUs: number;
}

/** By time; of equal ones beginnings are first: then they are taken to overlap. */
function eventsOf(requests: readonly HistoryRequest[]): Event[] {
  const events: Event[] = [];
  for (const request of requests) {
    events.push({ request, isEnd: false, atUs: request.beginUs });
    if (request.endUs !== Infinity) events.push({ request, isEnd: true, atUs: request.endUs });
  }
  return events.sort((a, b) => a.atUs - b.atUs || Number(a.isEnd) - Number(b.isEnd));
}

class Sector {
  readonly register = new RegisterHistory();
  /** Reads under way: when each began. */
  readonly reads: Map<number, number> = new Map();
  writesUnderWay = 0;

  /** Of the reads that are still to end: then what came before it is of no use. */
  get oldestRead(): number {
    let oldest = Infinity;
    for (const start of this.reads.values()) oldest = Math.min(oldest, start);
    return oldest;
  }
}

export function checkHistories(histories: readonly (readonly HistoryRequest[])[]): HistoryVerdict {
  const requests = histories.flat();
  const sectors: Map<number, Sector> = new Map();
  const violations: string[] = [];
  const counts = { checkedSectors: 0, contendedSectors: 0 };
  // Times are a counter of events, so that no two are equal.
  let time = 1;
  for (const event of eventsOf(requests)) {
    time += 1;
    for (let index = 0; index < event.request.count; index++) {
      const number = event.request.sector + index;
      let sector = sectors.get(number);
      if (sector === undefined) sectors.set(number, (sector = new Sector()));
      const problem = step(sector, event, index, time, counts);
      if (problem === null || violations.length >= VIOLATIONS_MAX) continue;
      violations.push(`sector ${number}, read ${event.request.id} at ${event.atUs} us: ${problem}`);
    }
  }
  const writes = requests.filter(({ kind }) => kind !== "read");
  const openWriteCount = writes.filter(({ endUs }) => endUs === Infinity).length;
  return { violations, writeCount: writes.length, openWriteCount, ...counts };
}

/** Null, or what is wrong. */
function step(
  sector: Sector,
  { request, isEnd }: Event,
  index: number,
  time: number,
  counts: { checkedSectors: number; contendedSectors: number },
): string | null {
  const { register, reads } = sector;
  const { id, kind, found, endUs } = request;
  if (kind !== "read") {
    if (isEnd) register.writeEnded(id, time, false, sector.oldestRead);
    else register.writeStarted(id, kind === "zeroes", endUs === Infinity, time);
    sector.writesUnderWay += isEnd ? -1 : endUs === Infinity ? 0 : 1;
    return null;
  }
  if (!isEnd) {
    // One that shows nothing keeps nothing.
    if (endUs !== Infinity) reads.set(id, time);
    return null;
  }
  const start = reads.get(id) as number;
  reads.delete(id);
  counts.checkedSectors += 1;
  if (sector.writesUnderWay > 0) counts.contendedSectors += 1;
  const stamp = found[index] as number;
  if (stamp === NOBODY) return "it holds what nobody wrote there";
  const problem = register.readEnded(stamp, start, time);
  return problem === null ? null : `it shows ${problem}`;
}
