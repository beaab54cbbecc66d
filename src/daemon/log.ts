// The daemon's log. Entries are kept until pino is loaded, because guests wait for their sockets
// and not for our log; then pino writes them to stderr: JSON, or readable lines on a terminal.

import { writeSync } from "node:fs";
import type { Log, LogFields, LogLevel } from "../ports/log.ts";

const ORDER: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };
/** Of the start only; far more than it writes. */
const KEPT_MAX = 2000;
const TAIL_MAX = 1000;
const TAIL_SLACK = 200;
const STDERR = 2;

interface Entry {
  readonly level: LogLevel;
  readonly at: Date;
  readonly event: string;
  readonly fields: LogFields;
}

export type LogSink = (entry: Entry) => void;

export class DaemonLog implements Log {
  #level: LogLevel;
  #sink: LogSink | null = null;
  #kept: Entry[] = [];
  /** The latest entries, for support bundles. */
  readonly #latest: Entry[] = [];

  constructor(level: LogLevel) {
    this.#level = level;
  }

  setLevel(level: LogLevel): void {
    this.#level = level;
  }

  log(level: LogLevel, event: string, fields: LogFields = {}): void {
    if (ORDER[level] < ORDER[this.#level]) return;
    const entry = { level, at: new Date(), event, fields };
    this.#latest.push(entry);
    if (this.#latest.length > TAIL_MAX + TAIL_SLACK) this.#latest.splice(0, TAIL_SLACK);
    if (this.#sink !== null) this.#sink(entry);
    else if (this.#kept.length < KEPT_MAX) this.#kept.push(entry);
  }

  /** The latest entries as JSON, oldest first. */
  tail(): readonly string[] {
    return this.#latest.slice(-TAIL_MAX).map((entry) => JSON.stringify(jsonOf(entry)));
  }

  connect(sink: LogSink): void {
    const kept = this.#kept;
    this.#kept = [];
    this.#sink = sink;
    for (const entry of kept) sink(entry);
  }

  /** Writes what is kept, for a start that fails before pino is there. */
  flush(): void {
    if (this.#sink === null) this.connect(writeJson);
  }
}

function writeJson(entry: Entry): void {
  writeText(`${JSON.stringify(jsonOf(entry))}\n`);
}

function jsonOf({ level, at, event, fields }: Entry): object {
  return { level, time: at.toISOString(), msg: event, ...fields };
}

/** stderr may be closed or full; a daemon does not die of it. */
function writeText(text: string): void {
  try {
    writeSync(STDERR, text);
  } catch {
    // Nowhere left to say so.
  }
}

/** `isTerminal` decides the form. */
export async function connectPino(log: DaemonLog, isTerminal: boolean): Promise<void> {
  if (isTerminal) {
    log.connect((entry) => writeText(readable(entry)));
    return;
  }
  const { pino } = await import("pino");
  const logger = pino(
    {
      level: "trace",
      base: null,
      timestamp: false,
      formatters: { level: (label) => ({ level: label }) },
    },
    { write: writeText },
  );
  log.connect(({ level, at, event, fields }) => {
    logger[level]({ time: at.toISOString(), ...fields }, event);
  });
}

const COLOURS: Readonly<Record<LogLevel, string>> = {
  debug: "\u001b[2m",
  info: "",
  warn: "\u001b[33m",
  error: "\u001b[31m",
};

/** `12:00:01.250 warn  volume.unavailable  volume=db1 code=backing_not_found` */
export function readable({ level, at, event, fields }: Entry): string {
  const colour = process.env["NO_COLOR"] === undefined ? COLOURS[level] : "";
  const reset = colour === "" ? "" : "\u001b[0m";
  const details = Object.entries(fields)
    .map(([key, value]) => ` ${key}=${plain(value)}`)
    .join("");
  const time = at.toISOString().slice(11, 23);
  return `${time} ${colour}${level.padEnd(5)}${reset} ${event} ${details}\n`;
}

function plain(value: string | number | boolean | null): string {
  if (typeof value !== "string") return String(value);
  return /^[\w./:@-]+$/.test(value) ? value : JSON.stringify(value);
}
