// Server-sent events (WHATWG HTML, section 9.2) as far as ringstored uses them: `data` lines, an
// empty line ends an event, lines that begin with a colon are heartbeats.

import { ClientError } from "./transport.ts";

/** An event has a few hundred characters; a stream that never ends one is not ours. */
const PENDING_LENGTH_MAX: number = 1024 * 1024;

export class EventParser {
  readonly #received: (data: string) => void;
  #pending = "";
  #data: string[] = [];

  constructor(received: (data: string) => void) {
    this.#received = received;
  }

  /** Text may be cut anywhere. */
  push(text: string): void {
    this.#pending += text;
    const lines = this.#pending.split("\n");
    this.#pending = lines.pop() ?? "";
    if (this.#pending.length > PENDING_LENGTH_MAX) {
      throw new ClientError("bad_reply", "the event stream has a line without an end");
    }
    for (const line of lines) this.#line(line.endsWith("\r") ? line.slice(0, -1) : line);
  }

  #line(line: string): void {
    if (line.startsWith("data:")) {
      this.#data.push(line.slice(5).replace(/^ /, ""));
      return;
    }
    if (line !== "" || this.#data.length === 0) return;
    const data = this.#data.join("\n");
    this.#data = [];
    this.#received(data);
  }
}
