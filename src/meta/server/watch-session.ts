// One watch stream of the embedded server: the watches that a client has put on it.
//
// Changes are told when they are on the disk, all of one revision together, each watch in order and
// without gaps. A client that does not read is cut off: it comes back and follows from where it
// was, or lists again. What is buffered for one stream is bounded by that.

import type { ServerDuplexStream } from "@grpc/grpc-js";
import {
  EVENT_DELETE,
  EVENT_PUT,
  type Event,
  type Header,
  type WatchCreateRequest,
  type WatchRequest,
  type WatchResponse,
} from "../etcd-messages.ts";
import { keyValueOf, rangeOf } from "./engine.ts";
import type { Mvcc, Version } from "./mvcc.ts";

/** On all streams together. */
const WATCHES_MAX = 20_000;
const BUFFERED_MAX_BYTES = 16 * 1024 * 1024;
/** Changes that one message brings, and their bytes; a revision is never cut without saying so. */
const MESSAGE_MAX_BYTES = 1024 * 1024;

export type WatchStream = ServerDuplexStream<WatchRequest, Partial<WatchResponse>>;

interface Watch {
  readonly id: bigint;
  readonly from: string;
  readonly to: string | null;
  readonly prevKv: boolean;
  readonly mayFragment: boolean;
  nextRevision: number;
}

export interface WatchHost {
  readonly mvcc: Mvcc;
  /** The newest revision that is on the disk. */
  readonly durableRevision: number;
  durableHeader(): Header;
  /** Watches on all streams. */
  watchCount: number;
}

export class WatchSession {
  readonly #stream: WatchStream;
  readonly #host: WatchHost;
  readonly #watches = new Map<bigint, Watch>();
  #lastId = 0n;
  #bufferedBytes = 0;

  constructor(stream: WatchStream, host: WatchHost) {
    this.#stream = stream;
    this.#host = host;
  }

  received(request: WatchRequest): void {
    if (request.create !== null) this.#create(request.create);
    if (request.cancel !== null) this.#cancel(request.cancel.watchId, "", 0);
  }

  ended(): void {
    this.#host.watchCount -= this.#watches.size;
    this.#watches.clear();
  }

  /** Revisions up to `durableRevision` are on the disk; `fresh` are the changes since the last. */
  publish(fresh: readonly Version[], durableRevision: number): void {
    for (const watch of this.#watches.values()) {
      this.#tell(watch, fresh, durableRevision);
    }
  }

  #create(request: WatchCreateRequest): void {
    const { startRevision, watchId } = request;
    while (this.#watches.has(this.#lastId)) this.#lastId++;
    const id = watchId === 0n ? this.#lastId++ : watchId;
    const cancelReason = this.#refusal(request, id);
    if (cancelReason !== null) {
      this.#send({ watchId: id, created: true, canceled: true, cancelReason });
      return;
    }
    const { durableRevision } = this.#host;
    const watch: Watch = {
      id,
      ...rangeOf(request),
      prevKv: request.prevKv,
      mayFragment: request.fragment,
      nextRevision: startRevision > 0 ? startRevision : durableRevision + 1,
    };
    this.#watches.set(id, watch);
    this.#host.watchCount++;
    this.#send({ watchId: id, created: true });
    const { mvcc } = this.#host;
    if (watch.nextRevision < mvcc.compactRevision) {
      this.#cancel(id, "", mvcc.compactRevision);
    } else if (watch.nextRevision <= durableRevision) {
      this.#tell(watch, mvcc.since(watch.nextRevision), durableRevision);
    }
  }

  #refusal({ key }: WatchCreateRequest, id: bigint): string | null {
    if (key.length === 0) return "etcdserver: key is not provided";
    if (this.#watches.has(id)) return "etcdserver: the watch id is in use";
    return this.#host.watchCount < WATCHES_MAX ? null : "etcdserver: too many watches";
  }

  #cancel(id: bigint, cancelReason: string, compactRevision: number): void {
    if (!this.#watches.delete(id)) return;
    this.#host.watchCount--;
    this.#send({ watchId: id, canceled: true, cancelReason, compactRevision });
  }

  #tell(watch: Watch, changes: readonly Version[], durableRevision: number): void {
    let events: Event[] = [];
    let sizeBytes = 0;
    let revision = 0;
    for (const version of changes) {
      const { key, modRevision } = version;
      if (modRevision < watch.nextRevision || modRevision > durableRevision) continue;
      if (key < watch.from || (watch.to !== null && key >= watch.to)) continue;
      if (sizeBytes > MESSAGE_MAX_BYTES && (watch.mayFragment || modRevision !== revision)) {
        this.#send({ watchId: watch.id, fragment: modRevision === revision, events });
        events = [];
        sizeBytes = 0;
      }
      revision = modRevision;
      events.push(this.#eventOf(version, watch.prevKv));
      sizeBytes += key.length + (version.value?.length ?? 0);
    }
    if (events.length > 0) this.#send({ watchId: watch.id, events });
    watch.nextRevision = Math.max(watch.nextRevision, durableRevision + 1);
  }

  #eventOf(version: Version, wantsPrevious: boolean): Event {
    const before = wantsPrevious ? this.#host.mvcc.before(version) : null;
    return {
      type: version.value === null ? EVENT_DELETE : EVENT_PUT,
      kv: keyValueOf(version),
      prevKv: before === null ? null : keyValueOf(before),
    };
  }

  #send(response: Partial<WatchResponse>): void {
    let sizeBytes = 64;
    for (const { kv } of response.events ?? []) sizeBytes += (kv?.value.length ?? 0) + 64;
    this.#bufferedBytes += sizeBytes;
    if (this.#bufferedBytes > BUFFERED_MAX_BYTES) {
      this.#stream.destroy(new Error("the client does not read its watches"));
      return;
    }
    this.#stream.write({ header: this.#host.durableHeader(), ...response }, () => {
      this.#bufferedBytes -= sizeBytes;
    });
  }
}
