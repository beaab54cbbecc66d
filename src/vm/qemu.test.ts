// Boots real guests. Each takes two or three seconds under emulation.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { MIB } from "../base/index.ts";
import { processExists, sparseFile, testDirectory, testGuest } from "./_test-guest.ts";
import type { Guest } from "./guest.ts";
import { bootGuest } from "./qemu.ts";

/** For what hangs: a boot beside a dozen other processes has taken half a minute. */
const LIMIT = { timeout: 600_000 };
/** For one step in a guest, so that what does not end is named. */
const STEP = { timeoutMs: 120_000 };

async function fillFileSystem(guest: Guest, path: string): Promise<void> {
  assert.equal(await guest.must("cat /sys/block/vda/size"), `${(256 * MIB) / 512}\n`);
  await guest.must("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt");
  const sum = await guest.must(
    "dd if=/dev/urandom of=/mnt/file bs=1M count=8 2>/dev/null && sync && sha256sum </mnt/file",
  );
  await guest.must("umount /mnt && mount -o ro /dev/vda /mnt");
  assert.equal(await guest.must("sha256sum </mnt/file"), sum);
  await guest.must("umount /mnt && e2fsck -fn /dev/vda");
  const beforeBlocks = (await stat(path)).blocks;
  assert.match(await guest.must("blkdiscard --version"), /util-linux/, "not busybox's own");
  await guest.must("blkdiscard /dev/vda");
  assert.ok((await stat(path)).blocks < beforeBlocks / 4, "discarded space was given back");
}

async function runFio(guest: Guest, path: string): Promise<void> {
  const report = await guest.must(
    "fio --name=j --filename=/dev/vdb --rw=randwrite --bs=4k --size=8M --direct=1 " +
      "--ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 --output-format=json",
    STEP,
  );
  const job = (JSON.parse(report) as { jobs: Record<string, Record<string, number>>[] }).jobs[0]!;
  assert.equal(job["error"] as unknown as number, 0);
  assert.equal(job["write"]!["io_bytes"], 8 * MIB);
  assert.equal(job["read"]!["io_bytes"], 8 * MIB, "everything was read back for verification");
  assert.notDeepEqual(readFileSync(path).subarray(0, 4096), Buffer.alloc(4096));
}

async function runCommands(guest: Guest): Promise<void> {
  const failing = await guest.run("echo out; echo err >&2; exit 3");
  assert.deepEqual(failing, { exitCode: 3, stdout: "out\n", stderr: "err\n" });
  await assert.rejects(guest.must("echo why >&2; false"), { code: "command", message: /why/ });
  const awkward = "  'quoted' \"$HOME\" \\ `tick` ümläut\n\ttab ";
  const printed = await guest.must(`cat <<'END'\n${awkward}\nEND`);
  assert.equal(printed, `${awkward}\n`);
  const large = await guest.must("yes 0123456789 | head -c 100000");
  assert.equal(large.length, 100_000);
  assert.equal((await guest.run("kill -9 $$")).exitCode, 137);
  assert.equal((await guest.run("cat")).exitCode, 0, "stdin is empty, not the agent's port");

  // Each waits for the other: one after the other would never end.
  const [a, b] = await Promise.all([
    guest.must("touch /tmp/a; until [ -e /tmp/b ]; do usleep 10000; done; echo a"),
    guest.must("touch /tmp/b; until [ -e /tmp/a ]; do usleep 10000; done; echo b"),
  ]);
  assert.equal(a + b, "a\nb\n");

  // Each is sent while the one before is ending: of fifteen, none may be lost.
  for (let index = 0; index < 15; index++) {
    assert.equal(await guest.must(`: ${"padding".repeat(30)}; echo ${index}`), `${index}\n`);
  }

  await assert.rejects(guest.run("sleep 1000 & sleep 1000", { timeoutMs: 500 }), {
    code: "timeout",
  });
  const left = "until ! ps | grep -q '[s]leep 1000'; do usleep 50000; done";
  await guest.must(left, STEP);
}

