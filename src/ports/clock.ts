// Time and randomness reach the data path only through these ports, so that the simulator can
// replace them.

export interface Clock {
  /** Monotonic microseconds since an arbitrary start, fractional. Allocates nothing. */
  nowUs(): number;
}

export interface Random {
  /** Uniform in [0, 2^32). */
  u32(): number;
}
