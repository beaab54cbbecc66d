// Calls to an etcd cluster, or to the embedded server: several endpoints, one of which is used
// until it fails; TLS; a token, got with name and password; a deadline for everything.
//
// What may be said again and what may not: a request is sent only on a connection
// that stands. An error before that means "surely not applied", and the next endpoint is tried.
// Once it was sent, a write is never repeated: unless the server itself refused it, the outcome is
// "unknown". Reads are repeated until their time is over.

import { randomInt } from "node:crypto";
import {
  Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  credentials,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { MetaError } from "./errors.ts";
import { AUTHENTICATE, type Method } from "./etcd-services.ts";

export interface TlsFiles {
  /** PEM. */
  readonly ca: Buffer;
  /** Where the server asks its clients for one. */
  readonly certificate?: Buffer;
  readonly key?: Buffer;
}

export interface EtcdOptions {
  /** `host:port`, each a server of the same cluster. */
  readonly endpoints: readonly string[];
  readonly tls?: TlsFiles;
  readonly user?: { readonly name: string; readonly password: string };
  /** A call takes at most this long, all its attempts together. Default 5 s. */
  readonly timeoutMs?: number;
}

const ENDPOINTS_MAX = 16;
const TIMEOUT_DEFAULT_MS = 5000;
const CONNECT_TIMEOUT_MS = 2000;
/** An endpoint that has not answered a read in this time may be half dead: ask another. */
const READ_ATTEMPT_MIN_MS = 1000;
const RETRY_PAUSE_MS = 50;
const RECEIVE_MAX_BYTES = 64 * 1024 * 1024;

const CHANNEL_OPTIONS = {
  // Metadata never travels through a proxy that the environment names.
  "grpc.enable_http_proxy": 0,
  // What may be repeated is decided here.
  "grpc.enable_retries": 0,
  "grpc.use_local_subchannel_pool": 1,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1000,
  "grpc.max_receive_message_length": RECEIVE_MAX_BYTES,
  // A connection whose other end is gone without a word. etcd allows one every 5 s.
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 5000,
};

export interface CallOptions {
  readonly isWrite: boolean;
  readonly timeoutMs?: number;
}

export class EtcdConnection {
  readonly #clients: readonly Client[];
  readonly #user: EtcdOptions["user"];
  readonly #timeoutMs: number;
  #current: number;
  #token: Promise<string> | null = null;
  #isClosed = false;

  constructor(options: EtcdOptions) {
    const { endpoints, tls } = options;
    if (endpoints.length === 0 || endpoints.length > ENDPOINTS_MAX) {
      const message = `${endpoints.length} metadata endpoints; 1 to ${ENDPOINTS_MAX} can be used.`;
      throw new MetaError("limit", message);
    }
    const secrets =
      tls === undefined
        ? credentials.createInsecure()
        : credentials.createSsl(tls.ca, tls.key ?? null, tls.certificate ?? null);
    this.#clients = endpoints.map((endpoint) => new Client(endpoint, secrets, CHANNEL_OPTIONS));
    this.#user = options.user;
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_DEFAULT_MS;
    // Daemons do not all lean on the first of the list.
    this.#current = randomInt(endpoints.length);
  }

  async unary<Req, Res>(
    method: Method<Req, Res>,
    request: Partial<Req>,
    options: CallOptions,
  ): Promise<Res> {
    return this.#attempt(options, async (client, attemptMs) => {
      const metadata = await this.#metadata(client, attemptMs);
      return unaryOnce(client, method, request, metadata, attemptMs);
    });
  }

  /** One question and one answer over a method that streams. Repeated like a read. */
  async exchange<Req, Res>(
    method: Method<Req, Res>,
    request: Partial<Req>,
    timeoutMs: number,
  ): Promise<Res> {
    return this.#attempt({ isWrite: false, timeoutMs }, async (client, attemptMs) => {
      const metadata = await this.#metadata(client, attemptMs);
      return exchangeOnce(client, method, request, metadata, attemptMs);
    });
  }

  /** A stream in both directions to one endpoint; who opened it opens another when it ends. */
  async openDuplex<Req, Res>(
    method: Method<Req, Res>,
  ): Promise<ClientDuplexStream<Partial<Req>, Res>> {
    return this.#open((client, metadata) =>
      client.makeBidiStreamRequest(
        method.path,
        method.requestSerialize,
        method.decodeResponse,
        metadata,
      ),
    );
  }

  async openDownload<Req, Res>(
    method: Method<Req, Res>,
    request: Partial<Req>,
  ): Promise<ClientReadableStream<Res>> {
    return this.#open((client, metadata) =>
      client.makeServerStreamRequest(
        method.path,
        method.requestSerialize,
        method.decodeResponse,
        request,
        metadata,
      ),
    );
  }

  async #open<S>(open: (client: Client, metadata: Metadata) => S): Promise<S> {
    const timeoutMs = this.#timeoutMs;
    return this.#attempt({ isWrite: false, timeoutMs }, async (client, attemptMs) => {
      const metadata = await this.#metadata(client, attemptMs);
      // A member that has lost its cluster ends the stream instead of going silent.
      metadata.set("hasleader", "true");
      return open(client, metadata);
    });
  }

  /** After an error on a stream: try the next endpoint, and get a new token. */
  streamFailed(): void {
    this.#current = (this.#current + 1) % this.#clients.length;
    this.#token = null;
  }

  close(): void {
    this.#isClosed = true;
    for (const client of this.#clients) client.close();
  }

  async #attempt<T>(
    options: CallOptions,
    call: (client: Client, attemptMs: number) => Promise<T>,
  ): Promise<T> {
    const timeoutMs = options.timeoutMs ?? this.#timeoutMs;
    const endMs = performance.now() + timeoutMs;
    const count = this.#clients.length;
    let reason = "";
    for (let leftMs = timeoutMs; leftMs > 0; leftMs = endMs - performance.now()) {
      if (this.#isClosed) throw new MetaError("closed", "The metadata client is closed.");
      const used = this.#current;
      const client = this.#clients[used]!;
      let isSent = false;
      try {
        await ready(client, Math.min(leftMs, count > 1 ? CONNECT_TIMEOUT_MS : leftMs));
        const rest = endMs - performance.now();
        const share = Math.max(READ_ATTEMPT_MIN_MS, timeoutMs / count);
        const attemptMs = options.isWrite ? rest : Math.min(rest, share);
        if (attemptMs <= 0) break;
        // The token is asked for before: that is no write.
        await this.#metadata(client, attemptMs);
        isSent = true;
        return await call(client, attemptMs);
      } catch (error) {
        const failure = this.#judge(error, isSent && options.isWrite);
        if (failure !== null) throw failure;
        // That time ran out says less than what went wrong before.
        if (reason === "" || !isLate(error)) reason = reasonOf(error);
        if (this.#current === used) this.#current = (used + 1) % count;
        await pause(Math.min(RETRY_PAUSE_MS, Math.max(0, endMs - performance.now())));
      }
    }
    throw new MetaError(
      "unavailable",
      `The metadata cannot be reached within ${timeoutMs} ms: ${reason}`,
      { advice: "See that etcd, or ringstored --role meta, runs and can be reached." },
    );
  }

  /** What to throw; null = try again. */
  #judge(error: unknown, isSentWrite: boolean): MetaError | null {
    if (!isServiceError(error)) {
      if (error instanceof MetaError && !isSentWrite)
        return error.code === "unavailable" ? null : error;
      return error instanceof MetaError ? unknownOutcome(error.message) : unknownCause(error);
    }
    if (isInvalidToken(error)) {
      // Refused before anything was done.
      this.#token = null;
      return null;
    }
    // etcd may say this of a write that it has carried out (its quota is checked beside the write).
    const isFull = /database space exceeded/.test(error.details);
    const refusal = isSentWrite && isFull ? null : refusalOf(error);
    if (refusal !== null) return refusal;
    return isSentWrite ? unknownOutcome(reasonOf(error)) : this.#readFailure(error);
  }

  #readFailure(error: ServiceError): MetaError | null {
    if (error.code === status.RESOURCE_EXHAUSTED) return new MetaError("limit", error.details);
    if (error.code === status.UNIMPLEMENTED) return new MetaError("refused", error.details);
    return null;
  }

  async #metadata(client: Client, timeoutMs: number): Promise<Metadata> {
    const metadata = new Metadata();
    if (this.#user === undefined) return metadata;
    this.#token ??= this.#authenticate(client, timeoutMs);
    try {
      metadata.set("token", await this.#token);
    } catch (error) {
      this.#token = null;
      throw error;
    }
    return metadata;
  }

  async #authenticate(client: Client, timeoutMs: number): Promise<string> {
    const answer = await unaryOnce(
      client,
      AUTHENTICATE,
      { ...this.#user },
      new Metadata(),
      timeoutMs,
    );
    return answer.token;
  }
}

