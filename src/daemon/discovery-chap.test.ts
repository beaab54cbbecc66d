// The settings --discovery-chap-*: what they make of files, and what stops the start.

import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { CONFIG_DEFAULTS, type DaemonConfig } from "../model/config.ts";
import type { ClassicChap } from "../ports/classic-plane.ts";
import { portalSettingsOf } from "./classic-attach.ts";
import { discoveryChapOf } from "./discovery-chap.ts";

const OWN = "correct-horse-battery";
const TARGET = "target-horse-staple";

let folder = "";
let logged: string[] = [];
const log = {
  log: (level: string, event: string, fields: object = {}): void => {
    logged.push(JSON.stringify({ level, event, ...fields }));
  },
};

before(() => {
  folder = mkdtempSync(join(tmpdir(), "rs-discovery-"));
});
after(() => rmSync(folder, { recursive: true, force: true }));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text, { mode: 0o600 });
  return path;
}

function chapOf(config: Partial<DaemonConfig>): ClassicChap | null {
  logged = [];
  return discoveryChapOf({ ...CONFIG_DEFAULTS, ...config }, log);
}

test("nothing is set: nobody has to prove anything", () => {
  assert.equal(chapOf({}), null);
  assert.equal(portalSettingsOf(CONFIG_DEFAULTS, log)?.discovery, null);
});

test("names and files become proofs; a newline at the end is no part of a secret", () => {
  const own = {
    discoveryChapUser: "hosts",
    discoveryChapSecretFile: file("own", `${OWN}\n`),
  };
  assert.deepEqual(chapOf(own), { user: "hosts", secret: OWN, target: null });
  const both = {
    ...own,
    discoveryChapTargetUser: "portal",
    discoveryChapTargetSecretFile: file("target", TARGET),
  };
  const wanted = { user: "hosts", secret: OWN, target: { user: "portal", secret: TARGET } };
  assert.deepEqual(chapOf(both), wanted);
  assert.deepEqual(logged, []);
  const settings = portalSettingsOf({ ...CONFIG_DEFAULTS, ...both }, log);
  assert.deepEqual(settings?.discovery, wanted);
});

test("a file that others can read is warned of", () => {
  const path = file("open", OWN);
  chmodSync(path, 0o644);
  chapOf({ discoveryChapUser: "hosts", discoveryChapSecretFile: path });
  assert.match(logged.join(), /secret-readable-by-others.*"mode":"0644"/);
  assert.ok(!logged.join().includes(OWN));
});

test("half of a pair, a file that is none, a secret that is none: the start is refused", () => {
  const own = file("own", OWN);
  const target = file("target", TARGET);
  const hosts = { discoveryChapUser: "hosts", discoveryChapSecretFile: own };
  const portal = { discoveryChapTargetUser: "portal", discoveryChapTargetSecretFile: target };
  for (const [config, message] of [
    [{ discoveryChapUser: "hosts" }, /-chap-user hosts needs --discovery-chap-secret-file/],
    [{ discoveryChapSecretFile: own }, /-secret-file \S+own needs --discovery-chap-user/],
    [portal, /--discovery-chap-target-user portal needs --discovery-chap-user/],
    [
      { ...hosts, discoveryChapTargetUser: "portal" },
      /-target-user portal needs --discovery-chap-target-secret-file/,
    ],
    [
      { ...hosts, discoveryChapSecretFile: join(folder, "none") },
      /--discovery-chap-secret-file \S+none cannot be read: ENOENT/,
    ],
    [
      { ...hosts, discoveryChapSecretFile: file("short", "short-horse") },
      /--discovery-chap-user hosts: the CHAP secret of "hosts" has 11 characters/,
    ],
    [{ ...hosts, discoveryChapUser: "a b" }, /"a b" is not a CHAP name/],
    [
      { ...hosts, ...portal, discoveryChapTargetSecretFile: own },
      /initiators \("hosts"\) and the target \("portal"\) have the same CHAP secret/,
    ],
  ] as const) {
    assert.throws(
      () => chapOf(config),
      (error: Error) => {
        const { code, advice = "" } = error as { code?: string; advice?: string };
        assert.equal(code, "cannot_start");
        assert.match(error.message, message);
        assert.match(advice, /give|use|name/);
        assert.ok(!error.message.includes("horse"), "no secret in an error");
        return true;
      },
    );
  }
});
