// The cluster's key, held by the process: HMAC-SHA256 and random bytes of the system.

import { createHmac, randomFillSync } from "node:crypto";
import { assert } from "../base/index.ts";
import type { ClusterSecret } from "../ports/index.ts";

/** A shorter key could be guessed from one recorded handshake. */
export const CLUSTER_KEY_BYTES_MIN = 32;

export class HmacSecret implements ClusterSecret {
  private readonly key: Uint8Array;

  constructor(key: Uint8Array) {
    assert(key.length >= CLUSTER_KEY_BYTES_MIN, "a cluster key of less than 32 bytes");
    this.key = Uint8Array.from(key);
  }

  mac(message: Uint8Array): Uint8Array {
    return createHmac("sha256", this.key).update(message).digest();
  }

  fillRandom(target: Uint8Array): void {
    randomFillSync(target);
  }
}