function ready(client: Client, timeoutMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    client.waitForReady(Date.now() + timeoutMs, (error) => {
      if (error === undefined) resolve();
      else reject(new MetaError("unavailable", `no connection within ${Math.round(timeoutMs)} ms`));
    });
  });
}

function unaryOnce<Req, Res>(
  client: Client,
  method: Method<Req, Res>,
  request: Partial<Req>,
  metadata: Metadata,
  timeoutMs: number,
): Promise<Res> {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.decodeResponse,
      request,
      metadata,
      { deadline: Date.now() + timeoutMs },
      (error, answer) => {
        if (error !== null) reject(error);
        else resolve(answer as Res);
      },
    );
  });
}

function exchangeOnce<Req, Res>(
  client: Client,
  method: Method<Req, Res>,
  request: Partial<Req>,
  metadata: Metadata,
  timeoutMs: number,
): Promise<Res> {
  return new Promise((resolve, reject) => {
    const call = client.makeBidiStreamRequest(
      method.path,
      method.requestSerialize,
      method.decodeResponse,
      metadata,
      { deadline: Date.now() + timeoutMs },
    );
    call.on("data", (answer: Res) => {
      resolve(answer);
      call.end();
    });
    call.on("error", reject);
    call.on("end", () =>
      reject(new MetaError("unavailable", "the stream ended without an answer")),
    );
    call.write(request);
  });
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && typeof (error as ServiceError).code === "number";
}

