// What a daemon tells for a support bundle beyond what it shows anyway.

export interface SupportReply {
  readonly at: string;
  /** Settings in force. Files with secrets are named, never read. */
  readonly config: Readonly<Record<string, unknown>>;
  /** The latest lines of the daemon's log, oldest first, as JSON. */
  readonly log: readonly string[];
  /** Of the machine: kernel, memory, limits; text by name. */
  readonly machine: Readonly<Record<string, string>>;
}
