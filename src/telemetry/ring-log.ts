// The Log of a reactor: each record becomes one line of JSON in the log ring. Also the line format
// itself, so that the main thread's lines look the same.
//
//   {"time":1722420000123,"level":"warn","event":"ring stopped","reactor":0,"volume":"db1"}
//
// `event` is a constant sentence; what varies are fields. A record may not push another out: a
// line too long for LINE_BYTES_MAX is cut, and says so.

import { assert } from "../base/index.ts";
import type { Log, LogFields, LogLevel } from "../ports/index.ts";
import { LINE_BYTES_MAX, type LogRingWriter } from "./log-ring.ts";

const LEVEL_RANKS: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };
/** A line that is too long keeps this many fields, and of each text this many characters. */
const CUT_TEXT_CHARS = 64;
const CUT_FIELDS_MAX = 8;
/** The longest a character becomes: an escape of JSON (`\u0001`). */
const CHAR_BYTES_MAX = 6;
const CUT_MARK = "...";
assert(
  (2 * CUT_FIELDS_MAX + 1) * (CUT_TEXT_CHARS + CUT_MARK.length) * CHAR_BYTES_MAX + 512 <=
    LINE_BYTES_MAX,
  "a cut line must fit",
);

type FieldValue = LogFields[string];

export interface LineContext {
  /** Milliseconds since 1970. */
  readonly timeMs: number;
  /** Which reactor wrote it; -1 for the main thread (left out of the line). */
  readonly reactorIndex: number;
}

/** One record as a line of JSON, without the newline, at most LINE_BYTES_MAX bytes of UTF-8. */
export function formatLine(
  context: LineContext,
  level: LogLevel,
  event: string,
  fields: LogFields,
): string {
  const line = render(context, level, event, Object.entries(fields), false);
  // A character of UTF-16 is at most 3 bytes of UTF-8.
  if (line.length * 3 <= LINE_BYTES_MAX || Buffer.byteLength(line) <= LINE_BYTES_MAX) return line;
  const cut = Object.entries(fields)
    .slice(0, CUT_FIELDS_MAX)
    .map(([name, value]) => [cutText(name), cutValue(value)] as const);
  return render(context, level, cutText(event), cut, true);
}

function cutText(value: string): string {
  return value.length <= CUT_TEXT_CHARS ? value : `${value.slice(0, CUT_TEXT_CHARS)}${CUT_MARK}`;
}

function cutValue(value: FieldValue): FieldValue {
  return typeof value === "string" ? cutText(value) : value;
}

function render(
  context: LineContext,
  level: LogLevel,
  event: string,
  fields: readonly (readonly [string, FieldValue])[],
  isCut: boolean,
): string {
  const record: Record<string, unknown> = { time: context.timeMs, level, event };
  if (context.reactorIndex >= 0) record["reactor"] = context.reactorIndex;
  if (isCut) record["cut"] = true;
  for (const [name, value] of fields) {
    // A field must not take the place of one of ours.
    record[Object.hasOwn(record, name) ? `${name}_` : name] = value;
  }
  return JSON.stringify(record);
}

export interface RingLogOptions {
  readonly reactorIndex: number;
  /** Less than this is not written. */
  readonly levelMin: LogLevel;
}

export interface RingLogModules {
  readonly writer: LogRingWriter;
  /** Wall clock in milliseconds since 1970. */
  readonly wallTimeMs: () => number;
}

/** Implements Log on a ring; never blocks, never throws for what it is given. */
export class RingLog implements Log {
  private readonly options: RingLogOptions;
  private readonly modules: RingLogModules;

  constructor(options: RingLogOptions, modules: RingLogModules) {
    this.options = options;
    this.modules = modules;
  }

  log(level: LogLevel, event: string, fields: LogFields = {}): void {
    if (LEVEL_RANKS[level] < LEVEL_RANKS[this.options.levelMin]) return;
    this.reportLost();
    const context = {
      timeMs: this.modules.wallTimeMs(),
      reactorIndex: this.options.reactorIndex,
    };
    this.modules.writer.write(formatLine(context, level, event, fields));
  }

  /** Says how many lines were lost, as soon as that line fits. Also worth a slow timer. */
  reportLost(): void {
    const { writer } = this.modules;
    const lost = writer.unreportedCount;
    if (lost === 0) return;
    const context = {
      timeMs: this.modules.wallTimeMs(),
      reactorIndex: this.options.reactorIndex,
    };
    const line = formatLine(context, "warn", "log lines lost, the ring was full", { lost });
    if (writer.tryWrite(line)) writer.markReported(lost);
  }
}
