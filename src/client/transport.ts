// How the client reaches a daemon: handed in, because the CLI speaks HTTP over a unix socket and a
// browser has fetch.

import { RingstoreError } from "../base/error.ts";

export interface ClientRequest {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  /** Path and query, beginning with /. */
  readonly path: string;
  /** JSON; undefined = no body. */
  readonly body?: unknown;
  /**
   * Fields of the body that are secrets, with dots where they lie deeper: nothing that shows the
   * request shows their values.
   */
  readonly secretFields?: readonly string[];
}

export interface ClientResponse {
  readonly status: number;
  readonly text: string;
}

export interface Transport {
  /** Rejects with a ClientError. */
  send(request: ClientRequest): Promise<ClientResponse>;
  /**
   * Opens `GET path` as a stream of server-sent events and hands over its text as it comes.
   * Resolves when the server ends it.
   */
  stream(path: string, received: (text: string) => void): Promise<void>;
}

/** `code` is one of the client's own or whatever the server answered with. */
export class ClientError extends RingstoreError {
  override readonly name: string = "ClientError";
}
