// A PC's firmware, a boot loader and Linux start from a volume, again and again. SeaBIOS drives
// one queue of many, in its own order and without interrupts; each reboot resets the device and
// negotiates anew on the same connection.

import assert from "node:assert/strict";
import { ensureBootImage, type Guest, writeBootImage } from "../../vm/index.ts";
import type { Daemon } from "../daemon.ts";
import {
  assertNoErrors,
  assertNoMore,
  blk,
  holdings,
  limit,
  rounds,
  scenario,
  steady,
  volumeFile,
} from "./guest-fixture.ts";

const SERIAL = "ringstore-boot-0001";

/** A system without tools, which a firmware loads quickly from a volume. */
const SMALL = { initramfs: { programs: [] } };
const PATTERN = "dd bs=64k count=16 2>/dev/null";
const WRITE = `${PATTERN} if=/tmp/sent of=/dev/vda seek=3200 conv=fsync && sha256sum </tmp/sent`;
const READ = `echo 3 >/proc/sys/vm/drop_caches; ${PATTERN} if=/dev/vda skip=3200 | sha256sum`;
/** Keeps the disk busy until the end of the guest. */
const BUSY = "while dd if=/dev/zero of=/dev/vda bs=4k count=999 seek=60000; do :; done";

/** A volume with a bootable system at its start; returns its socket. */
async function bootableVolume(daemon: Daemon): Promise<string> {
  await daemon.json(["volume", "create", "boot", "--size", "256M", "--serial", SERIAL]);
  await writeBootImage(await ensureBootImage(SMALL), await volumeFile(daemon, "boot"));
  return (await daemon.json(["volume", "attach", "boot"])).socket;
}

async function assertBootedFromVolume(guest: Guest, since: number): Promise<void> {
  await guest.waitForText("SYSLINUX", { since });
  assert.match(await guest.must("cat /proc/cmdline"), /BOOT_IMAGE=\/vmlinuz/);
  assert.equal((await guest.must("cat /sys/block/vda/serial")).trim(), SERIAL);
}

scenario(
  "a guest boots from a volume and reboots, by reset and by itself",
  limit("BOOT"),
  async (host) => {
    const daemon = await host.daemon();
    const socket = await bootableVolume(daemon);
    const guest = await host.guest({
      bootFrom: "disk",
      allowReboot: true,
      cpuCount: 2,
      disks: [blk(socket, { bootIndex: 0, queueCount: 4 })],
    });
    await assertBootedFromVolume(guest, 0);
    assert.equal((await guest.must("ls -d /sys/block/vda/mq/*")).trim().split("\n").length, 2);
    const sum = await guest.must(`${PATTERN} if=/dev/urandom of=/tmp/sent && ${WRITE}`);
    let before = holdings(daemon.pid);
    for (let round = 1; round <= rounds("BOOT"); round++) {
      const since = guest.console.length;
      // The reset button in the middle of I/O, and a reboot that the guest does in order.
      if (round % 2 === 1) {
        const ended = guest.run(BUSY).then(
          () => "by itself",
          () => "by the reset",
        );
        await guest.must("until pidof dd; do usleep 20000; done");
        await guest.reset();
        assert.equal(await ended, "by the reset");
      } else {
        await guest.reboot();
      }
      await assertBootedFromVolume(guest, since);
      if (round === 2) before = await steady(daemon.pid);
    }
    assert.equal(guest.boots, 1 + rounds("BOOT"));
    assert.equal(await guest.must(READ), sum);
    await assertNoMore(daemon.pid, before, "a reboot leaves nothing in the daemon");
    await assertNoErrors(guest);
  },
);

scenario("a legacy device: no VERSION_1 from the firmware to Linux", limit(), async (host) => {
  const daemon = await host.daemon();
  const socket = await bootableVolume(daemon);
  const guest = await host.guest({
    bootFrom: "disk",
    cpuCount: 2,
    disks: [blk(socket, { bootIndex: 0, queueCount: 2, properties: { "disable-modern": true } })],
  });
  await assertBootedFromVolume(guest, 0);
  const features = (await guest.must("cat /sys/block/vda/device/features")).trim();
  assert.equal(features[32], "0", "VERSION_1 was not negotiated");
  assert.equal(features[9], "1", "FLUSH was");
  const sum = await guest.must(`${PATTERN} if=/dev/urandom of=/tmp/sent && ${WRITE}`);
  assert.equal(await guest.must(READ), sum);
  await assertNoErrors(guest);
});
