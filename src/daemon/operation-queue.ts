// Operations on one object, a volume or a disk: one after the other, in the order they were asked
// for, and only so many that wait.

import { ApiError, type ApiErrorCode } from "../model/errors.ts";
import { WAITER_MAX } from "../model/limits.ts";

export class OperationQueue {
  readonly #busyCode: ApiErrorCode;
  readonly #subject: string;
  #tail: Promise<unknown> = Promise.resolve();
  #waiterCount = 0;

  /** `subject` for the error that is answered when too many wait: `volume db1`. */
  constructor(busyCode: ApiErrorCode, subject: string) {
    this.#busyCode = busyCode;
    this.#subject = subject;
  }

  exclusively<T>(operation: () => Promise<T>): Promise<T> {
    if (this.#waiterCount >= WAITER_MAX) {
      const message = `${WAITER_MAX} operations wait for ${this.#subject}`;
      throw new ApiError(this.#busyCode, message, { advice: "try again when they are done" });
    }
    this.#waiterCount += 1;
    const result = this.#tail.then(operation);
    this.#tail = result
      .catch(() => undefined)
      .finally(() => {
        this.#waiterCount -= 1;
      });
    return result;
  }

  get busy(): boolean {
    return this.#waiterCount > 0;
  }
}
