// The embedded metadata server: etcd's v3 API, as much of it as Ringstore uses, for clusters on one
// machine. A single point of failure, by design and by name; see docs/metadata.md.
//
//   grpc-js ─► services (here) ─► Engine ─► Mvcc, Leases     in memory, in order
//                    ▲                └───► CommitQueue ─► Database   on the disk
//                    └── answers and watches wait for the disk ◄─┘

import { randomBytes } from "node:crypto";
import {
  type Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServiceError,
  type sendUnaryData,
  status,
} from "@grpc/grpc-js";
import type { Log } from "../../ports/log.ts";
import { MetaError } from "../errors.ts";
import type {
  AuthenticateRequest,
  AuthenticateResponse,
  Header,
  LeaseIdRequest,
  LeaseResponse,
  WatchRequest,
} from "../etcd-messages.ts";
import * as services from "../etcd-services.ts";
import { CommitQueue } from "./commit-queue.ts";
import { Database } from "./database.ts";
import { Engine, HISTORY_MAX } from "./engine.ts";
import { EXPIRY_PERIOD_MS, Leases } from "./leases.ts";
import type { Mvcc } from "./mvcc.ts";
import { RpcError, requestTooLarge } from "./rpc-error.ts";
import { type MetaUser, Users } from "./users.ts";
import { type WatchHost, WatchSession, type WatchStream } from "./watch-session.ts";

const REQUEST_MAX_BYTES: number = 1.5 * 1024 * 1024;
/** What etcd allows the transport on top. */
const OVERHEAD_MAX_BYTES = 512 * 1024;
const STREAMS_MAX = 1024;
const CONNECTION_STREAMS_MAX = 1000;
const STOP_PATIENCE_MS = 1000;
const VERSION = "3.4.0-ringstore";

export interface MetaServerOptions {
  readonly directory: string;
  /** `host:port`; port 0 = a free one. */
  readonly listen: string;
  readonly user?: MetaUser;
  readonly tls?: { readonly certificate: Buffer; readonly key: Buffer };
  /** Versions that are remembered for watches. */
  readonly historyMax?: number;
  readonly log: Log;
  /** The disk has failed, or a defect was found: end the process. */
  readonly fatal: (error: unknown) => never;
}

type UnaryCall = { readonly request: never; readonly metadata: Metadata };

export class MetaServer implements WatchHost {
  readonly mvcc: Mvcc;
  durableRevision: number;
  watchCount = 0;
  readonly #options: MetaServerOptions;
  readonly #database: Database;
  readonly #leases: Leases;
  readonly #queue: CommitQueue;
  readonly #engine: Engine;
  readonly #users: Users;
  readonly #server: Server;
  readonly #sessions = new Map<WatchStream, WatchSession>();
  #timer: NodeJS.Timeout | null = null;
  #isPublishing = false;
  #port = 0;

