// A workbench for tests of devices: fake memory, a request table, guest memory to put buffers
// into, and the results of what was submitted.

import { assert, RequestTable, segmentArenaBytes } from "../base/index.ts";
import type { Arena, BlockDevice } from "../ports/index.ts";
import { FakeMemory } from "./_fake-memory.ts";
import { Workspace, type WorkspaceOptions } from "./workspace.ts";

export interface Request {
  readonly op: number;
  readonly offsetBytes: number;
  /** For operations without memory. */
  readonly lengthBytes?: number;
  /** Places in guest memory. */
  readonly segments?: readonly (readonly [at: number, bytes: number])[];
  readonly flags?: number;
}

export class Workbench {
  readonly memory: FakeMemory = new FakeMemory();
  readonly requests: RequestTable;
  readonly workspace: Workspace;
  readonly guest: Arena;
  /** Result by slot, for what has completed. */
  readonly results: Map<number, number> = new Map();
  private readonly owner: number;

  constructor(options: { slots?: number; guestBytes?: number } & WorkspaceOptions = {}) {
    const slots = options.slots ?? 64;
    this.requests = new RequestTable(slots, this.memory.allocate(segmentArenaBytes(slots)));
    this.workspace = new Workspace(options, { requests: this.requests, memory: this.memory });
    this.guest = this.memory.allocate(options.guestBytes ?? 1048576);
    this.owner = this.requests.addOwner({
      requestCompleted: (slot, result) => {
        assert(!this.results.has(slot), "a slot completed twice");
        this.results.set(slot, result);
        this.requests.release(slot);
      },
    });
  }

  /** Submits and returns the slot. */
  submit(device: BlockDevice, request: Request): number {
    const { requests } = this;
    const slot = requests.acquire(this.owner);
    assert(slot >= 0, "no free slot");
    this.results.delete(slot);
    requests.op[slot] = request.op;
    requests.flags[slot] = request.flags ?? 0;
    requests.offsetBytes[slot] = request.offsetBytes;
    requests.lengthBytes[slot] = request.lengthBytes ?? 0;
    for (const [at, bytes] of request.segments ?? []) {
      assert(requests.addSegment(slot, this.guest.address + at, bytes), "too many segments");
    }
    device.submit(slot);
    return slot;
  }

  /** Delivers completions; the result of `slot`, undefined while it is in flight. */
  result(slot: number): number | undefined {
    this.requests.drain(65536);
    return this.results.get(slot);
  }
}
