// @hot
// Pauses: the time between completions while something is in flight, the longest of them, and
// those around each loss of a back-end.

/** Pauses over a back-end's death that are kept, the first of a run. */
const LOSS_PAUSES_MAX = 16384;

// Indices into Pauses.cells, which change in place.
const LAST_US = 0;
const LONGEST_US = 1;

export class Pauses {
  /** Of each loss that was made good: the time without completions around it. */
  readonly lossUs: Float64Array = new Float64Array(LOSS_PAUSES_MAX);
  lossCount = 0;
  private readonly cells: Float64Array = new Float64Array(2);
  private lossPending = false;

  /** When completions were last seen, or begin() was called. */
  get lastUs(): number {
    return this.cells[LAST_US];
  }

  get longestUs(): number {
    return this.cells[LONGEST_US];
  }

  reset(): void {
    this.cells[LONGEST_US] = 0;
    this.lossCount = 0;
  }

  /** Requests are about to be submitted: what was before is no pause. */
  begin(now: Float64Array): void {
    this.cells[LAST_US] = now[0];
  }

  /** Completions are seen at now[0]. */
  note(now: Float64Array): void {
    const cells = this.cells;
    const pauseUs = now[0] - cells[LAST_US];
    if (pauseUs > cells[LONGEST_US]) cells[LONGEST_US] = pauseUs;
    if (this.lossPending) {
      this.lossPending = false;
      if (this.lossCount < LOSS_PAUSES_MAX) {
        this.lossUs[this.lossCount] = pauseUs;
        this.lossCount += 1;
      }
    }
    cells[LAST_US] = now[0];
  }

  /** The next pause is the one around a loss. */
  lossMadeGood(): void {
    this.lossPending = true;
  }

  // @cold
  lossesMs(): number[] {
    return Array.from(this.lossUs.subarray(0, this.lossCount), (us) => us / 1000);
  }
}
