// All watches of a client over one stream: a daemon watches its thousand volumes over one.
//
// A watcher first lists its prefix, then follows from the revision behind that list. It remembers
// the revision behind the last change it delivered whole, and the tail of what it delivered: the
// last revision that put something, and all behind it. When the stream is cut, the next one begins
// with that tail and must repeat it. Where it cannot, the history is forgotten (compaction) or is
// another one, and it lists again.
//
//                 list         create          events
//   (new) ──────► listing ───► following ◄──────────┐
//                    ▲            │  └──────────────┘
//                    └────────────┘ compacted, cancelled, put back
//
// Invariant: a store that was put back from a backup is noticed, also when its revision has passed
// what was told meanwhile: what it puts (records with a changeId, leases) is never the same twice.
//
// A large revision arrives in fragments; they are held back until it is whole.

import type { ClientDuplexStream } from "@grpc/grpc-js";
import type { MetaChange, MetaList, MetaWatch, MetaWatchHandler } from "../ports/meta-store.ts";
import { keyBytes, keyText, prefixEnd } from "./bytes.ts";
import { MetaError } from "./errors.ts";
import { entryOf } from "./etcd-client.ts";
import type { EtcdConnection } from "./etcd-connection.ts";
import {
  EVENT_DELETE,
  type Event,
  type WatchRequest,
  type WatchResponse,
} from "./etcd-messages.ts";
import { WATCH } from "./etcd-services.ts";

const PAUSE_FIRST_MS = 100;
const PAUSE_MAX_MS = 2000;
/** Behind the last that puts something; more of them are not held: it lists again. */
const TAIL_MAX = 256;
/** One client; the server has its own limit. */
const WATCHERS_MAX = 10_000;

type Stream = ClientDuplexStream<Partial<WatchRequest>, WatchResponse>;

interface Watcher {
  /** On the stream; a new one each time it joins, because the server may remember the old one. */
  watchId: bigint;
  readonly prefix: string;
  readonly handler: MetaWatchHandler;
  /** 0: not listed yet. */
  nextRevision: number;
  /** It has been on a stream since its list. */
  hasJoined: boolean;
  /** What the next stream has to begin with; null: nothing was delivered since the last list. */
  tail: readonly MetaChange[] | null;
  /** So much of the tail has come again on this stream. */
  repeatedCount: number;
  fragments: Event[];
  isClosed: boolean;
}

export class WatchHub {
  readonly #connection: EtcdConnection;
  readonly #list: (prefix: string) => Promise<MetaList>;
  readonly #watchers = new Set<Watcher>();
  readonly #joined = new Map<bigint, Watcher>();
  #lastId = 0n;
  #stream: Stream | null = null;
  #isOpening = false;
  #pauseMs = PAUSE_FIRST_MS;
  #isClosed = false;

  constructor(connection: EtcdConnection, list: (prefix: string) => Promise<MetaList>) {
    this.#connection = connection;
    this.#list = list;
  }

  watch(prefix: string, handler: MetaWatchHandler): MetaWatch {
    if (this.#watchers.size >= WATCHERS_MAX) {
      throw new MetaError("limit", `${WATCHERS_MAX} watches are the most that one client holds.`);
    }
    const watcher: Watcher = {
      watchId: 0n,
      prefix,
      handler,
      nextRevision: 0,
      hasJoined: false,
      tail: null,
      repeatedCount: 0,
      fragments: [],
      isClosed: false,
    };
    this.#watchers.add(watcher);
    void this.#listAgain(watcher);
    return { close: () => this.#remove(watcher) };
  }

  close(): void {
    this.#isClosed = true;
    for (const watcher of this.#watchers) watcher.isClosed = true;
    this.#watchers.clear();
    this.#joined.clear();
    this.#stream?.cancel();
    this.#stream = null;
  }

  #remove(watcher: Watcher): void {
    if (watcher.isClosed) return;
    watcher.isClosed = true;
    this.#watchers.delete(watcher);
    if (!this.#joined.delete(watcher.watchId)) return;
    this.#stream?.write({ cancel: { watchId: watcher.watchId } });
  }

  async #listAgain(watcher: Watcher): Promise<void> {
    watcher.nextRevision = 0;
    watcher.hasJoined = false;
    watcher.tail = null;
    watcher.fragments = [];
    for (let pauseMs = PAUSE_FIRST_MS; !watcher.isClosed; ) {
      try {
        const list = await this.#list(watcher.prefix);
        if (watcher.isClosed) return;
        watcher.nextRevision = list.revision + 1;
        watcher.handler.reset(list);
        this.#join(watcher);
        return;
      } catch (error) {
        // Metadata that cannot be reached is not news; anything else is a defect.
        if (!(error instanceof MetaError)) throw error;
        await pause(pauseMs);
        pauseMs = Math.min(pauseMs * 2, PAUSE_MAX_MS);
      }
    }
  }

  #join(watcher: Watcher): void {
    if (this.#stream === null) void this.#open();
    else this.#create(this.#stream, watcher, watcher.nextRevision);
  }

  #create(stream: Stream, watcher: Watcher, startRevision: number): void {
    watcher.watchId = ++this.#lastId;
    watcher.hasJoined = true;
    this.#joined.set(watcher.watchId, watcher);
    stream.write({
      create: {
        key: keyBytes(watcher.prefix),
        rangeEnd: prefixEnd(watcher.prefix),
        startRevision,
        prevKv: false,
        watchId: watcher.watchId,
        fragment: true,
      },
    });
  }

