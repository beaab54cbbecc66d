// Errors that leave a room for a person or a caller: a code from that room's closed list, a
// sentence that names the value and what to do, and the cause. Data-path code never makes one;
// it returns negated errno numbers.

/** Base of every error a person may read. `code` is stable, `message` may be reworded. */
export class RingstoreError<Code extends string = string> extends Error {
  override readonly name: string = "RingstoreError";
  readonly code: Code;
  /** What to do about it, as a full sentence; undefined when the message says it. */
  readonly advice: string | undefined;

  constructor(code: Code, message: string, options: { advice?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.advice = options.advice;
  }
}
