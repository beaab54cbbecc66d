// Signalling an eventfd of somebody else's: it counts, and it never blocks.

import assert from "node:assert/strict";
import { test } from "node:test";
import { addStatusFlags, close, eventClear, eventfd, pipe, syscall6, write } from "./index.ts";
import { arenaOver, mmap, munmap } from "./memory.ts";
import { canSignalReceived, signalReceived } from "./signal-received.ts";

const EINVAL = 22;
const EBADF = 9;
const MAP_PRIVATE_ANONYMOUS = 0x22;

test("every signal counts, more of them than there are completions to hold", () => {
  assert.ok(canSignalReceived());
  const fd = eventfd();
  const address = mmap(4096, 3, MAP_PRIVATE_ANONYMOUS, -1, 0);
  const words = arenaOver(address, 4096).u32;
  for (let count = 0; count < 1000; count++) assert.equal(signalReceived(fd), 1);
  assert.equal(syscall6(process.arch === "arm64" ? 63 : 0, fd, address, 8, 0, 0, 0), 8);
  assert.equal(words[0], 1000);
  munmap(address, 4096);
  close(fd);
});

test("a full eventfd that blocks does not block", () => {
  const fd = eventfd();
  const address = mmap(4096, 3, MAP_PRIVATE_ANONYMOUS, -1, 0);
  new BigUint64Array(arenaOver(address, 4096).u8.buffer, 0, 1)[0] = 0xffff_ffff_ffff_fffen;
  assert.equal(write(fd, address, 8), 8);
  // F_SETFL: blocking from here on.
  assert.equal(syscall6(process.arch === "arm64" ? 25 : 72, fd, 4, 0, 0, 0, 0), 0);
  for (let count = 0; count < 100; count++) assert.equal(signalReceived(fd), 1);
  addStatusFlags(fd, 0o4000);
  assert.equal(eventClear(fd), 8);
  munmap(address, 4096);
  close(fd);
});

test("what is no eventfd is left alone", () => {
  const [reader, writer] = pipe();
  assert.equal(signalReceived(writer), -EINVAL);
  close(reader);
  close(writer);
  assert.equal(signalReceived(writer), -EBADF);
});
