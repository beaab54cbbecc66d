// Server-sent events: one stream per caller that asks `GET /v1/events` with
// `accept: text/event-stream`. Each message has the event's number as its id, so a caller that
// lost its connection goes on where it was (Last-Event-ID).
//
// Invariants: a bounded number of streams; a reader that does not read is cut off instead of
// filling our memory; all end when the server closes.

import type { ServerResponse } from "node:http";
import { ApiError } from "../model/errors.ts";
import { EVENT_STREAM_MAX } from "../model/limits.ts";
import type { Event } from "../model/types.ts";
import type { ControlPlane } from "./control-plane.ts";

const UNREAD_MAX_BYTES: number = 256 * 1024;
/** Keeps proxies from closing a quiet stream, and tells us of a peer that is gone. */
const HEARTBEAT_MS = 15_000;

export class EventStreams {
  readonly #controlPlane: ControlPlane;
  readonly #open = new Set<ServerResponse>();
  #isClosing = false;

  constructor(controlPlane: ControlPlane) {
    this.#controlPlane = controlPlane;
  }

  /** Throws ApiError when there are too many. */
  requireRoom(): void {
    if (this.#open.size < EVENT_STREAM_MAX) return;
    throw new ApiError("limit_reached", `${EVENT_STREAM_MAX} event streams are open`, {
      advice: "close one, or poll GET /v1/events?since=N",
    });
  }

  /** Takes the response over. Sends what came after `since`, then what comes. */
  start(response: ServerResponse, since: number): void {
    response.writeHead(200, {
      "content-type": "text/event-stream",
      "cache-control": "no-store",
      // Its end is that of the connection: a server that closes does not wait for the peer to go.
      connection: "close",
      "x-accel-buffering": "no",
    });
    this.#open.add(response);
    const send = (event: Event): void => {
      if (response.writableLength > UNREAD_MAX_BYTES) {
        response.destroy();
        return;
      }
      response.write(`id: ${event.seq}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
    };
    // A first line, so that the caller sees an answer even when nothing happens.
    response.write(": events follow\n\n");
    for (const event of this.#controlPlane.eventsSince(since)) send(event);
    const unsubscribe = this.#controlPlane.subscribe(send);
    const heartbeat = setInterval(() => void response.write(": still here\n\n"), HEARTBEAT_MS);
    heartbeat.unref();
    response.on("close", () => {
      clearInterval(heartbeat);
      unsubscribe();
      this.#open.delete(response);
    });
    // A peer that resets the connection is followed by "close".
    response.on("error", () => undefined);
    // Asked for on a connection that was there before: the server would wait for it.
    if (this.#isClosing) response.end();
  }

  /** The server closes. */
  endAll(): void {
    this.#isClosing = true;
    for (const response of this.#open) response.end();
  }
}
