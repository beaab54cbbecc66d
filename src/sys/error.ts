// SysError: a failed system call, with its name, errno and subject. Thrown by set-up code only;
// code on the data path tests the negated errno instead.

import { errnoName, RingstoreError } from "../base/index.ts";

/** A system call failed. `errno` is positive. */
export class SysError extends RingstoreError<"SYS_CALL_FAILED"> {
  override readonly name = "SysError";
  readonly errno: number;
  readonly call: string;

  constructor(call: string, result: number, subject: string) {
    super("SYS_CALL_FAILED", `${call}(${subject}): ${errnoName(result)}`);
    this.errno = Math.abs(result);
    this.call = call;
  }
}

/** Returns `result` when it is >= 0, otherwise throws SysError. */
export function check(result: number, call: string, subject: string | number = ""): number {
  if (result < 0) throw new SysError(call, result, String(subject));
  return result;
}
