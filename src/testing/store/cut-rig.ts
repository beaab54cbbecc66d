// A store on a real file, in this thread: the real reactor, the real disk behind a CutDisk, one
// volume, and a client whose every request the model knows. One per life of the store; how it ends
// is the caller's choice, end() cleans up after any.

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
import {
  type BlockIo,
  type FormatOptions,
  formatDisk,
  Store,
  type StoreError,
  type StoreOptions,
  type StoreVolume,
} from "../../chunk/index.ts";
import type { Arena } from "../../ports/index.ts";
import { Reactor } from "../../reactor/index.ts";
import * as sys from "../../sys/index.ts";
import { createDisk, type OwnedDisk } from "../../uring/index.ts";
import { measureBacking } from "../../uring/measure.ts";
import type { ModelVolume } from "../sim/index.ts";
import { type CutCounts, CutDisk } from "./cut-disk.ts";
import type { ProgramClient } from "./program.ts";
import { VOLUME_UUID } from "./sim-store.ts";

const SLOTS = 64;
/** More than the longest request of a program. */
const BUFFER_BYTES = 262144;

/** Gives back at its end what a store that was abandoned never will. */
export class LifeMemory extends sys.SystemMemory {
  // Not a field with an initialiser: the parent allocates in its constructor.
  private arenas?: Set<Arena>;

  override allocate(bytes: number): Arena {
    const arena = super.allocate(bytes);
    this.arenas ??= new Set();
    this.arenas.add(arena);
    return arena;
  }

  override free(arena: Arena): void {
    this.arenas?.delete(arena);
    super.free(arena);
  }

  freeAll(): void {
    for (const arena of [...(this.arenas ?? [])]) this.free(arena);
  }
}

export function openFile(path: string): number {
  const direct = sys.open(path, sys.O_RDWR | sys.O_DIRECT);
  return direct >= 0 ? direct : sys.check(sys.open(path, sys.O_RDWR), "open", path);
}

export function fileIo(fd: number, capacityBytes: number): BlockIo {
  return {
    capacityBytes,
    read: (offsetBytes, address, bytes) => sys.pread(fd, address, bytes, offsetBytes),
    write: (offsetBytes, address, bytes) => sys.pwrite(fd, address, bytes, offsetBytes),
    sync: () => sys.fdatasync(fd),
  };
}

export function formatFile(path: string, capacityBytes: number, format: FormatOptions): void {
  const memory = new LifeMemory();
  const fd = openFile(path);
  formatDisk(fileIo(fd, capacityBytes), memory, format, () => undefined, false);
  sys.close(fd);
  memory.freeAll();
}

export interface CutRigOptions {
  readonly path: string;
  readonly sizeBytes: number;
  readonly store: StoreOptions;
  readonly model: ModelVolume;
}

export class CutRig implements ProgramClient {
  readonly disk: CutDisk;
  readonly store: Store;
  inflightCount = 0;
  private readonly model: ModelVolume;
  private readonly memory: LifeMemory = new LifeMemory();
  private readonly reactor: Reactor;
  private readonly inner: OwnedDisk;
  private readonly fd: number;
  private readonly buffers: Arena;
  private readonly owner: number;
  private readonly ends: (((result: number) => void) | null)[] = new Array(SLOTS).fill(null);
  private volume: StoreVolume | null = null;

  constructor(options: CutRigOptions) {
    const { path, sizeBytes, model } = options;
    const { memory } = this;
    this.model = model;
    const log = { log: (): undefined => undefined };
    const limits = { requestSlots: SLOTS, ringEntries: 512, watchesMax: 16, timersMax: 16 };
    const modules = { memory, clock: new sys.SystemClock(), log };
    this.reactor = new Reactor({ ...limits, pollMaxUs: 0 }, modules);
    this.fd = openFile(path);
    const backing = { path, direct: "auto", readOnly: false, sizeBytes, blockBytes: 4096 } as const;
    const geometry = { ...measureBacking(this.fd, backing), fd: this.fd, capacityBytes: sizeBytes };
    const { ring } = this.reactor;
    this.inner = createDisk(geometry, { ring, scheduler: this.reactor, requestSlots: 1024 });
    const onCut = (): void => this.reactor.stop();
    this.disk = new CutDisk({ inner: this.inner, fd: this.fd, memory, onCut });
    this.store = new Store(options.store, { disk: this.disk, reactor: this.reactor });
    this.disk.setHandler(this.store);
    this.buffers = memory.allocate(SLOTS * BUFFER_BYTES);
    this.owner = this.reactor.requests.addOwner({
      requestCompleted: (slot, result) => this.completed(slot, result),
    });
  }

  /** Runs what has a `done` until it is done; null when the power was cut before. */
  private await<T>(start: (done: (value: T) => void) => void): { readonly value: T } | null {
    const answers: T[] = [];
    start((value) => {
      answers.push(value);
      this.reactor.stop();
    });
    this.runUntil(() => answers.length > 0);
    return answers.length > 0 && !this.disk.isCut ? { value: answers[0] as T } : null;
  }

  /** False when the power was cut before. */
  open(): boolean {
    const answer = this.await<StoreError | null>((done) => this.store.open(done));
    if (answer === null) return false;
    if (answer.value !== null) throw answer.value;
    return true;
  }

