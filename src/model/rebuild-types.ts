// How fast a node's volumes may bring copies up to date, as it crosses the REST API; schemas in
// rebuild-schemas.ts. Rules as in types.ts.

export interface RebuildLimitChange {
  /** For all of them together; null = automatic: as fast as clients' latency allows. */
  readonly bytesPerSecond: number | null;
}

export interface RebuildLimit extends RebuildLimitChange {
  /** In force now. */
  readonly currentBytesPerSecond: number;
  /** Copied since the daemon was started. */
  readonly movedBytes: number;
}
