// Run by memory.test.ts in a process of its own, with --expose-gc: writes and reads a store on the
// file given until its ring has gone round many times, and says on stdout, as JSON, how much the
// heap has grown.

import { MIB } from "../../base/index.ts";
import { BenchRig, prewrite, VOLUME_UUID } from "./real-rig.ts";

const DISK_BYTES: number = 256 * MIB;
const VOLUME_BYTES: number = 64 * MIB;
const WARM_UP = 150_000;
const COUNT = 500_000;

const collect = (globalThis as unknown as { gc: () => void }).gc;
const path = process.argv[2] as string;
const rig = new BenchRig(50);
prewrite(path, DISK_BYTES, rig.memory);
rig.format(path, 8 * MIB);
const store = rig.openStore(path, DISK_BYTES);
rig.await((done) => store.createVolume({ uuid: VOLUME_UUID, sizeBytes: VOLUME_BYTES }, done));
const volume = store.openVolume(VOLUME_UUID, { readOnly: false, serial: "memory" });

function run(count: number): void {
  const work = { bytes: 4096, depth: 32, sequential: false, timeMaxMs: 600_000 } as const;
  rig.measure(volume, VOLUME_BYTES, { ...work, op: "write", countMax: count / 2 }, 1);
  rig.measure(volume, VOLUME_BYTES, { ...work, op: "read", countMax: count / 2 }, 2);
}

run(WARM_UP);
collect();
const before = process.memoryUsage();
run(COUNT);
collect();
const after = process.memoryUsage();
process.stdout.write(
  JSON.stringify({
    grownBytes: after.heapUsed + after.external - before.heapUsed - before.external,
    groups: store.usage().counters.groupsWritten,
    writtenBack: store.usage().counters.writtenBackBlocks,
    checkpoints: store.usage().counters.checkpoints,
  }),
);
