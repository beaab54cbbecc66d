// virtio counts where telemetry reads: neither room may import the other, so the two tables of
// indices are compared here, where both are wired together.

import assert from "node:assert/strict";
import { test } from "node:test";
import { VOLUME_COUNTERS } from "../telemetry/index.ts";
import * as virtio from "../virtio/index.ts";

test("virtio's counter indices are telemetry's", () => {
  const pairs: readonly (readonly [number, number])[] = [
    [virtio.COUNTER_READ, VOLUME_COUNTERS.readCount],
    [virtio.COUNTER_READ_BYTES, VOLUME_COUNTERS.readBytes],
    [virtio.COUNTER_WRITE, VOLUME_COUNTERS.writeCount],
    [virtio.COUNTER_WRITE_BYTES, VOLUME_COUNTERS.writeBytes],
    [virtio.COUNTER_FLUSH, VOLUME_COUNTERS.flushCount],
    [virtio.COUNTER_DISCARD, VOLUME_COUNTERS.discardCount],
    [virtio.COUNTER_DISCARD_BYTES, VOLUME_COUNTERS.discardBytes],
    [virtio.COUNTER_WRITE_ZEROES, VOLUME_COUNTERS.writeZeroesCount],
    [virtio.COUNTER_WRITE_ZEROES_BYTES, VOLUME_COUNTERS.writeZeroesBytes],
    [virtio.COUNTER_OTHER, VOLUME_COUNTERS.otherCount],
    [virtio.COUNTER_ERROR, VOLUME_COUNTERS.errorCount],
    [virtio.COUNTER_UNSUPPORTED, VOLUME_COUNTERS.unsupportedCount],
    [virtio.COUNTER_INFLIGHT, VOLUME_COUNTERS.inflightCount],
    [virtio.COUNTER_KICK, VOLUME_COUNTERS.kickCount],
    [virtio.COUNTER_NOTIFICATION, VOLUME_COUNTERS.notificationCount],
    [virtio.COUNTER_NOTIFICATION_SUPPRESSED, VOLUME_COUNTERS.notificationSuppressedCount],
    [virtio.COUNTER_RING_ERROR, VOLUME_COUNTERS.ringErrorCount],
    [virtio.COUNTER_SESSION, VOLUME_COUNTERS.sessionCount],
    [virtio.COUNTER_CONNECTED, VOLUME_COUNTERS.connected],
    [virtio.COUNTER_PAUSE, VOLUME_COUNTERS.pauseCount],
    [virtio.COUNTER_OPEN_SESSIONS, VOLUME_COUNTERS.openSessionCount],
    [virtio.COUNTER_COMMAND, VOLUME_COUNTERS.commandCount],
    [virtio.COUNTER_LATE_KICK, VOLUME_COUNTERS.lateKickCount],
    [virtio.COUNTER_LATE_INTERRUPT, VOLUME_COUNTERS.lateInterruptCount],
  ];
  for (const [ours, theirs] of pairs) assert.equal(ours, theirs);
  const names = Object.keys(virtio).filter((name) => /^COUNTER_[A-Z_]+$/.test(name));
  assert.equal(names.length, pairs.length, "a counter that is not compared here");
});
