// A cluster whose metadata wants TLS, a user and a certificate, a daemon whose REST API speaks HTTPS,
// and what a support bundle shows of them: everything but the secrets. Real processes.

import assert from "node:assert/strict";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { gunzipSync } from "node:zlib";
import { freePort } from "../../sys/index.ts";
import { run } from "../control/daemon-process.ts";
import { builtFile, Daemon } from "../daemon.ts";
import { type MetaKind, MetaProcess } from "../meta/meta-process.ts";
import { type Cleanup, cleanupOf } from "../soak/cleanup.ts";
import { diskFolder } from "../soak/places.ts";

const LIMIT = { timeout: 300_000 } as const;
const USER = { name: "storage", password: "p4ss:w0rd-of-the-metadata" };

async function untilAlive(daemon: Daemon, count: number): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const { nodes } = await daemon.json(["node", "list"]).catch(() => ({ nodes: [] }));
    const alive = (nodes as { state: string }[]).filter(({ state }) => state === "alive");
    if (alive.length === count) return;
    if (Date.now() > deadline) throw new Error(`${alive.length} of ${count} nodes: ${daemon.log}`);
    await sleep(100);
  }
}

interface Pair {
  readonly metadata: MetaProcess;
  readonly first: Daemon;
  readonly second: Daemon;
  /** What must be nowhere but in files of mode 0600. */
  readonly token: string;
  readonly passwordFile: string;
}

