// The choice between KVM and TCG: what is tried, what is remembered, what overrides it.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { testDirectory } from "./_test-guest.ts";
import { ACCELERATOR_VARIABLE, type AcceleratorOptions, chooseAccelerator } from "./accelerator.ts";
import { ensureInitramfs } from "./initramfs.ts";
import { ensureKernel } from "./kernel.ts";
import { findQemu } from "./qemu-command.ts";

async function options(cacheDirectory: string, lines: string[]): Promise<AcceleratorOptions> {
  const kernel = await ensureKernel();
  const initramfsPath = await ensureInitramfs({ kernel, programs: [] });
  const log = (line: string): void => void lines.push(line);
  return { qemu: await findQemu(), kernel, initramfsPath, cacheDirectory, log };
}

test("without a usable device the answer is TCG, and nothing is tried or remembered", async (t) => {
  const directory = await testDirectory(t);
  const lines: string[] = [];
  const base = await options(directory, lines);
  const choice = await chooseAccelerator({ ...base, kvmDevice: join(directory, "kvm") });
  assert.deepEqual(choice, {
    accelerator: "tcg",
    reason: `There is no ${join(directory, "kvm")}.`,
  });
  assert.deepEqual(lines, []);
  assert.deepEqual(readdirSync(directory), []);
});

test("the answer comes from a boot, is remembered, and can be overridden", async (t) => {
  const directory = await testDirectory(t);
  const lines: string[] = [];
  const base = await options(join(directory, "cache"), lines);
  // Passes for the device, so that the boot is tried whatever this machine has. QEMU itself
  // opens the real one: the test accepts either answer, and that the same one comes again.
  const kvmDevice = join(directory, "kvm");
  await writeFile(kvmDevice, "");
  const asked = { ...base, kvmDevice, probeTimeoutMs: 4000 };
  const first = await chooseAccelerator(asked);
  t.diagnostic(`${first.accelerator}: ${first.reason}`);
  assert.equal(lines.length, 1, "a boot was tried, and said so");
  const [name] = readdirSync(join(directory, "cache", "accelerator"));
  const record = readFileSync(join(directory, "cache", "accelerator", name!), "utf8");
  assert.equal((JSON.parse(record) as { accelerator: string }).accelerator, first.accelerator);

  const second = await chooseAccelerator(asked);
  assert.equal(second.accelerator, first.accelerator);
  assert.equal(lines.length, 1, "no second boot");
  assert.match(second.reason, /Tried before/);

  t.after(() => delete process.env[ACCELERATOR_VARIABLE]);
  process.env[ACCELERATOR_VARIABLE] = "kvm";
  assert.equal((await chooseAccelerator(asked)).accelerator, "kvm");
  process.env[ACCELERATOR_VARIABLE] = "hvf";
  await assert.rejects(chooseAccelerator(asked), { code: "option", message: /not "hvf"/ });
});