async function plugDisk(guest: Guest, path: string): Promise<void> {
  const status = (await guest.qmp("query-status")) as { status: string };
  assert.equal(status.status, "running");
  await assert.rejects(guest.qmp("no-such-command"), { code: "qmp", message: /no-such-command/ });

  for (let round = 1; round <= 3; round++) {
    const id = await guest.addDisk({ kind: "file", path });
    await guest.must("until [ -b /dev/vda ]; do usleep 10000; done", STEP);
    await assert.rejects(guest.addDisk({ kind: "file", path }), { code: "option" }, "no port left");
    await guest.removeDisk(id, STEP);
    await guest.must("until [ ! -e /dev/vda ]; do usleep 10000; done", STEP);
  }
  await assert.rejects(guest.addDisk({ kind: "file", path: "/no/such/file" }), { code: "qmp" });
  // What was refused has left no port taken. A guest that is asked to let go of what it has not
  // found yet may take minutes for it.
  const last = await guest.addDisk({ kind: "file", path });
  await guest.must("until [ -b /dev/vda ]; do usleep 10000; done", STEP);
  await guest.removeDisk(last, STEP);
}

async function plugMemory(guest: Guest): Promise<void> {
  const totalKib = async (): Promise<number> => {
    return Number(await guest.must("awk '/MemTotal/ {print $2}' /proc/meminfo", STEP));
  };
  const beforeKib = await totalKib();
  await guest.addMemory("more", 128);
  const deadlineMs = performance.now() + STEP.timeoutMs;
  for (let nowKib = beforeKib; nowKib < beforeKib + 120_000; nowKib = await totalKib()) {
    const shown = `${nowKib} KiB, ${beforeKib} KiB before 128 MiB were plugged`;
    assert.ok(performance.now() < deadlineMs, shown);
  }
  await guest.removeMemory("more", STEP);
  assert.equal(await totalKib(), beforeKib);
}

/** A boot is what costs: one guest serves several tests. */
const SHARED = { timeout: 3 * LIMIT.timeout };

test("two disks of one guest", SHARED, async (t) => {
  const directory = await testDirectory(t);
  const first = await sparseFile(join(directory, "first"), 256 * MIB);
  const second = await sparseFile(join(directory, "second"), 64 * MIB);
  const disks = [first, second].map((path) => ({ kind: "file", path }) as const);
  const guest = await testGuest(t, { cpuCount: 2, disks });
  await t.test("a file system is made, filled, and checked", LIMIT, () => {
    return fillFileSystem(guest, first);
  });
  await t.test("fio runs with libaio and verifies, and reports as JSON", LIMIT, () => {
    return runFio(guest, second);
  });
});

test("what is asked of a running guest", SHARED, async (t) => {
  const path = await sparseFile(join(await testDirectory(t), "disk"), 32 * MIB);
  const guest = await testGuest(t, {
    agent: true,
    memorySlots: { count: 2, maxMiB: 1024 },
    initramfs: { programs: [] },
  });
  await t.test("commands: status, outputs, quoting, side by side, time limits", LIMIT, () => {
    return runCommands(guest);
  });
  await t.test("QMP, and a disk that is plugged and unplugged", LIMIT, () => plugDisk(guest, path));
  await t.test("memory is plugged and unplugged", LIMIT, () => plugMemory(guest));
});

test("reset and reboot", LIMIT, async (t) => {
  const guest = await testGuest(t, { allowReboot: true, initramfs: { programs: [] } });
  // In the middle of a line of the agent's: the next boot must be heard all the same.
  const cut = "printf 'OUT 1 half' >/dev/ttyS1; echo said >/dev/console; sleep 1000";
  const pending = guest.run(cut);
  await guest.waitForText(/^said$/m, STEP);
  await guest.reset(STEP);
  assert.equal(guest.boots, 2);
  await assert.rejects(pending, { code: "gone" });
  const since = guest.eventCount;
  await guest.reboot(STEP);
  assert.equal(guest.boots, 3);
  await guest.waitForEvent("RESET", { since, match: (event) => event.data["guest"] === true });
  assert.ok(Number((await guest.must("cat /proc/uptime")).split(" ")[0]) < 100);
});

