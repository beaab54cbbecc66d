// Runs a task to its end with blocking calls: for tools that have a thread to themselves.

import { EIO } from "../base/index.ts";
import type { BlockIo } from "./format-disk.ts";
import { IO_SYNC, IO_WRITE, type IoRequest, type IoTask } from "./task.ts";

export function runBlocking<T>(task: IoTask<T>, io: BlockIo): T {
  let error = 0;
  for (;;) {
    const { value, done } = task.next(error);
    if (done === true) return value;
    error = 0;
    for (const request of value) {
      const result = carryOut(request, io);
      if (result !== request.bytes && error === 0) error = result < 0 ? result : -EIO;
    }
  }
}

function carryOut(request: IoRequest, io: BlockIo): number {
  if (request.kind === IO_SYNC) return io.sync();
  const { offsetBytes, address, bytes } = request;
  return request.kind === IO_WRITE
    ? io.write(offsetBytes, address, bytes)
    : io.read(offsetBytes, address, bytes);
}
