// A guest whose disk is a volume on the classic path: QEMU's own initiator, with exactly the
// arguments that attach prints. Firmware and Linux boot from it, a file system survives, and the
// daemon is killed under verified load and comes back.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { ensureBootImage, type Guest, requireOnSystem } from "../../vm/index.ts";
import {
  assertNoErrors,
  killAndRestart,
  limit,
  rounds,
  scenario,
  verifiedFio,
} from "./guest-fixture.ts";
import { classicDaemon, classicVolume, urlWithSecret } from "./iscsi-fixture.ts";

const SMALL = { initramfs: { programs: [] } };
/** Between two kills: long enough for the initiator to be back at work. */
const CALM_MS = 4000;

async function makeAndCheck(guest: Guest, device: string): Promise<void> {
  await guest.must(
    `mkfs.ext4 -q ${device} && mount ${device} /mnt && cp -r /sbin /mnt/ && ` +
      "dd if=/dev/urandom of=/mnt/large bs=1M count=16 2>/dev/null && " +
      "cd /mnt && find . -type f | sort | xargs md5sum >/tmp/sums; cd /; umount /mnt",
  );
  await guest.must(`e2fsck -fn ${device} && mount -o ro ${device} /mnt`);
  await guest.must("cd /mnt && md5sum -c /tmp/sums >/tmp/seen; r=$?; cd /; umount /mnt; exit $r");
}

scenario("a guest boots from an iSCSI target and reboots", limit("BOOT"), async (host) => {
  const daemon = await classicDaemon(host);
  const reply = await classicVolume(host, daemon, "boot", "256M");
  const { path } = await ensureBootImage(SMALL);
  const qemuImg = requireOnSystem("qemu-img", "qemu-utils");
  const convert = ["convert", "-n", "-f", "raw", "-O", "raw", path, urlWithSecret(reply)];
  execFileSync(qemuImg, convert, { stdio: "pipe" });
  const guest = await host.guest({
    bootFrom: "disk",
    allowReboot: true,
    extraArguments: reply.qemu["7.2"],
  });
  await guest.waitForText("SYSLINUX", { since: 0 });
  assert.match(await guest.must("cat /proc/cmdline"), /BOOT_IMAGE=\/vmlinuz/);
  const since = guest.console.length;
  await guest.reboot();
  await guest.waitForText("SYSLINUX", { since });
  await assertNoErrors(guest);
});

scenario("a file system, and a daemon killed under load", limit("KILL"), async (host) => {
  const daemon = await classicDaemon(host);
  const reply = await classicVolume(host, daemon, "data", "192M");
  const guest = await host.guest({ cpuCount: 2, extraArguments: reply.qemu["7.2"] });
  await makeAndCheck(guest, "/dev/vda");
  await guest.must("blkdiscard /dev/vda");
  const fio = guest.must(verifiedFio({ device: "/dev/vda", size: "64M", seconds: 60 }));
  for (let round = 0; round < Math.min(3, rounds("KILL")); round++) {
    await guest.must("until pidof fio; do usleep 50000; done");
    await sleep(CALM_MS);
    await killAndRestart(daemon);
    await daemon.waitForApi();
  }
  await fio;
  await makeAndCheck(guest, "/dev/vda");
  await assertNoErrors(guest);
  const { attachment, health } = await daemon.json(["volume", "show", "data"]);
  assert.equal(attachment.sessionCount, 1);
  assert.deepEqual(health, []);
  // A stop in good order is no different for the guest.
  daemon.signal("SIGTERM");
  await daemon.waitForExit();
  await daemon.launch();
  await guest.must("dd if=/dev/zero of=/dev/vda bs=1M count=8 conv=fsync 2>/dev/null");
  await assertNoErrors(guest);
});
