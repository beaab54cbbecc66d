// What a scenario must undo at its end, newest first, whatever became of the scenario. A test's own
// `after` hooks run oldest first: the folder would go before the daemon that lives in it.

export type Hook = () => Promise<void> | void;

export class Cleanup {
  private readonly hooks: Hook[] = [];

  after(hook: Hook): void {
    this.hooks.push(hook);
  }

  /** Runs every hook, also when one fails; the first failure is thrown at the end. */
  async run(): Promise<void> {
    let failure: unknown = null;
    for (let hook = this.hooks.pop(); hook !== undefined; hook = this.hooks.pop()) {
      try {
        await hook();
      } catch (error) {
        failure ??= error;
      }
    }
    if (failure !== null) throw failure;
  }
}

/** A cleanup that happens when the test has ended. */
export function cleanupOf(test: { after(hook: () => Promise<void>): void }): Cleanup {
  const cleanup = new Cleanup();
  test.after(() => cleanup.run());
  return cleanup;
}
