// What every command is given: the client, the way to write, the global options.

import { ClientError, RingstoreClient, type Transport } from "../client/index.ts";
import type { CommandTable } from "./command-spec.ts";
import type { OutputForm } from "./output.ts";

export interface GlobalOptions {
  readonly form: OutputForm;
  readonly headers: boolean;
  readonly colour: boolean;
  readonly yes: boolean;
}

export interface Streams {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  /** stdout is a terminal. */
  readonly isTerminal: boolean;
  /** Somebody can be asked: stdin and stderr are a terminal. */
  readonly canAsk: boolean;
}

export class Context {
  readonly global: GlobalOptions;
  readonly streams: Streams;
  /** For the commands that are about commands. */
  readonly table: CommandTable;
  readonly #makeTransport: () => Transport;
  #client: RingstoreClient | null = null;

  constructor(
    global: GlobalOptions,
    streams: Streams,
    table: CommandTable,
    makeTransport: () => Transport,
  ) {
    this.global = global;
    this.streams = streams;
    this.table = table;
    this.#makeTransport = makeTransport;
  }

  /** Made at first use: help and completion need no daemon. */
  get client(): RingstoreClient {
    this.#client ??= new RingstoreClient(this.#makeTransport());
    return this.#client;
  }

  note(text: string): void {
    this.streams.err(`${text}\n`);
  }

  /**
   * Asks before something is lost. Only a person can be asked: without a terminal, or with --yes,
   * the command itself is the answer.
   */
  async confirm(question: string): Promise<void> {
    if (this.global.yes || !this.streams.canAsk) return;
    const { createInterface } = await import("node:readline/promises");
    const reader = createInterface({ input: process.stdin, output: process.stderr });
    try {
      const answer = await reader.question(`${question} [y/N] `);
      if (/^y(es)?$/i.test(answer.trim())) return;
    } finally {
      reader.close();
    }
    throw new ClientError("declined", "nothing was done");
  }
}
