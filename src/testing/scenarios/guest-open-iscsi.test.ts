// A Linux guest that is an initiator itself, as hosts without QEMU are: the kernel's iscsi_tcp under
// Debian's open-iscsi. Discovery and the target ask for proofs and give theirs, set as
// docs/classic.md says; a file system, logout and login; the daemon is killed under verified load,
// and its restart resumes the session within the default time-outs. What the guest wrote is then
// read by the host, which shares none of the guest's caches.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { AttachReply } from "../../model/types.ts";
import { type Guest, requireOnSystem } from "../../vm/index.ts";
import type { Daemon } from "../daemon.ts";
import {
  assertNoErrors,
  type GuestHost,
  killAndRestart,
  limit,
  rounds,
  STOP_FILE,
  scenario,
  until,
  untilStopped,
  verifiedFio,
} from "./guest-fixture.ts";
import {
  disksSoon,
  documentedCommand,
  initiatorGuest,
  keepSecrets,
  LOGIN_REFUSED,
  logIn,
  MUTUAL_CHAP,
  type Place,
  sessionStates,
  tryLogin,
} from "./initiator-fixture.ts";
import { CHAP, classicDaemon, classicVolume, urlWithSecret } from "./iscsi-fixture.ts";

/** Between two kills: long enough for the initiator to be back at work. */
const CALM_MS = 2500;
const MOUNT = "mount /dev/sda /mnt";
const UMOUNT = "cd / && umount /mnt && e2fsck -fn /dev/sda";
/** Of files; what they sum up to stays in the guest's memory. */
const SUM = "cd /mnt && find . -type f | sort | xargs md5sum >/tmp/sums";

/** Names as docs/classic.md has them: of whoever asks for targets, the portal, the target. */
const PROOFS = {
  hosts: "hosts-horse-batt",
  portal: "portal-horse-sta",
  db1: "target-horse-stap",
} as const;
const DISCOVERY = "iscsiadm -m discoverydb ";

/** `--PREFIX-user USER --PREFIX-secret-file FILE`. */
function pairOf(host: GuestHost, prefix: string, user: keyof typeof PROOFS): readonly string[] {
  const file = join(host.folder(), user);
  writeFileSync(file, PROOFS[user], { mode: 0o600 });
  return [`--${prefix}-user`, user, `--${prefix}-secret-file`, file];
}

/** Whoever cannot prove himself is told no target; who can is, by a portal that proves itself. */
async function discover(guest: Guest, place: Place): Promise<void> {
  const { target, portal } = place;
  const open = await guest.run(`iscsiadm -m discovery -t sendtargets -p ${portal}`);
  assert.equal(open.exitCode, LOGIN_REFUSED, open.stdout + open.stderr);
  assert.ok(!open.stdout.includes(target));
  await keepSecrets(guest, { ...PROOFS, portal: "another-horse-st" });
  const impostor = await guest.run(documentedCommand(DISCOVERY, place));
  assert.notEqual(impostor.exitCode, 0, "a portal that does not prove itself is asked nothing");
  assert.ok(!impostor.stdout.includes(target));
  await keepSecrets(guest, PROOFS);
  const found = await guest.must(documentedCommand(DISCOVERY, place));
  assert.equal(found.trim().split("\n").at(-1), `${portal},1 ${target}`);
}

/** Both sides prove themselves, or there is no session. */
async function logInBothWays(guest: Guest, place: Place): Promise<void> {
  const more = documentedCommand(MUTUAL_CHAP, place);
  const wrong = { user: CHAP.user, secret: "wrong-horse-123" };
  assert.equal(await tryLogin(guest, { ...place, chap: wrong, more }), LOGIN_REFUSED);
  await keepSecrets(guest, { db1: "another-horse-st" });
  assert.notEqual(await tryLogin(guest, { ...place, chap: CHAP, more }), 0, "an impostor");
  assert.deepEqual(await sessionStates(guest), []);
  await keepSecrets(guest, PROOFS);
  await logIn(guest, { ...place, chap: CHAP, more });
}

async function logOut(guest: Guest): Promise<void> {
  await guest.must("iscsiadm -m node --logoutall=all");
  await disksSoon(guest, 0);
}

