// The cluster's key as the wire sees it: it makes and compares codes, and never leaves its holder.

export interface ClusterSecret {
  /** HMAC-SHA256 of `message` under the cluster key: 32 bytes. Not on the hot path. */
  mac(message: Uint8Array): Uint8Array;
  /** Fills `target` with bytes that nobody can foresee. */
  fillRandom(target: Uint8Array): void;
}
