// Puts the REST API on its sockets: the unix socket in the data directory, whose file mode is the
// permission, and TCP when asked for.

import { chmodSync, chownSync, readFileSync, statSync } from "node:fs";
import { unlink } from "node:fs/promises";
import { isIP } from "node:net";
import { createSecureContext } from "node:tls";
import type { FastifyInstance } from "fastify";
import type { ApiModules } from "../api/control-plane.ts";
import type { Token } from "../api/tokens.ts";
import { quote } from "../model/volume-rules.ts";
import { StartError } from "./data-directory.ts";

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

/** `127.0.0.1:8040`, `[::1]:8040`, `localhost:0`. */
export function parseListen(text: string, option: string = "--listen"): ListenAddress {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2] ?? "";
  const port = Number(match?.[3] ?? Number.NaN);
  if (host === "" || !(port <= 65_535)) {
    throw new StartError("cannot_start", `${option} ${quote(text)} is not an address`, {
      advice: "give HOST:PORT, e.g. 127.0.0.1:8040 or [::1]:8040; port 0 takes a free one",
    });
  }
  return { host, port };
}

export interface ApiTls {
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** null: no TLS. Both files are read and tried at the start, not at the first connection. */
export function readApiTls(certPath: string, keyPath: string): ApiTls | null {
  if (certPath === "" && keyPath === "") return null;
  if (certPath === "" || keyPath === "") {
    throw new StartError("cannot_start", "--tls-cert and --tls-key are given together", {
      advice: "give both files, or neither",
    });
  }
  try {
    const tls = { cert: readFileSync(certPath), key: readFileSync(keyPath) };
    createSecureContext(tls);
    return tls;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const reason = code?.startsWith("E") === true ? message : "they do not fit together";
    throw new StartError("cannot_start", `cannot use ${certPath} and ${keyPath}: ${reason}`, {
      advice: "give a certificate and its key, both in PEM",
    });
  }
}

/** Tokens travel in the clear: null on loopback or with TLS, otherwise what to say about it. */
export function listenWarning(address: ListenAddress, tls: ApiTls | null): string | null {
  if (tls !== null) return null;
  const { host } = address;
  const isLoopback =
    host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
  if (isLoopback) return null;
  return `the API listens on ${host} without TLS: tokens can be read on the network`;
}

export interface Listeners {
  /** `http://127.0.0.1:8040`, null without TCP. */
  readonly url: string | null;
  close(): Promise<void>;
}

export interface ListenOptions {
  readonly socketPath: string;
  /** -1: only the daemon's own user. */
  readonly apiGroupId: number;
  readonly tcp: ListenAddress | null;
  readonly tls: ApiTls | null;
  readonly tokens: () => readonly Token[];
}

export async function listenForApi(
  options: ListenOptions,
  modules: ApiModules,
): Promise<Listeners> {
  const { createApiServer } = await import("../api/index.ts");
  const local = await createApiServer({ transport: "unix", tokens: options.tokens }, modules);
  await listenUnix(local, options);
  if (options.tcp === null) return { url: null, close: () => local.close() };
  const { tokens, tls } = options;
  const secured = tls === null ? {} : { tls };
  const remote = await createApiServer({ transport: "tcp", tokens, ...secured }, modules);
  const { host, port } = options.tcp;
  let url: string;
  try {
    url = await remote.listen({ host, port });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new StartError("cannot_start", `cannot listen on ${host}:${port}: ${code}`, {
      advice: "choose another --listen address; port 0 takes a free one",
      cause: error,
    });
  }
  return {
    url,
    close: async () => {
      await Promise.all([local.close(), remote.close()]);
    },
  };
}

async function listenUnix(app: FastifyInstance, options: ListenOptions): Promise<void> {
  const { socketPath, apiGroupId } = options;
  // We hold the data directory's lock, so a socket that is there is left over.
  await unlink(socketPath).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
  // Never open to others, not even for the moment before chmod.
  const umask = process.umask(0o177);
  try {
    await app.listen({ path: socketPath });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new StartError("cannot_start", `cannot listen on ${socketPath}: ${code}`, {
      advice: "check the data directory's owner and mode",
      cause: error,
    });
  } finally {
    process.umask(umask);
  }
  if (apiGroupId < 0) return;
  chownSync(socketPath, statSync(socketPath).uid, apiGroupId);
  chmodSync(socketPath, 0o660);
}
