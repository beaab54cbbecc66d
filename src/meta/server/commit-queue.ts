// From memory to disk: operations are carried out in memory at once, in the order in which they
// came, and answered when they and all before them are on the disk. While one batch is written the
// next gathers, so that one fsync serves all who wait.
//
// Reads wait as well: what is answered must not vanish. A disk that fails ends the process: memory
// is then ahead of the disk, and nobody may see it.

import type { Database, Operation } from "./database.ts";

export class CommitQueue {
  readonly #database: Database;
  readonly #failed: (error: unknown) => never;
  #gathered: Operation[] = [];
  #waiters: (() => void)[] = [];
  #isWriting = false;

  constructor(database: Database, failed: (error: unknown) => never) {
    this.#database = database;
    this.#failed = failed;
  }

  add(operations: readonly Operation[]): void {
    for (const operation of operations) this.#gathered.push(operation);
  }

  /** Everything that was added until now is on the disk. */
  durable(): Promise<void> {
    if (!this.#isWriting && this.#gathered.length === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiters.push(resolve);
      if (!this.#isWriting) void this.#write();
    });
  }

  async #write(): Promise<void> {
    this.#isWriting = true;
    // One turn of the event loop: what arrived together is written together.
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#waiters.length > 0 || this.#gathered.length > 0) {
      const operations = this.#gathered;
      const waiters = this.#waiters;
      this.#gathered = [];
      this.#waiters = [];
      try {
        if (operations.length > 0) await this.#database.append(operations);
      } catch (error) {
        this.#failed(error);
      }
      for (const resolve of waiters) resolve();
    }
    this.#isWriting = false;
  }
}
