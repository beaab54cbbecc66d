// Time and randomness reach the data path only through these ports, so that the simulator can
// replace them.

export interface Clock {
  /** Monotonic microseconds since an arbitrary start, fractional. Allocates nothing. */
  nowUs(): number;
  /**
   * The same, stored in cell[0]: for loops, because a fractional result may be boxed, a cell is
   * not. A clock without it is asked through nowUs().
   */
  storeNowUs?(cell: Float64Array): void;
}

export interface Random {
  /** Uniform in [0, 2^32). */
  u32(): number;
}