  createVolume(sizeBytes: number): void {
    const answer = this.await<StoreError | null>((done) =>
      this.store.createVolume({ uuid: VOLUME_UUID, sizeBytes }, done),
    );
    if (answer?.value !== null) throw answer?.value ?? new Error("cut while a volume was made");
  }

  openVolume(): void {
    this.volume = this.store.openVolume(VOLUME_UUID, { readOnly: false, serial: "cut" });
  }

  /** Every request's end stops the loop, so that conditions are looked at. */
  runUntil(condition: () => boolean): void {
    while (!condition() && !this.disk.isCut) this.reactor.run();
  }

  /** Lets the store be idle: long enough, and it marks what is in place. */
  pause(delayMs: number): void {
    this.await<null>((done) => {
      this.reactor.setTimer(delayMs, { timerFired: () => done(null) }, 0);
    });
  }

  // --- the client -------------------------------------------------------------------------------

  private submit(
    op: number,
    offsetBytes: number,
    bytes: number,
    flags: number,
    fill: Uint8Array | null,
    end: (result: number, data: Uint8Array) => void,
  ): void {
    if (this.disk.isCut) return;
    const { requests } = this.reactor;
    const slot = requests.acquire(this.owner);
    assert(slot >= 0 && bytes <= BUFFER_BYTES, "more than this client can have on its way");
    requests.op[slot] = op;
    requests.flags[slot] = flags;
    requests.offsetBytes[slot] = offsetBytes;
    requests.startedUs[slot] = this.reactor.clock.nowUs();
    const at = slot * BUFFER_BYTES;
    if (fill !== null) this.buffers.u8.set(fill, at);
    if (op === OP_READ || op === OP_WRITE) {
      requests.addSegment(slot, this.buffers.address + at, bytes);
    } else {
      requests.lengthBytes[slot] = bytes;
    }
    this.ends[slot] = (result) => end(result, this.buffers.u8.slice(at, at + bytes));
    this.inflightCount += 1;
    (this.volume as StoreVolume).submit(slot);
  }

  private completed(slot: number, result: number): void {
    this.reactor.stop();
    // Nobody hears an answer behind the cut.
    if (this.disk.isCut) return;
    const end = this.ends[slot];
    this.reactor.requests.release(slot);
    this.inflightCount -= 1;
    end?.(result);
  }

  write(offsetBytes: number, bytes: number, isDurable = false): void {
    const { id, data } = this.model.startWrite(offsetBytes, bytes);
    const flags = isDurable ? FLAG_DURABLE : 0;
    this.submit(OP_WRITE, offsetBytes, bytes, flags, data, (result) => {
      this.model.endWrite(id, result);
    });
  }

  writeZeroData(offsetBytes: number, bytes: number): void {
    const id = this.model.startWriteZeroes(offsetBytes, bytes);
    this.submit(OP_WRITE, offsetBytes, bytes, 0, new Uint8Array(bytes), (result) => {
      this.model.endWrite(id, result);
    });
  }

  writeZeroes(offsetBytes: number, bytes: number, mayUnmap = false): void {
    const id = this.model.startWriteZeroes(offsetBytes, bytes);
    const flags = mayUnmap ? FLAG_UNMAP : 0;
    this.submit(OP_WRITE_ZEROES, offsetBytes, bytes, flags, null, (result) => {
      this.model.endWrite(id, result);
    });
  }

  discard(offsetBytes: number, bytes: number): void {
    const id = this.model.startDiscard(offsetBytes, bytes);
    this.submit(OP_DISCARD, offsetBytes, bytes, 0, null, (result) => {
      this.model.endWrite(id, result);
    });
  }

  read(offsetBytes: number, bytes: number): void {
    const id = this.model.startRead(offsetBytes, bytes);
    this.submit(OP_READ, offsetBytes, bytes, 0, null, (result, data) => {
      assert(result >= 0, `a read failed: ${result}`);
      this.model.endRead(id, result, data);
    });
  }

  flush(): void {
    this.submit(OP_FLUSH, 0, 0, 0, null, () => undefined);
  }

  /** Reads the whole volume, a piece at a time; the model judges. */
  verify(sizeBytes: number): void {
    for (let at = 0; at < sizeBytes && !this.disk.isCut; at += BUFFER_BYTES) {
      this.read(at, Math.min(BUFFER_BYTES, sizeBytes - at));
      this.runUntil(() => this.inflightCount === 0);
    }
  }

  // --- ends -------------------------------------------------------------------------------------

  /** The power is gone, now or before; returns what that did to the file. */
  cut(prng: Prng): CutCounts {
    this.disk.cut();
    this.settle();
    return this.disk.restore(prng);
  }

  /** A clean stop. */
  close(): void {
    this.volume?.close();
    this.volume = null;
    this.await<null>((done) => this.store.close(() => done(null)));
  }

  /** Waits for the kernel, which goes on whatever became of us. */
  private settle(): void {
    while (this.inner.inflightCount > 0) this.reactor.run();
  }

  end(): void {
    this.disk.cut();
    this.settle();
    this.inner.detach();
    this.reactor.close();
    sys.close(this.fd);
    this.memory.freeAll();
  }
}
