// What the local devices of one reactor share: bounce buffers, a stretch of zeroes, and the
// progress of requests that take more than one operation. A slot of the request table belongs to
// one device at a time, so one set of arrays serves them all and a further volume costs little.

import { type RequestTable, SegmentCopier } from "../base/index.ts";
import type { Memory } from "../ports/index.ts";
import { BouncePool } from "./bounce-pool.ts";

/** 4 MiB in all, resident only once used. */
const BOUNCE_BUFFER_COUNT_DEFAULT = 16;
/** Copying costs what it costs; beyond this size a larger piece saves nothing more. */
const BOUNCE_BUFFER_BYTES_DEFAULT = 262144;

export interface WorkspaceOptions {
  readonly bounceBufferCount?: number;
  readonly bounceBufferBytes?: number;
}

export class Workspace {
  readonly requests: RequestTable;
  readonly memory: Memory;
  readonly bounce: BouncePool;
  readonly copier: SegmentCopier;
  /** Bytes of the request that are done. */
  readonly progressBytes: Float64Array;
  /** Bytes of the operation in flight. */
  readonly pieceBytes: Float64Array;
  /** Transient errors since the last progress. */
  readonly retries: Uint8Array;
  /** The bounce buffer the slot owns, or -1. */
  readonly buffer: Int16Array;

  constructor(
    options: WorkspaceOptions,
    modules: { readonly requests: RequestTable; readonly memory: Memory },
  ) {
    const { requests, memory } = modules;
    const bufferCount = options.bounceBufferCount ?? BOUNCE_BUFFER_COUNT_DEFAULT;
    const bufferBytes = options.bounceBufferBytes ?? BOUNCE_BUFFER_BYTES_DEFAULT;
    this.requests = requests;
    this.memory = memory;
    this.bounce = new BouncePool({ bufferCount, bufferBytes }, requests, memory);
    this.copier = new SegmentCopier(requests, memory);
    this.progressBytes = new Float64Array(requests.capacity);
    this.pieceBytes = new Float64Array(requests.capacity);
    this.retries = new Uint8Array(requests.capacity);
    this.buffer = new Int16Array(requests.capacity).fill(-1);
  }
}
