// What one client did to a volume, written down while it does it: a line when a request is given to
// the device, a line when its answer was seen. Times are of the system's monotonic clock, which all
// processes of a machine share, in microseconds.
//
//   w ID AT SECTOR COUNT       a write of stamps of ID begins        z: the same of zeroes
//   r ID AT SECTOR COUNT       a read begins
//   e ID AT STATUS [FOUND*N]   the end of it; of a read, whose stamps were found in how many
//                              sectors, one run after the other
//
// Invariant: the line of a beginning is with the kernel before the device can see the request. So
// the history of a client that is killed lacks no write that may have been done.

import { readFileSync, writeSync } from "node:fs";
import {
  KIND_DISCARD,
  KIND_FLUSH,
  KIND_READ,
  KIND_WRITE,
  KIND_WRITE_ZEROES,
  type Recorder,
} from "../../load/index.ts";
import { SystemClock } from "../../sys/index.ts";
import { readStamp, stampSectors } from "../sim/sector-stamp.ts";

const SECTOR_BYTES = 512;
const SCRIBBLE_BYTE = 0xa7;
/** Of the 32 bits of a stamp: who wrote it, and its number there. */
const CLIENT_SHIFT = 24;
export const CLIENT_MAX = 255;

export class HistoryRecorder implements Recorder {
  private readonly fd: number;
  private readonly clock = new SystemClock();
  private readonly idOf: Map<number, number> = new Map();
  private readonly readAt: Map<number, number> = new Map();
  private nextId: number;

  /** Stamps of two clients differ by `client`, from 1 to CLIENT_MAX. */
  constructor(fd: number, client: number) {
    this.fd = fd;
    this.nextId = client * 2 ** CLIENT_SHIFT;
  }

  begin(flat: number, kind: number, offsetBytes: number, data: Uint8Array): void {
    if (kind === KIND_FLUSH) return;
    if (kind === KIND_DISCARD) throw new Error("what a discard leaves is not in a history");
    this.nextId += 1;
    const id = this.nextId;
    this.idOf.set(flat, id);
    const sector = offsetBytes / SECTOR_BYTES;
    const count = data.length / SECTOR_BYTES;
    if (kind === KIND_READ) this.readAt.set(flat, sector);
    if (kind === KIND_READ) data.fill(SCRIBBLE_BYTE);
    if (kind === KIND_WRITE) data.set(stampSectors(id, sector, count));
    const letter = kind === KIND_READ ? "r" : kind === KIND_WRITE_ZEROES ? "z" : "w";
    writeSync(this.fd, `${letter} ${id} ${this.clock.nowUs()} ${sector} ${count}\n`);
  }

  end(flat: number, status: number, endUs: Float64Array, data: Uint8Array): void {
    const id = this.idOf.get(flat);
    if (id === undefined) return;
    this.idOf.delete(flat);
    const sector = this.readAt.get(flat);
    this.readAt.delete(flat);
    const found = sector === undefined || status !== 0 ? "" : runsOf(data, sector);
    writeSync(this.fd, `e ${id} ${endUs[0]} ${status}${found}\n`);
  }
}

function runsOf(data: Uint8Array, sector: number): string {
  let text = "";
  let count = 0;
  let last = 0;
  for (let at = 0; at < data.length; at += SECTOR_BYTES) {
    const id = readStamp(data, at, sector + at / SECTOR_BYTES);
    if (count > 0 && id !== last) {
      text += ` ${last}*${count}`;
      count = 0;
    }
    last = id;
    count += 1;
  }
  return `${text} ${last}*${count}`;
}

export interface HistoryRequest {
  readonly id: number;
  readonly kind: "read" | "write" | "zeroes";
  readonly sector: number;
  readonly count: number;
  readonly beginUs: number;
  /** Infinity: it was never answered, or not well: a write may be done at any later time. */
  endUs: number;
  /** Of a read that was answered well: the stamp in each of its sectors. */
  found: readonly number[];
}

const KINDS: Readonly<Record<string, HistoryRequest["kind"]>> = {
  r: "read",
  w: "write",
  z: "zeroes",
};

/** The requests of one client, in the order in which they began. */
export function readHistory(path: string): HistoryRequest[] {
  const requests: Map<number, HistoryRequest> = new Map();
  const lines = readFileSync(path, "utf8").split("\n");
  lines.pop();
  for (const line of lines) {
    const [letter = "", id, at, first, ...rest] = line.split(" ");
    const kind = KINDS[letter];
    if (kind !== undefined) {
      const place = { sector: Number(first), count: Number(rest[0]) };
      const times = { beginUs: Number(at), endUs: Infinity };
      requests.set(Number(id), { id: Number(id), kind, ...place, ...times, found: [] });
      continue;
    }
    const request = requests.get(Number(id));
    if (letter !== "e" || request === undefined) throw new Error(`${path}: a line "${line}"`);
    if (first !== "0") continue;
    request.endUs = Number(at);
    request.found = rest.flatMap((run) => {
      const [stamp, count] = run.split("*").map(Number) as [number, number];
      return new Array<number>(count).fill(stamp);
    });
  }
  return [...requests.values()];
}
