// Ends what `npm start` started, and nothing else: the processes recorded in .ringstore/run/.
// Volumes and their data stay.

import { endProcess, forget, readRecords } from "./lib/processes.mjs";
import { main, RUN, say } from "./lib/project.mjs";

/** A daemon finishes the requests in flight; a guest syncs its disks. */
const GRACE_MS = 15_000;
/** The kernel waits for I/O of a killed process to come back. */
const KILL_MS = 10_000;

const WORDS = {
  gone: "was not running any more",
  ended: "ended",
  killed: `did not end within ${GRACE_MS / 1000} s and was killed`,
  stuck: "could not be killed: it waits for I/O in the kernel",
};

await main(async () => {
  let stuckCount = 0;
  const records = readRecords(RUN);
  for (const record of records) {
    const outcome = await endProcess(record, { graceMs: GRACE_MS, killMs: KILL_MS });
    say(`${record.name}${record.pid > 1 ? ` (pid ${record.pid})` : ""} ${WORDS[outcome]}.`);
    if (outcome === "stuck") stuckCount++;
    else forget(record);
  }
  if (records.length === 0) say("Nothing that npm start started is running.");
  return stuckCount === 0 ? 0 : 1;
});
