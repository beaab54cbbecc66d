// What the soak's suites have in common: what they are given, and what they say at their end.

export interface SuiteContext {
  readonly seed: number;
  /** True when the time that was given is over: finish, and say how much was done. */
  readonly expired: () => boolean;
  /** Milliseconds that are left. */
  readonly leftMs: () => number;
  /** One line for the person who watches. */
  readonly say: (line: string) => void;
}

export interface SuiteResult {
  /** What was done, with its counts; for the log. */
  readonly counts: string;
  /** What was broken, one sentence each. */
  readonly broken: readonly string[];
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
