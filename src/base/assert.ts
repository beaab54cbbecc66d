// Assertions: programmer errors, on in production. Bad input from outside is never asserted, it
// is answered with an error (see error.ts). A failed assertion means this process can no longer
// be trusted with anybody's data, so nothing catches it: the thread's fatal handler ends the
// process by signal and the guest sees a pause while the daemon restarts.

/** Thrown when an invariant of our own code does not hold. Never thrown for bad input. */
export class AssertionFailure extends Error {
  override readonly name = "AssertionFailure";
}

/** Throws {@link AssertionFailure} when `condition` is false. Message is a constant string. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionFailure(message);
}

/** Documents that both outcomes of `_condition` are legal here. Does nothing. */
export function maybe(_condition: boolean): void {}

/** Ends an exhaustive switch: reached only when a case was forgotten. */
export function unreachable(message: string): never {
  throw new AssertionFailure(message);
}
