// A sector device over a memory device whose answers come late and in any order: for tests of what
// happens between the operations that a partial block is changed with.

import { RequestTable, segmentArenaBytes } from "../base/index.ts";
import { MemoryDevice, Workspace } from "../local/index.ts";
import type { Address, Arena } from "../ports/index.ts";
import { SystemMemory } from "../sys/index.ts";
import { SectorDevice, SectorWorkspace, type WholeBlockDevice } from "../volume/index.ts";

const BLOCK_BYTES = 4096;

/** Holds every request until it is told to go on: what it does then happens at once. */
class HeldDevice implements WholeBlockDevice {
  readonly info: MemoryDevice["info"];
  /** Slots in the order of their arrival. */
  readonly held: number[] = [];
  /** Every request that came: operation, offset, bytes, flags. */
  readonly seen: { readonly op: number; readonly at: number; bytes: number; flags: number }[] = [];
  /** Fails the request when it returns a negated errno. */
  fault: (op: number, offsetBytes: number) => number = () => 0;
  private readonly device: MemoryDevice;
  private readonly requests: RequestTable;

  constructor(device: MemoryDevice, requests: RequestTable) {
    this.device = device;
    this.requests = requests;
    this.info = device.info;
  }

  get inflightCount(): number {
    return this.held.length;
  }

  submit(slot: number): void {
    const { op, offsetBytes, lengthBytes, flags } = this.requests;
    const at = offsetBytes[slot] as number;
    const bytes = lengthBytes[slot] as number;
    if (at % BLOCK_BYTES !== 0 || bytes % BLOCK_BYTES !== 0) {
      throw new Error(`operation ${op[slot]} of ${bytes} bytes at ${at} is not of whole blocks`);
    }
    this.seen.push({ op: op[slot] as number, at, bytes, flags: flags[slot] as number });
    this.held.push(slot);
  }

  /** Carries out the request at `index` of those that are held. */
  goOn(index = 0): void {
    const [slot] = this.held.splice(index, 1) as [number];
    const failure = this.fault(
      this.requests.op[slot] as number,
      this.requests.offsetBytes[slot] as number,
    );
    if (failure < 0) this.requests.complete(slot, failure);
    else this.device.submit(slot);
  }

  oldestInflightUs(): number {
    return this.held.length;
  }

  setCapacity(bytes: number): void {
    this.device.setCapacity(bytes);
  }

  close(): void {
    this.device.close();
  }
}

export interface SectorBenchOptions {
  readonly capacityBytes: number;
  readonly slots: number;
  readonly laneCount: number;
  readonly laneBytes: number;
  readonly guestBytes: number;
  readonly readOnly?: boolean;
}

export interface SectorRequest {
  readonly op: number;
  readonly offsetBytes: number;
  readonly flags?: number;
  /** For operations without memory. */
  readonly lengthBytes?: number;
  /** Places in guest memory, or addresses elsewhere. */
  readonly segments?: readonly (readonly [at: number, bytes: number])[];
  readonly address?: Address;
}

export class SectorBench {
  readonly memory: SystemMemory = new SystemMemory();
  readonly requests: RequestTable;
  readonly below: HeldDevice;
  readonly workspace: SectorWorkspace;
  readonly device: SectorDevice;
  readonly guest: Arena;
  private readonly owner: number;
  private readonly arenas: Arena[] = [];

  constructor(
    options: SectorBenchOptions,
    completed: (slot: number, result: number) => void = () => undefined,
  ) {
    const { slots, laneCount, laneBytes, guestBytes } = options;
    const { memory } = this;
    const segments = memory.allocate(segmentArenaBytes(slots));
    this.guest = memory.allocate(guestBytes);
    this.arenas.push(segments, this.guest);
    this.requests = new RequestTable(slots, segments);
    const { requests } = this;
    const local = new Workspace({ bounceBufferCount: 1 }, { requests, memory });
    const { capacityBytes, readOnly = false } = options;
    const facts = { capacityBytes, blockBytes: BLOCK_BYTES, readOnly, serial: "sectors" };
    this.below = new HeldDevice(new MemoryDevice(facts, { workspace: local }), requests);
    const { copier } = local;
    this.workspace = new SectorWorkspace({ laneCount, laneBytes }, { requests, memory, copier });
    this.device = new SectorDevice(this.below, { workspace: this.workspace });
    this.owner = requests.addOwner({
      requestCompleted: (slot, result) => {
        completed(slot, result);
        requests.release(slot);
      },
    });
  }

  /** The slot, or -1 when there is none free. */
  submit(request: SectorRequest): number {
    const { requests } = this;
    const slot = requests.acquire(this.owner);
    if (slot < 0) return -1;
    requests.op[slot] = request.op;
    requests.flags[slot] = request.flags ?? 0;
    requests.offsetBytes[slot] = request.offsetBytes;
    requests.lengthBytes[slot] = request.lengthBytes ?? 0;
    const base = request.address ?? this.guest.address;
    for (const [at, bytes] of request.segments ?? []) requests.addSegment(slot, base + at, bytes);
    this.device.submit(slot);
    return slot;
  }

  /** Until nothing is held and nothing waits to be told. */
  settle(): void {
    for (;;) {
      this.requests.drain(65_536);
      if (this.below.held.length === 0) return;
      this.below.goOn();
    }
  }

  close(): void {
    this.device.close();
    for (const arena of this.arenas) this.memory.free(arena);
  }
}
