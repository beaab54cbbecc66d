// The bounce pool on its own: order and re-entry.

import assert from "node:assert/strict";
import { it } from "node:test";
import { Workbench } from "./_fake-workbench.ts";
import type { BounceClient } from "./bounce-pool.ts";

it("whoever asks while others wait is put behind them, also from within a grant", () => {
  const bench = new Workbench({ slots: 16, bounceBufferCount: 2, bounceBufferBytes: 4096 });
  const pool = bench.workspace.bounce;
  const granted: number[] = [];
  const client: BounceClient = {
    bounceGranted(slot: number, buffer: number): void {
      granted.push(slot);
      if (slot !== 0) return;
      // This one is done at once, and its owner has another request already.
      pool.release(buffer);
      assert.equal(pool.acquire(index, 9), -1, "slot 1 and 2 were first");
    },
  };
  const index = pool.addClient(client);
  const held = [pool.acquire(index, 10), pool.acquire(index, 11)];
  assert.deepEqual([...held].sort(), [0, 1]);
  assert.notEqual(pool.address(0), pool.address(1));
  for (const slot of [0, 1, 2]) assert.equal(pool.acquire(index, slot), -1);
  assert.throws(() => pool.removeClient(index), /while a slot waits/);
  pool.release(held[0] as number);
  assert.deepEqual(granted, [0, 1]);
  pool.release(held[1] as number);
  assert.deepEqual(granted, [0, 1, 2]);
  assert.equal(pool.waitingSlots, 1);
  assert.throws(() => {
    pool.release(0);
    pool.release(0);
    pool.release(0);
  }, /released twice/);
});
