// What a guest printed on its serial console: the text so far and waits for text to come.

import { type Deferred, deferred, withTimeout } from "./_wait.ts";
import { VmError } from "./error.ts";

export interface TextWaitOptions {
  /** Default 60 s. */
  timeoutMs?: number;
  /** Only text after this position; see {@link ConsoleLog.length}. Default 0: all. */
  since?: number;
}

interface TextWaiter {
  readonly pattern: RegExp;
  readonly since: number;
  readonly found: Deferred<RegExpExecArray>;
}

const TEXT_TIMEOUT_MS = 240_000;
/** Kept from the end; a guest that prints more is in a loop. */
const TEXT_CHARACTERS_MAX = 4 * 1024 * 1024;
const TAIL_CHARACTERS = 2000;

export class ConsoleLog {
  readonly #waiters = new Set<TextWaiter>();
  readonly #decoder = new TextDecoder();
  #text = "";
  #dropped = 0;
  #ended: VmError | undefined;

  /** Everything printed, without carriage returns. */
  get text(): string {
    return this.#text;
  }

  /** Characters printed since the start: a position for {@link TextWaitOptions.since}. */
  get length(): number {
    return this.#dropped + this.#text.length;
  }

  /** The last lines, for error messages. */
  get tail(): string {
    return this.#text.slice(-TAIL_CHARACTERS);
  }

  /** The line with which the guest's kernel gave up, if it did. */
  get panic(): string | undefined {
    return /^.*Kernel panic - not syncing.*$/m.exec(this.#text)?.[0];
  }

  append(chunk: Uint8Array): void {
    this.#text += this.#decoder.decode(chunk, { stream: true }).replaceAll("\r", "");
    if (this.#text.length > TEXT_CHARACTERS_MAX) {
      const surplus = this.#text.length - TEXT_CHARACTERS_MAX;
      this.#dropped += surplus;
      this.#text = this.#text.slice(surplus);
    }
    for (const waiter of this.#waiters) {
      const match = this.#search(waiter.pattern, waiter.since);
      if (match !== null) waiter.found.resolve(match);
    }
  }

  /** The first match of `pattern`, printed already or to come. */
  async waitFor(pattern: string | RegExp, options: TextWaitOptions = {}): Promise<RegExpExecArray> {
    const expression = typeof pattern === "string" ? new RegExp(literal(pattern)) : pattern;
    const since = options.since ?? 0;
    const present = this.#search(expression, since);
    if (present !== null) return present;
    if (this.#ended !== undefined) throw this.#ended;
    const waiter: TextWaiter = { pattern: expression, since, found: deferred() };
    this.#waiters.add(waiter);
    const timeoutMs = options.timeoutMs ?? TEXT_TIMEOUT_MS;
    try {
      return await withTimeout(waiter.found.promise, timeoutMs, () => {
        const wanted = `The guest's console did not show ${pattern} within ${timeoutMs} ms`;
        return new VmError("timeout", `${wanted}. Its end:\n${this.tail}`);
      });
    } finally {
      this.#waiters.delete(waiter);
    }
  }

  /** Nothing more will come. */
  end(reason: VmError): void {
    this.#ended ??= reason;
    for (const waiter of this.#waiters) waiter.found.reject(this.#ended);
  }

  #search(pattern: RegExp, since: number): RegExpExecArray | null {
    const start = Math.max(0, since - this.#dropped);
    // A shared expression with the g flag would remember where it stopped.
    return new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, "")).exec(
      this.#text.slice(start),
    );
  }
}

/** `text` as a regular expression that matches exactly it. */
function literal(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
