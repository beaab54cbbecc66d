// HTTP to a daemon: over the unix socket in its data directory, or over TCP with a bearer token.

import { readFileSync } from "node:fs";
import { type IncomingMessage, request as requestHttp } from "node:http";
import type { RequestOptions } from "node:https";
import { join, resolve } from "node:path";
import {
  ClientError,
  type ClientRequest,
  type ClientResponse,
  type Transport,
} from "../client/index.ts";
import { API_SOCKET_NAME } from "../model/limits.ts";

export type Target =
  | { readonly kind: "unix"; readonly dataDirectory: string }
  | {
      readonly kind: "tcp";
      readonly url: string;
      readonly tokenFile: string;
      /** Of who signed the daemon's certificate; "": whom the system trusts. */
      readonly caFile: string;
    };

/** A listing of every volume has a few MiB. */
const REPLY_MAX_BYTES: number = 64 * 1024 * 1024;

interface Connection {
  /** For error messages. */
  readonly name: string;
  readonly advice: string;
  readonly options: RequestOptions;
  readonly basePath: string;
  readonly secure: boolean;
}

export class HttpTransport implements Transport {
  readonly #connection: Connection;
  readonly #timeoutMs: number;

  constructor(target: Target, timeoutMs: number) {
    this.#connection = target.kind === "unix" ? unixConnection(target) : tcpConnection(target);
    this.#timeoutMs = timeoutMs;
  }

  async send(request: ClientRequest): Promise<ClientResponse> {
    const response = await this.#open(request, "application/json", true);
    const text = await readAll(response, this.#connection.name);
    return { status: response.statusCode ?? 0, text };
  }

  async stream(path: string, received: (text: string) => void): Promise<void> {
    const response = await this.#open({ method: "GET", path }, "text/event-stream", false);
    const type = response.headers["content-type"] ?? "";
    if (response.statusCode !== 200 || !type.startsWith("text/event-stream")) {
      const text = await readAll(response, this.#connection.name);
      throw new ClientError("bad_reply", `${this.#connection.name} sent no event stream: ${text}`);
    }
    response.setEncoding("utf8");
    try {
      for await (const chunk of response) received(chunk as string);
    } catch (error) {
      if (error instanceof ClientError) throw error;
      throw new ClientError("cannot_connect", `${this.#connection.name} went away`, {
        cause: error,
      });
    }
  }

  /** Resolves with the head of the response. `bounded`: the whole exchange has the time limit. */
  async #open(request: ClientRequest, accept: string, bounded: boolean): Promise<IncomingMessage> {
    const { options, basePath, secure } = this.#connection;
    const open = secure ? (await import("node:https")).request : requestHttp;
    const body = request.body === undefined ? null : JSON.stringify(request.body);
    const headers: Record<string, string | number> = {
      accept,
      ...(options.headers as Record<string, string> | undefined),
    };
    if (body !== null) {
      headers["content-type"] = "application/json";
      headers["content-length"] = Buffer.byteLength(body);
    }
    return await new Promise((resolveResponse, reject) => {
      const path = `${basePath}${request.path}`;
      const outgoing = open({ ...options, method: request.method, path, headers });
      const timer = setTimeout(() => {
        const late = this.#timeoutError();
        reject(late);
        outgoing.destroy(late);
      }, this.#timeoutMs);
      outgoing.on("error", (error) => {
        clearTimeout(timer);
        reject(this.#connectError(error));
      });
      outgoing.on("response", (response) => {
        if (bounded) response.on("close", () => clearTimeout(timer));
        else clearTimeout(timer);
        resolveResponse(response);
      });
      outgoing.end(body ?? undefined);
    });
  }

  #timeoutError(): ClientError {
    const message = `${this.#connection.name} did not answer within ${this.#timeoutMs / 1000} s`;
    return new ClientError("request_timed_out", message, {
      advice: "the operation may still finish: look before repeating it; see also --timeout",
    });
  }

  #connectError(error: NodeJS.ErrnoException): ClientError {
    if (error instanceof ClientError) return error;
    const { name, advice } = this.#connection;
    if (error.code?.startsWith("HPE_") === true) {
      return new ClientError("bad_reply", `${name} does not speak HTTP: ${error.message}`);
    }
    const hint =
      error.code === "EACCES"
        ? "run this as the daemon's user, or start ringstored with --api-group"
        : advice;
    return new ClientError("cannot_connect", `cannot connect to ${name}: ${error.code}`, {
      advice: hint,
      cause: error,
    });
  }
}

async function readAll(response: IncomingMessage, name: string): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of response) {
      bytes += (chunk as Buffer).length;
      if (bytes > REPLY_MAX_BYTES) {
        throw new ClientError("bad_reply", `${name} sent more than ${REPLY_MAX_BYTES} bytes`);
      }
      chunks.push(chunk as Buffer);
    }
  } catch (error) {
    if (error instanceof ClientError) throw error;
    throw new ClientError("cannot_connect", `${name} closed the connection in its reply`, {
      cause: error,
    });
  }
  return Buffer.concat(chunks).toString("utf8");
}

function unixConnection(target: Target & { kind: "unix" }): Connection {
  const socketPath = join(resolve(target.dataDirectory), API_SOCKET_NAME);
  return {
    name: socketPath,
    advice: `start the daemon: ringstored --data ${target.dataDirectory}`,
    options: { socketPath, headers: { host: "localhost" } },
    basePath: "",
    secure: false,
  };
}

function tcpConnection(target: Target & { kind: "tcp" }): Connection {
  let url: URL;
  try {
    url = new URL(target.url);
  } catch {
    throw badUrl(target.url);
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") throw badUrl(target.url);
  const headers: Record<string, string> = {};
  if (target.tokenFile !== "") headers["authorization"] = `Bearer ${readToken(target.tokenFile)}`;
  const secure = url.protocol === "https:";
  return {
    name: url.origin,
    advice: "check --url, and that ringstored runs there with --listen",
    options: {
      // URL keeps the brackets of an IPv6 address; a connection wants it without.
      hostname: url.hostname.replace(/^\[|\]$/g, ""),
      port: url.port === "" ? (secure ? 443 : 80) : Number(url.port),
      headers,
      ...(target.caFile === "" ? {} : { ca: readCa(target.caFile) }),
    },
    basePath: url.pathname.replace(/\/$/, ""),
    secure,
  };
}

function readCa(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new ClientError("usage", `cannot read the certificate ${path}: ${code}`);
  }
}

function badUrl(text: string): ClientError {
  return new ClientError("usage", `--url ${JSON.stringify(text)} is not an HTTP address`, {
    advice: "give e.g. http://127.0.0.1:8040",
  });
}

/** The first token of a file in the daemon's own format: `name:token`, or a token alone. */
function readToken(path: string): string {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new ClientError("usage", `cannot read the token file ${path}: ${code}`);
  }
  for (const line of text.split("\n")) {
    const trimmed = line.trim();
    if (trimmed === "" || trimmed.startsWith("#")) continue;
    const token = trimmed.slice(trimmed.indexOf(":") + 1).trim();
    if (/^[!-~]+$/.test(token)) return token;
    break;
  }
  throw new ClientError("usage", `the token file ${path} does not begin with a token`);
}