test("a script from the kernel line runs without agent and powers off", LIMIT, async (t) => {
  const guest = await testGuest(t, {
    agent: false,
    script: 'echo "modules: $(lsmod | grep -c virtio)"; exit 5',
    modules: ["virtio_scsi"],
    initramfs: { programs: [] },
  });
  assert.equal(await guest.waitForScript(STEP), 5);
  assert.match(guest.console.text, /^modules: [5-9]$/m);
  assert.deepEqual(await guest.exited, { code: 0, signal: null });
  await assert.rejects(guest.waitForText("never"), { code: "gone" });
});

test("shutdown powers off; kill leaves no process and no folder", LIMIT, async (t) => {
  const orderly = await testGuest(t, { initramfs: { programs: [] } });
  await orderly.shutdown();
  assert.deepEqual(await orderly.exited, { code: 0, signal: null });
  const guest = await testGuest(t, { initramfs: { programs: [] } });
  const directory = guest.socketPath(".");
  assert.ok(existsSync(directory));
  const pending = guest.run("sleep 1000");
  await guest.kill();
  await assert.rejects(pending, { code: "gone", message: /SIGKILL/ });
  assert.equal(processExists(guest.pid), false);
  assert.equal(existsSync(directory), false);
  await guest.kill();
  await guest.shutdown();
});

test("a panic ends the guest at once, with the console in the error", LIMIT, async (t) => {
  const guest = await testGuest(t, { initramfs: { programs: [] } });
  const pending = guest.run("echo c >/proc/sysrq-trigger; sleep 1000");
  await assert.rejects(pending, { code: "gone", message: /sysrq triggered crash/ });
});

test("a guest that cannot start is an error that shows why", LIMIT, async (t) => {
  const log = (line: string): void => t.diagnostic(line);
  const missing = { kind: "file" as const, path: "/no/such/disk" };
  await assert.rejects(bootGuest({ log, accelerator: "tcg", disks: [missing] }), {
    code: "gone",
    message: /QEMU said:.*No such file or directory/s,
  });
  const broken = { append: "rdinit=/no-such-init root=/dev/none" };
  await assert.rejects(bootGuest({ log, accelerator: "tcg", ...broken }), {
    code: "gone",
    message: /Kernel panic/,
  });
  const tooSlow = { bootTimeoutMs: 1 };
  await assert.rejects(bootGuest({ log, accelerator: "tcg", ...tooSlow }), { code: "timeout" });
});

test("QEMU dies with the process that started it, even by SIGKILL", LIMIT, async (t) => {
  const directory = await testDirectory(t);
  const module = new URL("./qemu.js", import.meta.url).href;
  const script = join(directory, "parent.mjs");
  await writeFile(
    script,
    `import { bootGuest } from ${JSON.stringify(module)};
     const guest = await bootGuest({ initramfs: { programs: [] } });
     console.log("PID " + guest.pid);
     setInterval(() => {}, 1000);\n`,
  );
  const env = { ...process.env, TMPDIR: directory };
  const parent = spawn(process.execPath, [script], { stdio: ["ignore", "pipe", "inherit"], env });
  t.after(() => parent.kill("SIGKILL"));
  let printed = "";
  for await (const chunk of parent.stdout) {
    printed += `${chunk}`;
    if (/PID \d+\n/.test(printed)) break;
  }
  const pid = Number(/PID (\d+)/.exec(printed)?.[1]);
  assert.ok(processExists(pid));
  parent.kill("SIGKILL");
  // Reaped by whoever inherits it; a zombie without an address space has ended as well.
  const ended = (): boolean => !processExists(pid) || isZombie(pid);
  for (let attempt = 0; attempt < 500 && !ended(); attempt++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.ok(ended());
  assert.ok(readdirSync(directory).length > 0, "its folder is in ours, and goes with it");
});

function isZombie(pid: number): boolean {
  try {
    return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return true;
  }
}
