// The ELF reader on files that are there on every machine that runs this.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { readElf } from "./elf.ts";

test("Node's own executable is read", () => {
  const elf = readElf(readFileSync(process.execPath), process.execPath);
  assert.ok(elf.needed.includes("libc.so.6"));
  assert.match(elf.interpreter ?? "", /ld-linux/);
  const read = elf.imports.find((symbol) => symbol.name === "pthread_create");
  assert.equal(read?.version?.library.startsWith("lib"), true);
  assert.equal(read?.data, false);
  assert.ok(elf.exports.has("napi_create_object"), "addons link against these");
  assert.ok(elf.versionsNeeded.some(({ version }) => version.startsWith("GLIBC_")));
});

test("what is not ELF, or is cut short, is named in the error", () => {
  assert.throws(() => readElf(Buffer.from("#!/bin/sh\n"), "script"), /script is not a 64-bit/);
  const whole = readFileSync(process.execPath);
  const cut = Buffer.from(whole.subarray(0, 4096));
  assert.throws(() => readElf(cut, "half"), { code: "format", message: /half is a damaged ELF/ });
});