export function reasonOf(error: unknown): string {
  if (isServiceError(error)) return `${status[error.code]}: ${error.details}`;
  return error instanceof Error ? error.message : String(error);
}

function isLate(error: unknown): boolean {
  return isServiceError(error) && error.code === status.DEADLINE_EXCEEDED;
}

function isInvalidToken(error: ServiceError): boolean {
  return error.code === status.UNAUTHENTICATED || /invalid auth token/.test(error.details);
}

function unknownOutcome(reason: string): MetaError {
  return new MetaError("unknown", `It may have been applied, or not: ${reason}`);
}

/** A defect of ours, or of a library: nothing is known about the request. */
function unknownCause(error: unknown): MetaError {
  return new MetaError("unknown", `It may have been applied, or not: ${reasonOf(error)}`, {
    cause: error,
  });
}

/**
 * An answer with which the server says that it did nothing. Only what it said in its own words
 * counts: the same status may come from the transport, after the request was carried out.
 */
function refusalOf(error: ServiceError): MetaError | null {
  const { code, details } = error;
  if (!/^(?:etcdserver|auth): /.test(details)) return null;
  if (code === status.OUT_OF_RANGE && /compacted/.test(details)) {
    return new MetaError("compacted", details);
  }
  if (code === status.NOT_FOUND && /lease/.test(details))
    return new MetaError("lease-lost", details);
  if (/authentication failed|user name is empty/.test(details)) {
    return new MetaError("authentication", details, {
      advice: "Check the metadata user and its password.",
    });
  }
  switch (code) {
    case status.PERMISSION_DENIED:
      return new MetaError("authentication", details);
    case status.RESOURCE_EXHAUSTED:
      return new MetaError("limit", details);
    case status.INVALID_ARGUMENT:
      return new MetaError(/too large|too many/.test(details) ? "limit" : "refused", details);
    case status.NOT_FOUND:
    case status.FAILED_PRECONDITION:
    case status.OUT_OF_RANGE:
      return new MetaError("refused", details);
    default:
      return null;
  }
}
