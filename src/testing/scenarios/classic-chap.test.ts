// CHAP both ways and CHAP of discovery as operators set them, with the real daemon and an initiator
// that is not ours: libiscsi's programs (Debian: libiscsi-bin). The settings outlive kill -9 and
// orderly restarts; secrets are in no log, reply or support bundle.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import type { AttachReply } from "../../model/types.ts";
import { freePort } from "../../sys/index.ts";
import { requireOnSystem } from "../../vm/index.ts";
import type { Daemon } from "../daemon.ts";
import { type GuestHost, killAndRestart, limit, scenario } from "./guest-fixture.ts";

const TOOL_MS = 60_000;
const OWN = { user: "vm1", secret: "own-horse-battery" } as const;
const TARGET = { user: "db-1", secret: "target-horse-stap" } as const;
const HOSTS = { user: "hosts", secret: "hosts-horse-batt" } as const;
const PORTAL = { user: "portal", secret: "portal-horse-stap" } as const;
const SECRETS: readonly string[] = [OWN, TARGET, HOSTS, PORTAL].map(({ secret }) => secret);

interface Pair {
  readonly user: string;
  readonly secret: string;
}

interface Ran {
  readonly isDone: boolean;
  readonly text: string;
}

/** One of libiscsi's programs; secrets by the environment, where `ps` does not show them. */
function run(program: string, url: string, own: Pair | null, target: Pair | null): Promise<Ran> {
  const path = requireOnSystem(program, "libiscsi-bin");
  const env = {
    ...(own === null
      ? {}
      : { LIBISCSI_CHAP_USERNAME: own.user, LIBISCSI_CHAP_PASSWORD: own.secret }),
    ...(target === null
      ? {}
      : {
          LIBISCSI_CHAP_TARGET_USERNAME: target.user,
          LIBISCSI_CHAP_TARGET_PASSWORD: target.secret,
        }),
  };
  return new Promise((resolve) => {
    execFile(path, [url], { env, timeout: TOOL_MS }, (error, stdout, stderr) =>
      resolve({ isDone: error === null, text: `${stdout}\n${stderr}` }),
    );
  });
}

function secretFile(folder: string, { user, secret }: Pair): string {
  const path = join(folder, `${user}.secret`);
  writeFileSync(path, secret, { mode: 0o600 });
  return path;
}

function flagsOf(folder: string, prefix: string, own: Pair, target: Pair): readonly string[] {
  const pair = (who: string, one: Pair): readonly string[] => [
    `--${prefix}${who}user`,
    one.user,
    `--${prefix}${who}secret-file`,
    secretFile(folder, one),
  ];
  return [...pair("", own), ...pair("target-", target)];
}

/** Whoever may log in does, the target proves itself, and nobody else gets further. */
async function assertProofs(url: string): Promise<void> {
  const inquire = (own: Pair | null, target: Pair | null): Promise<Ran> =>
    run("iscsi-inq", url, own, target);
  for (const target of [TARGET, null]) {
    const { isDone, text } = await inquire(OWN, target);
    assert.ok(isDone, text);
    assert.match(text, /Vendor:\s*RINGSTOR/);
  }
  for (const [own, target, reason] of [
    [OWN, { ...TARGET, secret: "another-horse-stap" }, /Invalid CHAP_R response from the target/],
    [OWN, { ...TARGET, user: "db-2" }, /Wrong CHAP targetname received: db-1/],
    [{ ...OWN, secret: "wrong-horse-batte" }, TARGET, /Authentication failure/],
    [null, null, /./],
  ] as const) {
    const { isDone, text } = await inquire(own, target);
    assert.ok(!isDone, text);
    assert.match(text, reason);
    assert.doesNotMatch(text, /RINGSTOR/);
  }
}

async function assertDiscovery(portal: string, target: string): Promise<void> {
  const list = (own: Pair | null, back: Pair | null): Promise<Ran> =>
    run("iscsi-ls", `iscsi://${portal}`, own, back);
  for (const back of [PORTAL, null]) {
    const { isDone, text } = await list(HOSTS, back);
    assert.ok(isDone, text);
    assert.ok(text.includes(target), text);
  }
  for (const [own, back] of [
    [HOSTS, TARGET],
    [OWN, TARGET],
    [{ ...HOSTS, secret: "wrong-horse-batte" }, null],
    [null, null],
  ] as const) {
    const { isDone, text } = await list(own, back);
    assert.ok(!isDone, text);
    assert.ok(!text.includes(target), text);
  }
}

async function assertNoSecret(host: GuestHost, daemon: Daemon): Promise<void> {
  const path = join(host.folder(), "bundle.tar.gz");
  const made = await daemon.command(["support-bundle", path]);
  assert.equal(made.exitCode, 0, made.stderr);
  const bundle = gunzipSync(readFileSync(path)).toString("utf8");
  const replies = [];
  for (const form of ["table", "json"]) {
    for (const words of [["volume", "show", "data"], ["volume", "list"], ["status"], ["events"]]) {
      replies.push((await daemon.command([...words, "-o", form])).stdout);
    }
  }
  const seen = [bundle, daemon.log, ...replies].join("\n");
  for (const { user } of [OWN, TARGET, HOSTS]) assert.ok(seen.includes(user), user);
  for (const secret of SECRETS) assert.ok(!seen.includes(secret), "a secret is to be seen");
}

scenario("libiscsi: CHAP both ways and of discovery, kept over restarts", limit(), async (host) => {
  const folder = host.folder();
  const portal = `127.0.0.1:${freePort("127.0.0.1")}`;
  const discovery = flagsOf(folder, "discovery-chap-", HOSTS, PORTAL);
  const flags = ["--iscsi-listen", portal, ...discovery];
  const dataDirectory = host.folder();
  const daemon = await host.daemon({ dataDirectory, flags });
  await daemon.json(["volume", "create", "data", "--size", "8M", "--backing", "file"]);
  const how = ["volume", "attach", "data", "--classic", ...flagsOf(folder, "chap-", OWN, TARGET)];
  const { classic }: AttachReply = await daemon.json(how);
  const { url, target } = classic ?? assert.fail("it is no target");
  assert.ok(url !== null);
  await assertProofs(url);
  await assertDiscovery(portal, target);
  await killAndRestart(daemon);
  await daemon.waitForApi();
  await assertProofs(url);
  await assertDiscovery(portal, target);
  daemon.signal("SIGTERM");
  await daemon.waitForExit();
  await daemon.launch();
  await daemon.waitForApi();
  await assertProofs(url);
  assert.equal((await daemon.json(how)).changed, false, "attached already, with the same secrets");
  await assertNoSecret(host, daemon);
});

scenario("libiscsi: without settings discovery asks for nothing", limit(), async (host) => {
  const portal = `127.0.0.1:${freePort("127.0.0.1")}`;
  const daemon = await host.daemon({ flags: ["--iscsi-listen", portal] });
  await daemon.json(["volume", "create", "data", "--size", "8M", "--backing", "file"]);
  const { classic }: AttachReply = await daemon.json(["volume", "attach", "data", "--classic"]);
  const { isDone, text } = await run("iscsi-ls", `iscsi://${portal}`, null, null);
  assert.ok(isDone, text);
  assert.ok(text.includes(`${classic?.target}`), text);
});
