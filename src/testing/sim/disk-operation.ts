// An operation of the simulated disk, from its submit to its completion.

import type { Address } from "../../ports/index.ts";
import type { FaultRule } from "./sim-faults.ts";
import type { OperationKind } from "./write-history.ts";

export interface DiskOperation {
  /** The medium's number for it. */
  readonly id: number;
  readonly kind: OperationKind;
  readonly tag: number;
  readonly offsetBytes: number;
  readonly bytes: number;
  /** Address and length of each piece of memory, as they were when it was submitted. */
  readonly pieces: readonly (readonly [Address, number])[];
  /** Where the iovecs lie, 0 if there are none. */
  readonly iovecs: Address;
  readonly isPunch: boolean;
  readonly fault: FaultRule | null;
  /** Where it really goes. */
  actualOffsetBytes: number;
  /** Ranges of the operation that move at one moment each; null once moved. */
  readonly transfers: (readonly [from: number, to: number] | null)[];
  /** What it will complete with. */
  result: number;
}