/** Kills the daemon, and waits until the same session is back and writes through it are safe. */
async function killUnderLoad(guest: Guest, daemon: Daemon, round: number): Promise<void> {
  await guest.must("until pidof fio; do usleep 50000; done");
  await sleep(CALM_MS);
  await killAndRestart(daemon);
  const written = `/mnt/after-kill-${round}`;
  await guest.must(`dd if=/dev/urandom of=${written} bs=64k count=16 conv=fsync 2>/dev/null`);
  const isBack = (states: readonly string[]): boolean => `${states}` === "LOGGED_IN";
  await until(() => sessionStates(guest), isBack, "logged in again");
}

/** Reads the volume by another initiator, checks the file system, and each file against `sums`. */
function compareOnHost(host: GuestHost, reply: AttachReply, sums: string): void {
  const folder = host.folder();
  const image = join(folder, "image");
  const qemuImg = requireOnSystem("qemu-img", "qemu-utils");
  const convert = ["convert", "-f", "raw", "-O", "raw", urlWithSecret(reply), image];
  execFileSync(qemuImg, convert, { stdio: "pipe" });
  execFileSync(requireOnSystem("e2fsck", "e2fsprogs"), ["-fn", image], { stdio: "pipe" });
  const debugfs = requireOnSystem("debugfs", "e2fsprogs");
  const lines = sums.trim().split("\n");
  assert.ok(lines.length > 5, sums);
  for (const [index, line] of lines.entries()) {
    const [sum, name = ""] = line.split(/ +\./);
    const copy = join(folder, `${index}`);
    execFileSync(debugfs, ["-R", `dump ${name} ${copy}`, image], { stdio: "pipe" });
    assert.equal(createHash("md5").update(readFileSync(copy)).digest("hex"), sum, name);
  }
}

scenario("open-iscsi: CHAP, files, a daemon killed under load", limit("KILL"), async (host) => {
  const discovery = pairOf(host, "discovery-chap", "hosts");
  const both = [...discovery, ...pairOf(host, "discovery-chap-target", "portal")];
  const daemon = await classicDaemon(host, both);
  const attach = pairOf(host, "chap-target", "db1");
  const reply = await classicVolume(host, daemon, "data", "96M", { attach });
  const { target, portal } = reply.classic ?? { target: "", portal: null };
  assert.ok(portal !== null);
  const guest = await initiatorGuest(host);
  await discover(guest, { target, portal });
  await logInBothWays(guest, { target, portal });
  await disksSoon(guest, 1);
  await guest.must(`mkfs.ext4 -q /dev/sda && ${MOUNT} && cp /sbin/* /mnt/ && ${SUM} && ${UMOUNT}`);
  await logOut(guest);
  await guest.must("iscsiadm -m node --loginall=all");
  await disksSoon(guest, 1);
  await guest.must(`${MOUNT} && cd /mnt && md5sum -c /tmp/sums`);

  const more = "--bsrange=4k-64k --blockalign=4k --fsync=64 --fallocate=none";
  const fio = verifiedFio({ device: "/mnt/data", size: "24M", seconds: 5, more });
  const load = guest.run(untilStopped(fio), { timeoutMs: limit("KILL").timeout });
  load.catch(() => undefined);
  const kills = Math.min(2, rounds("KILL"));
  for (let round = 0; round < kills; round++) await killUnderLoad(guest, daemon, round);
  await guest.must(`touch ${STOP_FILE}`);
  const { exitCode, stdout, stderr } = await load;
  assert.equal(exitCode, 0, stdout + stderr);
  assert.doesNotMatch(stdout + stderr, /verify:|error=|fio:/);

  const seen = await guest.must("dmesg | grep -c 'detected conn error'");
  assert.ok(Number(seen) >= kills, "the kills were seen by the initiator");
  await guest.must(`${SUM} && ${UMOUNT}`);
  await assertNoErrors(guest);
  const sums = await guest.must("cat /tmp/sums");
  await logOut(guest);
  compareOnHost(host, reply, sums);
  assert.deepEqual((await daemon.json(["volume", "show", "data"])).health, []);
});
