// What the two threads of the wire's benchmark share: words of memory, and how the far end is told
// what to be.

/** Indexes of the shared words. */
export const STOP = 0;
export const PORT = 1;

export interface MemberData {
  readonly isRaw: boolean;
  readonly pollMaxUs: number;
  readonly shared: Int32Array;
}
