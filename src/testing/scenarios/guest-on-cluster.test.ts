// A real guest on a volume with copies on two nodes: a file system under verified I/O while the
// daemon of the other copy, and then the owner's own, are killed with `kill -9`. The guest sees no
// error, its file system is clean, and both copies are the same.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../../base/index.ts";
import { NodeCluster } from "../nodes/node-cluster.ts";
import { Cleanup } from "../soak/cleanup.ts";
import {
  assertNoErrors,
  blk,
  limit,
  STOP_FILE,
  scenario,
  untilStopped,
  verifiedFio,
} from "./guest-fixture.ts";

const VOLUME_BYTES: number = 96 * MIB;
const SHORT_MS = 1500;

scenario("a guest outlives the daemons of both copies of its disk", limit(), async (host) => {
  const cleanup = new Cleanup();
  try {
    const options = { nodeCount: 3, diskBytes: 320 * MIB } as const;
    const cluster = await NodeCluster.start(cleanup, options);
    await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
    const [, other = 0] = await cluster.holders(0, "vm");
    const name = `node${other + 1}`;
    await cluster.attach(0, "vm");
    const guest = await host.guest({
      cpuCount: 2,
      disks: [blk(cluster.link("vm"), { queueCount: 2 })],
    });
    await guest.must("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt");
    let isOver = false;
    // It ends at the first wrong byte or error, and otherwise when it is told to.
    const more = "--bsrange=4k-64k --blockalign=4k --fsync=64 --fallocate=none";
    const fio = verifiedFio({ device: "/mnt/data", size: "24M", seconds: 5, more });
    const load = guest.run(untilStopped(fio), { timeoutMs: limit().timeout }).finally(() => {
      isOver = true;
    });
    load.catch(() => undefined);
    await guest.must("until pidof fio; do usleep 20000; done");
    await sleep(SHORT_MS);

    await cluster.kill(other);
    await cluster.copiesSoon(0, "vm", { [name]: "out" });
    await sleep(SHORT_MS);
    await cluster.restart(other);
    await cluster.copiesSoon(0, "vm", { [name]: "in-sync" });
    await sleep(SHORT_MS);
    await cluster.kill(0);
    await sleep(SHORT_MS);
    await cluster.restart(0);
    await cluster.copiesSoon(0, "vm", { node1: "in-sync", [name]: "in-sync" });
    await guest.must(
      "for n in 1 2 3 4; do dd if=/dev/urandom of=/mnt/f$n bs=64k count=8; done; sync",
    );
    assert.equal(isOver, false, "fio went on through it all");
    await guest.must(`touch ${STOP_FILE}`);
    const { exitCode, stdout, stderr } = await load;
    assert.equal(exitCode, 0, stdout + stderr);
    assert.doesNotMatch(stdout + stderr, /verify:|error=|fio:/);
    await guest.must("cd /mnt && md5sum data f? >/tmp/sums; cd / && umount /mnt");
    await guest.must("e2fsck -fn /dev/vda && mount -o ro /dev/vda /mnt");
    await guest.must("cd /mnt && md5sum -c /tmp/sums && cd / && umount /mnt");
    await assertNoErrors(guest);
    await guest.kill();
    assert.ok((await cluster.compareCopies("vm")) > 0);
  } finally {
    await cleanup.run();
  }
});