/** Two nodes; the second is told nothing but the token, and its own certificate where it needs one. */
async function pairOf(cleanup: Cleanup, kind: MetaKind): Promise<Pair> {
  const asksForCertificate = kind === "etcd";
  const metadata = await MetaProcess.start(kind, { hasTls: true, user: USER, asksForCertificate });
  cleanup.after(async () => void (await metadata.stop()));
  const folder = diskFolder(cleanup);
  const passwordFile = join(folder, "password");
  writeFileSync(passwordFile, `${USER.password}\n`, { mode: 0o600 });
  const daemons: Daemon[] = [];
  for (const name of ["one", "two"]) {
    const dataDirectory = join(folder, name);
    const tls = ["--tls-cert", metadata.certificatePath, "--tls-key", metadata.keyPath];
    const flags = name === "one" ? ["--listen", "127.0.0.1:0", ...tls] : [];
    const daemon = await Daemon.start({ dataDirectory, flags });
    cleanup.after(() => daemon.stop());
    daemons.push(daemon);
  }
  const [first, second] = daemons as [Daemon, Daemon];
  const own = asksForCertificate
    ? ["--metadata-cert", metadata.certificatePath, "--metadata-key", metadata.keyPath]
    : [];
  const at = (): string[] => ["--address", `127.0.0.1:${freePort("127.0.0.1")}`];
  const init = ["cluster", "init", "safe", "--metadata", `https://${metadata.endpoint}`, ...at()];
  const user = ["--metadata-user", USER.name, "--metadata-password-file"];
  const ca = ["--metadata-ca", metadata.certificatePath];
  const refused = async (more: readonly string[], words: RegExp): Promise<void> => {
    const { exitCode, stderr } = await first.command([...init, ...more, "--timeout", "60"]);
    assert.notEqual(exitCode, 0);
    assert.match(stderr, words);
    assert.equal(await first.json(["cluster", "show"]), null, "nothing was made");
  };
  await refused([], /needs the authority's certificate/);
  const wrong = join(folder, "wrong");
  writeFileSync(wrong, "not-it");
  await refused([...ca, ...own, ...user, wrong], /refuses this node.*authentication failed/s);
  await refused([...ca, ...own], /user name is empty|refuses|does not answer/);
  await first.json([...init, ...ca, ...own, ...user, passwordFile, "--node-name", "one"]);
  const { token } = await first.json(["cluster", "token"]);
  const tokenFile = join(folder, "token");
  writeFileSync(tokenFile, token, { mode: 0o600 });
  const join_ = ["cluster", "join", "--cluster-token-file", tokenFile, "--node-name", "two"];
  await second.json([...join_, ...own, ...at()]);
  await untilAlive(second, 2);
  return { metadata, first, second, token, passwordFile };
}

for (const kind of ["etcd", "embedded"] as const) {
  test(
    `metadata with TLS and a user, ${kind}: made, joined, there after a restart`,
    LIMIT,
    async (t) => {
      const { second, metadata } = await pairOf(cleanupOf(t), kind);
      const kept = join(second.dataDirectory, "cluster.access");
      assert.equal(statSync(kept).mode & 0o777, 0o600);
      assert.ok(readFileSync(kept, "utf8").includes(USER.password));
      second.kill();
      await second.waitForExit();
      await second.launch();
      await second.waitForApi();
      await untilAlive(second, 2);
      const shown = JSON.stringify(await second.json(["cluster", "show"]));
      assert.ok(shown.includes(metadata.endpoint) && !shown.includes(USER.password));
      if (kind === "etcd") return;
      // Nobody gets in without them.
      const open = metadata.connect({
        user: { name: USER.name, password: "other" },
        timeoutMs: 3000,
      });
      await assert.rejects(open.list("ringstore/"), { code: "authentication" });
      open.close();
    },
  );
}

/** Names and contents of a tar of regular files. */
function untar(bytes: Buffer): Map<string, string> {
  const files = new Map<string, string>();
  for (let at = 0; bytes[at] !== 0; ) {
    const name = bytes.toString("ascii", at, at + 100).replace(/\0.*$/s, "");
    const size = Number.parseInt(bytes.toString("ascii", at + 124, at + 135), 8);
    assert.equal(bytes.toString("ascii", at + 257, at + 262), "ustar");
    files.set(name, bytes.toString("utf8", at + 512, at + 512 + size));
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return files;
}

test("a support bundle has everything but the secrets; the API speaks HTTPS", LIMIT, async (t) => {
  const { first, token, metadata } = await pairOf(cleanupOf(t), "embedded");
  const apiTokens = join(first.dataDirectory, "api.tokens");
  const [, apiToken = ""] = /^admin:(.*)$/m.exec(readFileSync(apiTokens, "utf8")) ?? [];
  assert.ok(apiToken.length > 16);
  const key = readFileSync(join(first.dataDirectory, "cluster.key"), "utf8").trim();
  const [, url = ""] = /"url":"(https:[^"]*)"/.exec(first.log) ?? [];
  const cli = (...words: string[]): ReturnType<typeof run> =>
    run(process.execPath, [builtFile("cli/main.js"), "--url", url, ...words], { input: "" });
  const path = join(first.dataDirectory, "bundle.tar.gz");
  const over = ["--token-file", apiTokens, "--ca-file", metadata.certificatePath];
  const untrusted = await cli("--token-file", apiTokens, "status");
  assert.match(untrusted.stderr, /cannot connect.*(SELF_SIGNED|CERT)/);
  assert.equal((await cli(...over, "status")).code, 0, "with the certificate it is trusted");
  const local = await cli(...over, "cluster", "export", "/tmp/x");
  assert.match(local.stderr, /not saved or put back over TCP/);
  // Whoever puts secrets into a volume's name or a URL finds them removed.
  await first.command(["api", "get", `/v1/volumes/x?token=${apiToken}`]);
  const made = await cli(...over, "support-bundle", path);
  assert.equal(made.code, 0, made.stderr);
  assert.match(made.stdout, /15 files in .*bundle\.tar\.gz/);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  const files = untar(gunzipSync(readFileSync(path)));
  const names = [...files.keys()].map((name) => name.replace("ringstore-support/", ""));
  assert.deepEqual(names.toSorted(), [
    "advise.json",
    "bundle.txt",
    "cluster.json",
    "config.json",
    "disks.json",
    "events.json",
    "log.jsonl",
    "machine.txt",
    "metrics.txt",
    "nodes.json",
    "rebuilds.json",
    "stats.json",
    "status.json",
    "version.json",
    "volumes.json",
  ]);
  const content = (name: string): string => files.get(`ringstore-support/${name}`) ?? "";
  assert.match(content("log.jsonl"), /"msg":"daemon.ready"/);
  assert.match(content("machine.txt"), /== kernel\n\d+\./);
  assert.match(content("metrics.txt"), /^# HELP ringstore/m);
  assert.equal(JSON.parse(content("config.json")).tlsKey, metadata.keyPath);
  assert.equal(JSON.parse(content("cluster.json")).cluster.name, "safe");
  const all = [...files.values()].join("\n");
  for (const secret of [token, key, apiToken, USER.password, "PRIVATE KEY"]) {
    assert.ok(!all.includes(secret), `${secret.slice(0, 4)}… is in the bundle`);
  }
  const again = await cli(...over, "support-bundle", path);
  assert.match(again.stderr, /cannot write .*EEXIST/);
  // A daemon that is gone: what can be had, and what could not.
  await first.stop();
  const rest = join(first.dataDirectory, "rest.tar.gz");
  assert.equal((await cli(...over, "support-bundle", rest)).code, 0);
  const left = untar(gunzipSync(readFileSync(rest)));
  assert.match(
    left.get("ringstore-support/bundle.txt") ?? "",
    /missing: status.json: cannot connect/,
  );
});
