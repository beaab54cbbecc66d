// A guest that does nothing until it is told to: a session with its rings set up and running, one
// request at a time. For what a load would only disturb: idle volumes, and what one write leaves
// behind. It can lose its back-end and go on with the next, as QEMU does.

import { setTimeout as sleep } from "node:timers/promises";
import {
  type BlkQueue,
  BlkSession,
  type InflightRegion,
  LoadError,
  LoadRig,
  resolveOptions,
  type SessionOptions,
} from "../../load/index.ts";
import * as sys from "../../sys/index.ts";
import { BLK_CONFIG, BLK_S_OK, BLK_T_FLUSH, BLK_T_IN, BLK_T_OUT } from "../../virtio/index.ts";

const REQUEST_TIMEOUT_MS = 20_000;
const RECONNECT_TIMEOUT_MS = 60_000;
const QUEUE_SIZE = 128;

export interface QuietGuestOptions {
  readonly queueCount?: number;
  readonly packed?: boolean;
  /** Bytes of a request. Default 4096. */
  readonly blockBytes?: number;
  /** Device feature bits not to accept although offered. */
  readonly refuseFeatures?: readonly number[];
}

export class QuietGuest {
  private readonly sessionOptions: SessionOptions;
  private readonly rig: LoadRig;
  private readonly region: InflightRegion;
  private session: BlkSession;

  private constructor(socketPath: string, options: QuietGuestOptions) {
    const { queueCount = 1, packed = false, blockBytes = 4096, refuseFeatures = [] } = options;
    this.sessionOptions = {
      socketPath,
      queueCount,
      packed,
      indirect: true,
      eventIndex: true,
      inflight: true,
      refuseFeatures,
    };
    this.session = BlkSession.open(this.sessionOptions);
    const load = { socketPath, queueCount, packed, blockBytes, depth: 1, queueSize: QUEUE_SIZE };
    this.rig = new LoadRig(resolveOptions(load), blockBytes, false);
    this.region = this.session.inflightRegion(QUEUE_SIZE);
  }

  /** Connects and starts the rings. */
  static connect(socketPath: string, options: QuietGuestOptions = {}): QuietGuest {
    const guest = new QuietGuest(socketPath, options);
    guest.start(false);
    return guest;
  }

  private start(afterLoss: boolean): void {
    const options = { afterLoss, inflight: this.region };
    this.session.start(this.rig.memory, this.rig.rings(), options);
  }

  /** The back-end has died: takes the next one that listens, with the same memory and region. */
  async reconnect(): Promise<void> {
    this.session.close();
    const deadline = Date.now() + RECONNECT_TIMEOUT_MS;
    for (;;) {
      try {
        this.session = BlkSession.open(this.sessionOptions);
        this.start(true);
        return;
      } catch (error) {
        this.session.close();
        if (!(error instanceof LoadError) || Date.now() > deadline) throw error;
      }
      await sleep(5);
    }
  }

  get capacityBytes(): number {
    return this.session.config.capacityBytes;
  }

  /** The write cache as the configuration space has it now. */
  get writeback(): boolean {
    return this.session.readConfig().writeback === 1;
  }

  /** What `echo "write through" > /sys/block/vda/cache_type` does in a guest. */
  setWriteback(on: boolean): void {
    this.session.frontEnd.setConfig(BLK_CONFIG.writeback, Uint8Array.of(on ? 1 : 0));
  }

  /** Reads a block into this guest's buffer; returns its bytes. */
  async read(offsetBytes: number, queueIndex = 0): Promise<Uint8Array> {
    const queue = this.queue(queueIndex);
    await this.request(queue, BLK_T_IN, offsetBytes, queue.dataBytes);
    return this.rig.memory.read(queue.dataGpa[0] as number, queue.dataBytes);
  }

  async write(offsetBytes: number, fillByte: number, queueIndex = 0): Promise<void> {
    const queue = this.queue(queueIndex);
    const data = new Uint8Array(queue.dataBytes).fill(fillByte);
    this.rig.memory.write(queue.dataGpa[0] as number, data);
    await this.request(queue, BLK_T_OUT, offsetBytes, queue.dataBytes);
  }

  async flush(): Promise<void> {
    await this.request(this.queue(0), BLK_T_FLUSH, 0, 0);
  }

  /** Hands a read to the device and does not wait for it: for guests that go away. */
  beginRead(offsetBytes: number): void {
    const queue = this.queue(0);
    queue.submit(0, BLK_T_IN, offsetBytes / 512, queue.dataBytes, true);
    queue.publish();
  }

  /** Stops the rings as a guest's driver does when it is unloaded. */
  stop(): void {
    this.session.stop();
  }

  private queue(index: number): BlkQueue {
    const queue = this.rig.queues[index];
    if (queue === undefined) throw new Error(`this guest has no queue ${index}`);
    return queue;
  }

  private async request(queue: BlkQueue, type: number, offset: number, bytes: number) {
    queue.submit(0, type, offset / 512, bytes, type === BLK_T_IN);
    queue.publish();
    const deadline = Date.now() + REQUEST_TIMEOUT_MS;
    while (queue.pending() === 0) {
      if (Date.now() > deadline) throw new Error(`no answer in ${REQUEST_TIMEOUT_MS} ms`);
      await sleep(1);
    }
    queue.takeCompleted();
    if (queue.status !== BLK_S_OK) throw new Error(`request failed with status ${queue.status}`);
  }

  close(): void {
    this.session.close();
    sys.close(this.region.fd);
    this.rig.close();
  }
}
