// READ into room that ends within a block: whole blocks are read into memory of our own, and only
// what there is room for is passed on. Initiators that send such a command err, or test.

import { RESERVED_READ } from "./access.ts";
import type { Command } from "./command.ts";
import type { CommandRun, Steps } from "./command-run.ts";
import { STEP_BYTES } from "./limits.ts";
import { TRANSFER, TRANSFER_LBA } from "./transfer.ts";

/** Started by the engine after judgeTransfer() and the setting of wantedBytes. */
export const READ_PART: Command = {
  name: "READ",
  opcode: 0x28,
  action: -1,
  usage: [],
  reserved: RESERVED_READ,
  flags: 0,
  run: readPart,
};

function* readPart(run: CommandRun): Steps {
  const { tasks } = run.host;
  const { blockBytes } = run;
  const lba = TRANSFER[TRANSFER_LBA];
  const room = Math.min(tasks.dataInBytes[run.task], tasks.wantedBytes[run.task]);
  if (!run.mapIn(room)) return;
  const blocks = Math.ceil(room / blockBytes);
  if (!(yield* run.enter(lba, blocks, false))) return;
  const { address } = yield* run.takeScratch();
  for (let done = 0; done < room; done += STEP_BYTES) {
    const bytes = Math.min(STEP_BYTES, room - done);
    const whole = Math.ceil(bytes / blockBytes) * blockBytes;
    let result = yield* run.read(lba * blockBytes + done, address, whole);
    if (result >= 0) result = run.host.scatter(run.task, done, address, bytes);
    if (result < 0) {
      run.refuseResult(result, true);
      return;
    }
  }
  tasks.movedBytes[run.task] = room;
}
