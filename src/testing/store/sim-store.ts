// A store in the simulator: formatting a simulated medium, opening the engine on it, volumes with a
// checked client, and the ends a store can come to: a clean stop, a crash of the process, a power cut.

import { Prng } from "../../base/index.ts";
import {
  type BlockIo,
  type FormatOptions,
  formatDisk,
  Store,
  type StoreError,
  type StoreOptions,
  type StoreVolume,
} from "../../chunk/index.ts";
import {
  CheckedClient,
  type ClientRequest,
  type ModelVolume,
  SimClient,
  SimDisk,
  type SimDiskOptions,
  type SimMedia,
  SimMemory,
  SimReactor,
  SimScheduler,
} from "../sim/index.ts";

export const VOLUME_UUID = "11111111-2222-3333-4444-555555555555";
/** Small, so that a few dozen writes go round the ring and the log. */
export const SMALL_FORMAT: FormatOptions = {
  uuid: Uint8Array.from({ length: 16 }, (_, index) => index + 1),
  label: "simulated",
  durability: "volatile",
  journalId: 0x5eed,
  createdAtMs: 1_700_000_000_000,
  ringBytes: 196608 * 2,
  logBytes: 65536,
  groupBytesMax: 69632,
  extentCount: 4,
  volumePageCount: 1,
};
export const SMALL_OPTIONS: StoreOptions = {
  pageCacheCount: 16,
  operationCount: 64,
  bufferCount: 8,
  freshBlocksMin: 1,
};
const MEMORY_BYTES = 24 * 1048576;

/** Blocking calls on a simulated medium, as a formatting tool would make them. */
export function mediaIo(media: SimMedia, memory: SimMemory): BlockIo {
  return {
    capacityBytes: media.capacityBytes,
    read(offsetBytes, address, bytes) {
      memory.store(address, bytes, media.read(offsetBytes, bytes), 0);
      return bytes;
    },
    write(offsetBytes, address, bytes) {
      media.write(offsetBytes, memory.window(address, bytes));
      return bytes;
    },
    sync: () => 0,
  };
}

export function formatMedia(media: SimMedia, options: Partial<FormatOptions> = {}): void {
  const memory = new SimMemory(4 * 1048576);
  const format = { ...SMALL_FORMAT, ...options };
  formatDisk(mediaIo(media, memory), memory, format, () => undefined, false);
}

export interface SimStoreOptions {
  readonly media: SimMedia;
  readonly seed: number;
  readonly store?: StoreOptions;
  readonly disk?: Partial<SimDiskOptions>;
  readonly memory?: SimMemory;
  /** The reactor of another store of this process; its scheduler and memory are shared as well. */
  readonly beside?: SimStore;
}

export class SimStore {
  readonly scheduler: SimScheduler;
  readonly memory: SimMemory;
  readonly media: SimMedia;
  readonly disk: SimDisk;
  readonly reactor: SimReactor;
  readonly store: Store;
  readonly prng: Prng;
  /** The one opened last, for client(). */
  volume: StoreVolume | null = null;
  private readonly opened: StoreVolume[] = [];

  constructor(options: SimStoreOptions) {
    this.media = options.media;
    const { beside } = options;
    this.scheduler = beside?.scheduler ?? new SimScheduler(options.seed);
    this.prng = new Prng(options.seed ^ 0x5bd1e995);
    this.memory = beside?.memory ?? options.memory ?? new SimMemory(MEMORY_BYTES);
    const { scheduler, memory, media } = this;
    this.disk = new SimDisk({ ...options.disk, media, memory, scheduler });
    this.reactor = beside?.reactor ?? new SimReactor({ scheduler, memory });
    const store = { ...SMALL_OPTIONS, ...options.store };
    this.store = new Store(store, { disk: this.disk, reactor: this.reactor });
    this.disk.setHandler(this.store);
  }

  /** Runs what has a `done` until it is done. */
  private await<T>(start: (done: (value: T) => void) => void, what: string): T {
    let answer: { readonly value: T } | null = null;
    start((value) => {
      answer = { value };
    });
    this.scheduler.runUntil(() => answer !== null, what);
    return (answer as unknown as { readonly value: T }).value;
  }

  open(): StoreError | null {
    return this.await<StoreError | null>((done) => this.store.open(done), "the store to open");
  }

  createVolume(sizeBytes: number, uuid: string = VOLUME_UUID, isReplica = false): void {
    const error = this.await<StoreError | null>(
      (done) => this.store.createVolume({ uuid, sizeBytes, isReplica }, done),
      "a volume",
    );
    if (error !== null) throw error;
  }

  openVolume(uuid: string = VOLUME_UUID): StoreVolume {
    this.volume = this.store.openVolume(uuid, { readOnly: false, serial: "sim" });
    this.opened.push(this.volume);
    return this.volume;
  }

  closeVolumes(): void {
    for (const volume of this.opened.splice(0)) if (volume.isOpen) volume.close();
  }

  deleteVolume(uuid: string = VOLUME_UUID): StoreError | null {
    return this.await((done) => this.store.deleteVolume(uuid, done), "the volume's end");
  }

  /** `done` hears of every completion after the model. */
  client(model: ModelVolume, cut = false, done?: () => void): CheckedClient {
    const device = this.volume ?? this.openVolume();
    const { reactor, memory } = this;
    const cutter = cut ? this.scheduler.fork() : undefined;
    const client = new SimClient({ reactor, memory, device, ...(cutter ? { cutter } : {}) });
    return new CheckedClient({ client, model, ...(done ? { done } : {}) });
  }

  // Requests without a model: 0, or a negated errno.

  private one(device: StoreVolume, start: (client: SimClient) => ClientRequest): ClientRequest {
    const { reactor, memory } = this;
    const request = start(new SimClient({ reactor, memory, device }));
    this.scheduler.runUntil(() => request.result !== null, "a request");
    return request;
  }

  plainRead(device: StoreVolume, offsetBytes: number, bytes: number): number {
    return this.one(device, (client) => client.read(offsetBytes, bytes)).result as number;
  }

  readBytes(device: StoreVolume, offsetBytes: number, bytes: number): Uint8Array {
    return this.one(device, (client) => client.read(offsetBytes, bytes)).data;
  }

  plainWrite(offsetBytes: number, data: Uint8Array): number {
    return this.plainWriteTo(this.volume ?? this.openVolume(), offsetBytes, data);
  }

  plainWriteTo(device: StoreVolume, offsetBytes: number, data: Uint8Array): number {
    return this.one(device, (client) => client.write(offsetBytes, data)).result as number;
  }

  plainDiscard(device: StoreVolume, offsetBytes: number, bytes: number): number {
    return this.one(device, (client) => client.discard(offsetBytes, bytes)).result as number;
  }

  /** A clean stop. */
  close(): void {
    this.closeVolumes();
    this.await<null>((done) => this.store.close(() => done(null)), "the store to close");
    this.reactor.stop();
    this.disk.close();
  }

  /** Lets pass what is on its way; timers of the reactor do not count. */
  settle(): void {
    this.scheduler.runUntilQuiet();
  }
}