  private constructor(options: MetaServerOptions, database: Database, mvcc: Mvcc, leases: Leases) {
    this.#options = options;
    this.#database = database;
    this.mvcc = mvcc;
    this.durableRevision = mvcc.revision;
    this.#leases = leases;
    this.#queue = new CommitQueue(database, options.fatal);
    const modules = { mvcc, leases, queue: this.#queue };
    this.#engine = new Engine(modules, database, options.historyMax ?? HISTORY_MAX);
    this.#users = new Users(options.user ?? null);
    this.#server = new Server({
      "grpc.max_receive_message_length": REQUEST_MAX_BYTES + OVERHEAD_MAX_BYTES,
      "grpc.max_concurrent_streams": CONNECTION_STREAMS_MAX,
    });
  }

  static async start(options: MetaServerOptions): Promise<MetaServer> {
    const database = await Database.open(options.directory);
    try {
      const { mvcc, leases: stored } = await database.load();
      const nowMs = performance.now();
      const leases = new Leases(nowMs);
      for (const [id, seconds] of stored) leases.restore(id, seconds, nowMs);
      for (const version of mvcc.range("", null, mvcc.revision)) leases.moveKey(null, version);
      const server = new MetaServer(options, database, mvcc, leases);
      await server.#listen();
      return server;
    } catch (error) {
      await database.close();
      throw error;
    }
  }

  /** `host:port` as clients reach it. */
  get address(): string {
    return `${this.#options.listen.replace(/:\d+$/, "")}:${this.#port}`;
  }

  /** Says nothing of what is not on the disk yet. */
  durableHeader(): Header {
    return { ...this.#engine.header(), revision: this.durableRevision };
  }

  async stop(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer);
    for (const stream of this.#sessions.keys()) stream.end();
    await new Promise<void>((resolve) => {
      const impatience = setTimeout(() => {
        this.#server.forceShutdown();
        resolve();
      }, STOP_PATIENCE_MS);
      this.#server.tryShutdown(() => {
        clearTimeout(impatience);
        resolve();
      });
    });
    await this.#queue.durable();
    await this.#database.close();
  }

  async #listen(): Promise<void> {
    this.#addServices();
    const { tls, listen } = this.#options;
    const credentials =
      tls === undefined
        ? ServerCredentials.createInsecure()
        : ServerCredentials.createSsl(null, [
            { cert_chain: tls.certificate, private_key: tls.key },
          ]);
    this.#port = await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync(listen, credentials, (error, port) => {
        if (error === null) resolve(port);
        else reject(new MetaError("database", `Cannot listen on ${listen}: ${error.message}`));
      });
    });
    this.#timer = setInterval(() => this.#expire(), EXPIRY_PERIOD_MS);
  }

  #addServices(): void {
    const engine = this.#engine;
    const handlers: [services.Method<never, never>, unknown][] = [];
    const unary = <Req, Res>(
      method: services.Method<Req, Res>,
      handle: (request: Req) => Res,
    ): void => {
      handlers.push([method as never, this.#unary(handle)]);
    };
    unary(services.KV_RANGE, (request) => engine.range(request));
    unary(services.KV_PUT, (request) => engine.put(request));
    unary(services.KV_DELETE_RANGE, (request) => engine.deleteRange(request));
    unary(services.KV_TXN, (request) => engine.txn(request));
    unary(services.KV_COMPACT, (request) => {
      engine.compact(request.revision);
      return { header: this.#engine.header() };
    });
    unary(services.LEASE_GRANT, (request) => {
      const asked = BigInt.asIntN(64, request.leaseId);
      const leaseId = asked === 0n ? randomLeaseId() : asked;
      const ttlSeconds = engine.grantLease(leaseId, request.ttlSeconds, performance.now());
      return { header: this.#engine.header(), leaseId, ttlSeconds };
    });
    unary(services.LEASE_REVOKE, (request) => {
      engine.endLease(request.leaseId);
      return { header: this.#engine.header() };
    });
    unary(services.STATUS, () => ({
      header: this.#engine.header(),
      version: VERSION,
      dbSizeBytes: this.mvcc.sizeBytes,
      leader: this.#database.memberId,
      errors: "",
    }));
    const authenticate = (request: AuthenticateRequest): AuthenticateResponse => {
      const token = this.#users.authenticate(request.name, request.password);
      return { header: this.#engine.header(), token };
    };
    handlers.push([services.AUTHENTICATE as never, this.#unary(authenticate, false)]);
    handlers.push([services.LEASE_KEEP_ALIVE as never, (call: never) => this.#keepAlive(call)]);
    handlers.push([services.WATCH as never, (call: never) => this.#watch(call)]);
    for (const [method, handler] of handlers) {
      const { path } = method;
      const definition = { [path]: method.requestStream ? method : sized(method) };
      this.#server.addService(definition as never, { [path]: handler } as never);
    }
  }

  #unary<Req, Res>(
    handle: (request: Req) => Res,
    needsToken = true,
  ): (call: UnaryCall, done: sendUnaryData<Res>) => void {
    return (call, done) => {
      try {
        if (needsToken) this.#users.check(call.metadata);
        const { request, sizeBytes } = call.request as Sized<Req>;
        if (sizeBytes > REQUEST_MAX_BYTES) throw requestTooLarge();
        const answer = handle(request);
        void this.#queue.durable().then(() => {
          this.#publish();
          done(null, answer);
        });
      } catch (error) {
        done(this.#errorOf(error), null);
      }
    };
  }

  #errorOf(error: unknown): Partial<ServiceError> {
    if (error instanceof RpcError) return { code: error.code, details: error.details };
    this.#options.log.log("error", "A metadata request met a defect.", { error: String(error) });
    return this.#options.fatal(error);
  }

  #keepAlive(call: ServerDuplexStream<LeaseIdRequest, Partial<LeaseResponse>>): void {
    if (!this.#admit(call)) return;
    call.on("data", ({ leaseId }: LeaseIdRequest) => {
      const ttlSeconds = this.#leases.renew(leaseId, performance.now());
      call.write({ header: this.durableHeader(), leaseId, ttlSeconds });
    });
    call.on("end", () => call.end());
    call.on("error", () => call.end());
  }

  #watch(stream: WatchStream): void {
    if (!this.#admit(stream)) return;
    if (this.#sessions.size >= STREAMS_MAX) {
      const error = { code: status.RESOURCE_EXHAUSTED, details: "etcdserver: too many streams" };
      stream.emit("error", error);
      return;
    }
    const session = new WatchSession(stream, this);
    this.#sessions.set(stream, session);
    const ended = (): void => {
      if (this.#sessions.delete(stream)) session.ended();
      stream.end();
    };
    stream.on("data", (request: WatchRequest) => session.received(request));
    stream.on("end", ended);
    stream.on("error", ended);
    stream.on("cancelled", ended);
    stream.on("close", ended);
  }

  #admit(call: ServerDuplexStream<never, never> | { metadata: Metadata; emit: unknown }): boolean {
    try {
      this.#users.check(call.metadata);
      return true;
    } catch (error) {
      (call as ServerDuplexStream<never, never>).emit("error", this.#errorOf(error));
      return false;
    }
  }

  #expire(): void {
    const ended = this.#leases.expired(performance.now());
    if (ended.length === 0) return;
    for (const id of ended) this.#engine.endLease(id);
    void this.#queue.durable().then(() => this.#publish());
  }

  /** Tells watches what has reached the disk. Called when everything carried out so far has. */
  #publish(): void {
    // Revisions that came while the batch was written are told with the next.
    if (this.#isPublishing) return;
    this.#isPublishing = true;
    const revision = this.mvcc.revision;
    void this.#queue.durable().then(() => {
      this.#isPublishing = false;
      if (revision <= this.durableRevision) return;
      const fresh = this.mvcc.since(this.durableRevision + 1);
      this.durableRevision = revision;
      for (const session of this.#sessions.values()) session.publish(fresh, revision);
      if (this.mvcc.revision > revision) this.#publish();
    });
  }
}

/** A request as it was sent: how large that was counts. */
interface Sized<Req> {
  readonly request: Req;
  readonly sizeBytes: number;
}

function sized(method: services.Method<never, never>): object {
  const requestDeserialize = (bytes: Buffer): Sized<unknown> => ({
    request: method.decodeRequest(bytes),
    sizeBytes: bytes.length,
  });
  return { ...method, requestDeserialize };
}

function randomLeaseId(): bigint {
  return BigInt.asUintN(62, randomBytes(8).readBigUInt64BE()) | 1n;
}