  async #open(): Promise<void> {
    if (this.#isOpening) return;
    this.#isOpening = true;
    try {
      while (!this.#isClosed && this.#watchers.size > 0) {
        try {
          const stream = await this.#connection.openDuplex(WATCH);
          if (this.#isClosed) abandon(stream);
          else this.#begin(stream);
          return;
        } catch (error) {
          if (!(error instanceof MetaError)) throw error;
          await this.#pause();
        }
      }
    } finally {
      this.#isOpening = false;
    }
  }

  #begin(stream: Stream): void {
    this.#stream = stream;
    stream.on("data", (response: WatchResponse) => this.#received(stream, response));
    // Both may come, in either order.
    stream.on("error", () => this.#ended(stream));
    stream.on("end", () => this.#ended(stream));
    this.#joined.clear();
    for (const watcher of this.#watchers) {
      watcher.fragments = [];
      // Another list is under way, and joins by itself.
      if (watcher.nextRevision === 0) continue;
      const first = watcher.tail?.[0];
      if (!watcher.hasJoined) this.#create(stream, watcher, watcher.nextRevision);
      else if (first === undefined) void this.#listAgain(watcher);
      else {
        watcher.repeatedCount = 0;
        this.#create(stream, watcher, revisionOf(first));
      }
    }
  }

  async #ended(stream: Stream): Promise<void> {
    if (this.#stream !== stream) return;
    this.#stream = null;
    stream.cancel();
    if (this.#isClosed) return;
    this.#connection.streamFailed();
    await this.#pause();
    if (this.#stream === null) await this.#open();
  }

  #received(stream: Stream, response: WatchResponse): void {
    if (this.#stream !== stream) return;
    this.#pauseMs = PAUSE_FIRST_MS;
    const watcher = this.#joined.get(response.watchId);
    if (watcher === undefined) return;
    if (response.canceled) {
      void this.#cancelled(watcher, response);
      return;
    }
    const revision = response.header?.revision ?? 0;
    if (response.created && revision > 0 && revision < watcher.nextRevision - 1) {
      this.#putBack(stream, watcher);
      return;
    }
    for (const event of response.events) watcher.fragments.push(event);
    if (response.fragment || watcher.fragments.length === 0) return;
    const changes = watcher.fragments.map(changeOf);
    watcher.fragments = [];
    const fresh = behindTail(watcher, changes);
    if (fresh === null) {
      this.#putBack(stream, watcher);
      return;
    }
    if (fresh.length === 0) return;
    const last = revisionOf(fresh.at(-1)!);
    watcher.nextRevision = last + 1;
    watcher.tail = tailOf(watcher.tail, fresh);
    watcher.repeatedCount = watcher.tail?.length ?? 0;
    watcher.handler.changed(fresh, last);
  }

  /** The store was put back from a backup: what was told is not what is there. */
  #putBack(stream: Stream, watcher: Watcher): void {
    this.#joined.delete(watcher.watchId);
    stream.write({ cancel: { watchId: watcher.watchId } });
    void this.#listAgain(watcher);
  }

  async #cancelled(watcher: Watcher, response: WatchResponse): Promise<void> {
    this.#joined.delete(watcher.watchId);
    watcher.nextRevision = 0;
    // 0: refused for another reason (a limit, permissions, a token that is too old).
    if (response.compactRevision === 0) {
      this.#connection.streamFailed();
      await this.#pause();
    }
    if (!watcher.isClosed) await this.#listAgain(watcher);
  }

  async #pause(): Promise<void> {
    const pauseMs = this.#pauseMs;
    this.#pauseMs = Math.min(pauseMs * 2, PAUSE_MAX_MS);
    await pause(pauseMs);
  }
}

/** Being cancelled is an error to a stream, and one that nobody listens to ends the process. */
function abandon(stream: Stream): void {
  stream.on("error", () => undefined);
  stream.cancel();
}

function changeOf(event: Event): MetaChange {
  const kv = event.kv;
  if (kv === null) throw new MetaError("protocol", "A watch told of a change without a key.");
  if (event.type !== EVENT_DELETE) return { kind: "put", entry: entryOf(kv) };
  return { kind: "delete", key: keyText(kv.key), modRevision: kv.modRevision };
}

/** What has not been delivered; null: what has been did not come again. */
function behindTail(
  watcher: Watcher,
  changes: readonly MetaChange[],
): readonly MetaChange[] | null {
  const tail = watcher.tail ?? [];
  let at = 0;
  for (; at < changes.length && watcher.repeatedCount < tail.length; at++) {
    const expected = tail[watcher.repeatedCount] as MetaChange;
    if (!isSame(expected, changes[at] as MetaChange)) return null;
    watcher.repeatedCount += 1;
  }
  return changes.slice(at);
}

function isSame(a: MetaChange, b: MetaChange): boolean {
  if (revisionOf(a) !== revisionOf(b)) return false;
  if (a.kind === "delete" || b.kind === "delete") {
    return a.kind === "delete" && b.kind === "delete" && a.key === b.key;
  }
  const { key, value, createRevision, leaseId } = a.entry;
  const isSameKey = key === b.entry.key && createRevision === b.entry.createRevision;
  return isSameKey && leaseId === b.entry.leaseId && Buffer.compare(value, b.entry.value) === 0;
}

/** From the first change of the last revision that puts something. */
function tailOf(
  before: readonly MetaChange[] | null,
  fresh: readonly MetaChange[],
): readonly MetaChange[] | null {
  const lastPut = fresh.findLast(({ kind }) => kind === "put");
  if (lastPut !== undefined) {
    return fresh.filter((change) => revisionOf(change) >= revisionOf(lastPut));
  }
  if (before === null || before.length + fresh.length > TAIL_MAX) return null;
  return [...before, ...fresh];
}

function revisionOf(change: MetaChange): number {
  return change.kind === "put" ? change.entry.modRevision : change.modRevision;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
