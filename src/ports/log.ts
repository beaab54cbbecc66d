// Structured logs: a constant sentence, data as fields. Rate-limited by the caller where a guest
// can cause them.

export type LogLevel = "debug" | "info" | "warn" | "error";
export type LogFields = Readonly<Record<string, string | number | boolean | null>>;

export interface Log {
  log(level: LogLevel, event: string, fields?: LogFields): void;
}
