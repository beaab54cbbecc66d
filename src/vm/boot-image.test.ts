// Boots from the disk itself: firmware, boot loader, kernel, through the disk's own virtqueues.

import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { MIB } from "../base/index.ts";
import { sparseFile, testDirectory, testGuest } from "./_test-guest.ts";
import { copyBootImage, ensureBootImage, writeBootImage } from "./boot-image.ts";

const LIMIT = { timeout: 180_000 };

test("a guest boots from a disk through SeaBIOS, twice", LIMIT, async (t) => {
  const directory = await testDirectory(t);
  const image = await ensureBootImage({ log: (line) => t.diagnostic(line) });
  assert.ok(image.sizeBytes <= 100 * MIB);
  const path = join(directory, "disk");
  await copyBootImage(image, path, 128 * MIB);
  assert.equal(statSync(path).size, 128 * MIB);
  const guest = await testGuest(t, {
    bootFrom: "disk",
    allowReboot: true,
    disks: [{ kind: "file", path, bootIndex: 0 }],
  });
  assert.match(guest.console.text, /SYSLINUX/);
  assert.match(await guest.must("cat /proc/cmdline"), /BOOT_IMAGE=\/vmlinuz/);
  const since = guest.console.length;
  await guest.reset();
  await guest.waitForText("SYSLINUX", { since, timeoutMs: 1000 });
});

test("the image is written over the start of an existing disk, and no more", LIMIT, async (t) => {
  const directory = await testDirectory(t);
  const image = await ensureBootImage({ script: "echo only here", initramfs: { programs: [] } });
  const path = await sparseFile(join(directory, "disk"), image.sizeBytes + MIB);
  await writeBootImage(image, path);
  const written = readFileSync(path);
  assert.equal(written.length, image.sizeBytes + MIB);
  assert.ok(written.subarray(0, image.sizeBytes).equals(readFileSync(image.path)));
  assert.equal(written.readUInt16LE(510), 0xaa55);
  await assert.rejects(copyBootImage(image, path, MIB), { code: "option" });
  const again = await ensureBootImage({ script: "echo only here", initramfs: { programs: [] } });
  assert.equal(again.path, image.path);
});
