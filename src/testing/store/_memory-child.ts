// Run by memory.test.ts in a process of its own, with --expose-gc: writes and reads a store on the
// file given until its ring has gone round many times, a volume and a replica, and says on stdout,
// as JSON, how much the heap has grown.

import { MIB, Prng } from "../../base/index.ts";
import { type BlockDevice, REPLICA_WRITE, type ReplicaHandler } from "../../ports/index.ts";
import { BenchRig, prewrite, VOLUME_UUID } from "./real-rig.ts";

const DISK_BYTES: number = 256 * MIB;
const VOLUME_BYTES: number = 64 * MIB;
const REPLICA_UUID = "00000000-0000-4000-8000-000000000002";
const BLOCK = 4096;
const DEPTH = 32;
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

/** Keeps `DEPTH` writes to a replica on their way, each committed when it has ended. */
class Writer implements ReplicaHandler {
  private readonly prng: Prng = new Prng(3);
  private readonly address: number = rig.memory.allocate(BLOCK).address;
  private sequence = 0;
  private left = 0;
  private inflightCount = 0;

  run(count: number): void {
    this.left = count;
    for (let index = 0; index < DEPTH; index++) this.begin();
    rig.reactor.run();
  }

  private begin(): void {
    this.sequence += 1;
    this.left -= 1;
    this.inflightCount += 1;
    const block = this.prng.below(VOLUME_BYTES / BLOCK);
    replica.write(this.sequence, REPLICA_WRITE, block, 1, this.address, this.sequence);
  }

  replicaCompleted(tag: number, result: number): void {
    if (result !== 0) throw new Error(`a write ended with ${result}`);
    this.inflightCount -= 1;
    replica.setCommitted(tag);
    if (this.left > 0) this.begin();
    else if (this.inflightCount === 0) rig.reactor.stop();
  }
}

const replicaSpec = { uuid: REPLICA_UUID, sizeBytes: VOLUME_BYTES, isReplica: true };
rig.await((done) => store.createVolume(replicaSpec, done));
const writer = new Writer();
const replica = store.openReplica(REPLICA_UUID, { name: "memory", handler: writer });
rig.await((done) => replica.fence(1, done));
const asDevice = { submit: (slot: number) => replica.submitRead(slot) } as BlockDevice;

function run(count: number): void {
  const work = { bytes: 4096, depth: 32, sequential: false, timeMaxMs: 600_000 } as const;
  rig.measure(volume, VOLUME_BYTES, { ...work, op: "write", countMax: count / 2 }, 1);
  rig.measure(volume, VOLUME_BYTES, { ...work, op: "read", countMax: count / 4 }, 2);
  writer.run(count / 4);
  rig.measure(asDevice, VOLUME_BYTES, { ...work, op: "read", countMax: count / 8 }, 2);
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
