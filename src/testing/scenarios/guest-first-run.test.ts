// What a newcomer does: `npm start` (here without its set-up, which has run), again, `npm stop`; and
// a VM of one's own from the words that `volume attach` prints.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { ensureInitramfs, ensureKernel, findQemu } from "../../vm/index.ts";
import { builtFile, PROJECT_FOLDER } from "../daemon.ts";
import { limit, scenario } from "./guest-fixture.ts";

interface Run {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

const RUN_TIMEOUT_MS = 600_000;

async function run(program: string, args: readonly string[], env = process.env): Promise<Run> {
  return await new Promise((resolve) => {
    const options = { env, timeout: RUN_TIMEOUT_MS, maxBuffer: 1 << 24 };
    execFile(program, args, options, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === "number" ? error.code : 1;
      resolve({ exitCode: code, stdout, stderr });
    });
  });
}

function pidIn(text: string): number {
  return Number(/ringstored \(pid (\d+)\)/.exec(text)?.[1]);
}

/** A process that has ended and that nobody has buried does not run. */
function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

test("npm start shows a guest on a volume, again, and npm stop ends it", limit(), async (t) => {
  const state = mkdtempSync(join(tmpdir(), "rs-show-"));
  const env = { ...process.env, RINGSTORE_STATE: state };
  const start = (): Promise<Run> => {
    const words = [builtFile("daemon/show/main.js"), "--seconds", "1", "--mib", "32"];
    return run(process.execPath, words, env);
  };
  const stop = (): Promise<Run> => {
    return run(process.execPath, [join(PROJECT_FOLDER, "scripts", "stop.mjs")], env);
  };
  t.after(async () => {
    await stop();
    rmSync(state, { recursive: true, force: true });
  });
  const first = await start();
  assert.equal(first.exitCode, 0, first.stdout + first.stderr);
  assert.match(first.stdout, /ringstored \(pid \d+\): started\./);
  assert.match(first.stdout, /It runs under (KVM|TCG), /);
  const rows = [
    ...first.stdout.matchAll(/^\d+ KiB .* (\d+) +[\d.]+ [KMG]iB\/s +[\d.]+ [um]s +[\d.]+ [um]s$/gm),
  ];
  assert.equal(rows.length, 4, first.stdout);
  for (const [line, iops] of rows) assert.ok(Number(iops) > 0, line);
  assert.match(first.stdout, /^The same bytes\.$/m);

  const pid = pidIn(first.stdout);
  assert.ok(isRunning(pid), "the daemon goes on running");
  // The commands that it names are there and work.
  const named = [
    ...first.stdout.matchAll(/^ {2}bin\/ringstore (--data .+? (?:status|volume list))$/gm),
  ];
  assert.equal(named.length, 2, first.stdout);
  for (const [, words = ""] of named) {
    const command = await run(process.execPath, [builtFile("cli/main.js"), ...words.split(" ")]);
    assert.equal(command.exitCode, 0, command.stderr);
  }

  const second = await start();
  assert.equal(second.exitCode, 0, second.stdout + second.stderr);
  assert.match(second.stdout, /running already/);
  assert.equal(pidIn(second.stdout), pid);

  const stopped = await stop();
  assert.equal(stopped.exitCode, 0);
  assert.match(stopped.stderr, new RegExp(`ringstored \\(pid ${pid}\\) ended`));
  assert.equal(isRunning(pid), false);
  assert.match((await stop()).stderr, /Nothing that npm start started is running/);
});

scenario("QEMU takes the words that volume attach prints", limit(), async (host) => {
  const daemon = await host.daemon();
  await daemon.json(["volume", "create", "mine", "--size", "64M", "--serial", "my-own-disk"]);
  const printed = await daemon.command([
    ...["volume", "attach", "mine", "--vm-memory", "256M", "--qemu", "7.2"],
  ]);
  assert.equal(printed.exitCode, 0, printed.stderr);
  const kernel = await ensureKernel();
  const initramfs = await ensureInitramfs({ kernel, programs: [] });
  const script = Buffer.from(
    "echo disk: $(cat /sys/block/vda/serial) $(cat /sys/block/vda/size)\n",
  );
  const qemu = await run((await findQemu()).path, [
    ...["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-m", "256M"],
    ...["-kernel", kernel.vmlinuzPath, "-initrd", initramfs],
    ...[
      "-append",
      `console=ttyS0 quiet panic=-1 no_timer_check ringstore.script=${script.toString("base64")}`,
    ],
    ...printed.stdout.trim().split(" "),
  ]);
  assert.match(qemu.stdout, /^disk: my-own-disk 131072\r?$/m, qemu.stdout + qemu.stderr);
  assert.equal(qemu.exitCode, 0, qemu.stderr);
});
