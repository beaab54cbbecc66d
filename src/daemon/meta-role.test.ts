// ringstored --role meta as a process: wrong usage is named, and nothing is opened to other machines
// without a password and TLS. What it serves is tested in testing/meta/.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { builtFile } from "../testing/daemon.ts";

const folder = mkdtempSync(join(tmpdir(), "rs-meta-role-"));
after(() => rmSync(folder, { recursive: true, force: true }));

function run(...words: string[]): { status: number | null; stderr: string } {
  const args = [builtFile("bundle/main.js"), "--role", "meta", ...words];
  return spawnSync(process.execPath, args, { encoding: "utf8", timeout: 60_000 });
}

const readable = join(folder, "readable");
writeFileSync(readable, "name:password\n", { mode: 0o644 });
const malformed = join(folder, "malformed");
writeFileSync(malformed, "password\n", { mode: 0o600 });

const WRONG: readonly (readonly [string, readonly string[], RegExp])[] = [
  ["no folder", [], /needs --data DIR/],
  ["an address without a port", ["--listen", "127.0.0.1"], /"127.0.0.1", but must be HOST:PORT/],
  ["another machine's reach", ["--listen", "0.0.0.0:0"], /reached from other machines: it needs/],
  ["a user file that others read", ["--user-file", readable], /can be read by others: chmod 600/],
  ["a user file without a name", ["--user-file", malformed], /one line name:password/],
  ["a certificate without its key", ["--tls-cert", readable], /are given together/],
  ["an unknown flag", ["--path", "/"], /--path/],
];

for (const [what, words, message] of WRONG) {
  test(`${what} is wrong usage, and says so`, () => {
    const data = what === "no folder" ? [] : ["--data", folder];
    const { status, stderr } = run(...data, ...words);
    assert.match(stderr, message);
    assert.equal(status, 2, stderr);
  });
}

test("a port that is taken is named", () => {
  const { status, stderr } = run("--data", join(folder, "a"), "--listen", "192.0.2.1:1");
  assert.equal(status, 2, "192.0.2.1 is not loopback");
  const taken = run("--data", join(folder, "a"), "--listen", "127.0.0.1:99999");
  assert.match(taken.stderr, /Cannot listen on 127.0.0.1:99999/, stderr);
  assert.equal(taken.status, 1);
});
