// A client of a BlockDevice: requests with data as arrays, any number in flight. Each has a buffer
// of its own in foreign memory, which is freed, and so poisoned, when the request completes.
//
// With a `cutter` buffers begin anywhere and come in several segments, as guests' do.

import {
  assert,
  FLAG_DURABLE,
  FLAG_UNMAP,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  type Prng,
} from "../../base/index.ts";
import type { Arena, BlockDevice } from "../../ports/index.ts";
import type { SimMemory } from "./sim-memory.ts";
import type { SimReactor } from "./sim-reactor.ts";

export interface ClientRequest {
  readonly op: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** null until it completes; then 0 or a negated errno. */
  result: number | null;
  /** What is written, or, once a read has completed, what was read. */
  data: Uint8Array;
}

export type RequestDone = (request: ClientRequest) => void;

interface Active {
  readonly request: ClientRequest;
  readonly flags: number;
  readonly done: RequestDone | null;
  arena: Arena | null;
  /** Where each segment begins in the arena, and its bytes. */
  segments: readonly (readonly [at: number, bytes: number])[];
}

export interface SimClientOptions {
  readonly reactor: SimReactor;
  readonly memory: SimMemory;
  readonly device: BlockDevice;
  /** Cuts buffers into segments at any byte; without it each is one aligned segment. */
  readonly cutter?: Prng;
}

const NOTHING: Uint8Array = new Uint8Array(0);
const SEGMENTS_MAX = 5;
const GAP_BYTES_MAX = 64;

export class SimClient {
  private readonly reactor: SimReactor;
  private readonly memory: SimMemory;
  private readonly device: BlockDevice;
  private readonly cutter: Prng | null;
  private readonly owner: number;
  private readonly active: Map<number, Active> = new Map();
  /** Requests without a slot yet. */
  private readonly waiting: Active[] = [];

  constructor(options: SimClientOptions) {
    this.reactor = options.reactor;
    this.memory = options.memory;
    this.device = options.device;
    this.cutter = options.cutter ?? null;
    this.owner = this.reactor.requests.addOwner({
      requestCompleted: (slot, result) => this.completed(slot, result),
    });
  }

  /** Requests that have not completed. */
  get inflightCount(): number {
    return this.active.size + this.waiting.length;
  }

  write(
    offsetBytes: number,
    data: Uint8Array,
    done: RequestDone | null = null,
    isDurable = false,
  ): ClientRequest {
    const flags = isDurable ? FLAG_DURABLE : 0;
    return this.start(OP_WRITE, offsetBytes, data.length, flags, done, data.slice());
  }

  read(offsetBytes: number, bytes: number, done: RequestDone | null = null): ClientRequest {
    return this.start(OP_READ, offsetBytes, bytes, 0, done);
  }

  discard(offsetBytes: number, bytes: number, done: RequestDone | null = null): ClientRequest {
    return this.start(OP_DISCARD, offsetBytes, bytes, 0, done);
  }

  writeZeroes(
    offsetBytes: number,
    bytes: number,
    done: RequestDone | null = null,
    mayUnmap = false,
  ): ClientRequest {
    return this.start(OP_WRITE_ZEROES, offsetBytes, bytes, mayUnmap ? FLAG_UNMAP : 0, done);
  }

  flush(done: RequestDone | null = null): ClientRequest {
    return this.start(OP_FLUSH, 0, 0, 0, done);
  }

  private start(
    op: number,
    offsetBytes: number,
    lengthBytes: number,
    flags: number,
    done: RequestDone | null,
    data: Uint8Array = NOTHING,
  ): ClientRequest {
    const request = { op, offsetBytes, lengthBytes, result: null, data };
    this.waiting.push({ request, flags, done, arena: null, segments: [] });
    this.submitWaiting();
    return request;
  }

  private submitWaiting(): void {
    const { requests } = this.reactor;
    while (this.waiting.length > 0) {
      const slot = requests.acquire(this.owner);
      if (slot < 0) return;
      const one = this.waiting.shift() as Active;
      const { request } = one;
      this.active.set(slot, one);
      requests.op[slot] = request.op;
      requests.flags[slot] = one.flags;
      requests.offsetBytes[slot] = request.offsetBytes;
      requests.startedUs[slot] = this.reactor.loopTimeUs;
      if (request.op === OP_READ || request.op === OP_WRITE) this.attachBuffer(slot, one);
      else requests.lengthBytes[slot] = request.lengthBytes;
      this.device.submit(slot);
    }
  }

  private attachBuffer(slot: number, one: Active): void {
    const { request } = one;
    one.segments = this.cut(request.lengthBytes);
    const [lastAt, lastBytes] = one.segments[one.segments.length - 1];
    const arena = this.memory.foreign(lastAt + lastBytes);
    one.arena = arena;
    let done = 0;
    for (const [at, bytes] of one.segments) {
      if (request.op === OP_WRITE) arena.u8.set(request.data.subarray(done, done + bytes), at);
      const isAdded = this.reactor.requests.addSegment(slot, arena.address + at, bytes);
      assert(isAdded, "too many segments");
      done += bytes;
    }
  }

  private cut(bytes: number): (readonly [number, number])[] {
    const prng = this.cutter;
    if (prng === null || prng.chance(0.3)) return [[0, bytes]];
    const segments: [number, number][] = [];
    let at = prng.below(GAP_BYTES_MAX);
    for (let left = bytes; left > 0; ) {
      const length = segments.length === SEGMENTS_MAX - 1 ? left : prng.between(1, left);
      segments.push([at, length]);
      at += length + prng.between(1, GAP_BYTES_MAX);
      left -= length;
    }
    return segments;
  }

  private completed(slot: number, result: number): void {
    const one = this.active.get(slot);
    assert(one !== undefined, "a completion of no request of this client");
    this.active.delete(slot);
    const { request, arena } = one;
    if (request.op === OP_READ && arena !== null) {
      const data = new Uint8Array(request.lengthBytes);
      let done = 0;
      for (const [at, bytes] of one.segments) {
        data.set(arena.u8.subarray(at, at + bytes), done);
        done += bytes;
      }
      request.data = data;
    }
    if (arena !== null) this.memory.free(arena);
    request.result = result;
    this.reactor.requests.release(slot);
    one.done?.(request);
    this.submitWaiting();
  }
}
