// The load generator over iSCSI against a daemon: every way in which write data may travel, what it
// wrote read back through vhost-user, and what it says when it cannot.

import assert from "node:assert/strict";
import { test } from "node:test";
import { MIB } from "../../base/index.ts";
import { LoadError, parseIscsiUrl, runIscsiLoadInChild } from "../../load/index.ts";
import { freePort } from "../../sys/index.ts";
import { Daemon } from "../daemon.ts";
import { apiOf, makeDisks } from "../soak/api.ts";
import { type Cleanup, cleanupOf } from "../soak/cleanup.ts";
import { diskFolder } from "../soak/places.ts";
import { QuietGuest } from "../soak/quiet-guest.ts";

const VOLUME_BYTES: number = 16 * MIB;
/** None: ours, everything unsolicited. */
const WAYS: readonly Readonly<Record<string, string>>[] = [
  {},
  { ImmediateData: "No" },
  { InitialR2T: "Yes" },
  { ImmediateData: "No", InitialR2T: "Yes" },
  { FirstBurstLength: "4096", MaxBurstLength: "8192" },
];

async function target(cleanup: Cleanup): Promise<{ daemon: Daemon; url: string }> {
  const listen = `127.0.0.1:${freePort("127.0.0.1")}`;
  const daemon = await Daemon.start({ flags: ["--iscsi-listen", listen] });
  cleanup.after(() => daemon.stop());
  await makeDisks(apiOf(daemon), diskFolder(cleanup), [{ path: "disk", sizeBytes: 256 * MIB }]);
  await apiOf(daemon).createVolume({ name: "v", sizeBytes: VOLUME_BYTES });
  const { classic } = await apiOf(daemon).attachVolume("v", { classic: {} });
  return { daemon, url: classic?.url ?? "" };
}

test("every way of sending data, at depth; what was written is what a guest reads", async (t) => {
  const { daemon, url } = await target(cleanupOf(t));
  for (const offers of WAYS) {
    const work = { pattern: "sequential", blockBytes: 65536, depth: 8, warmupMs: 0 } as const;
    const count = VOLUME_BYTES / work.blockBytes;
    const written = await runIscsiLoadInChild({
      ...work,
      url,
      offers,
      readPercent: 0,
      requestCount: count,
    });
    assert.deepEqual(written.failures, []);
    assert.equal(written.requestCount, count);
    assert.equal(written.capacityBytes, VOLUME_BYTES);
    const read = await runIscsiLoadInChild({ ...work, url, offers, requestCount: 2 * count });
    assert.equal(read.requestCount, 2 * count);
    assert.ok(read.latency.p99Us >= read.latency.p50Us && read.latency.p50Us > 0);
  }
  const mixed = { url, depth: 32, readPercent: 50, runtimeMs: 300, warmupMs: 100 };
  const report = await runIscsiLoadInChild({ ...mixed, pids: [daemon.pid] });
  assert.ok(report.ok && report.requestCount > 32, report.failures.join(" "));
  assert.ok((report.targetCpuUsPerRequest ?? 0) > 0);
  // The generator's bytes: each by its place in the request, whichever came last.
  await apiOf(daemon).detachVolume("v");
  const { socket } = await apiOf(daemon).attachVolume("v", {});
  const guest = QuietGuest.connect(socket as string, { queueCount: 1 });
  try {
    const bytes = await guest.read(VOLUME_BYTES / 2);
    assert.deepEqual(
      [...bytes.subarray(0, 4096)],
      Array.from({ length: 4096 }, (_, at) => (at * 31 + (at >>> 8)) & 255),
    );
  } finally {
    guest.close();
  }
});

test("what cannot be: no target, no unit of that name, no such size of request", async (t) => {
  const { url } = await target(cleanupOf(t));
  const { host, port, targetName } = parseIscsiUrl(url);
  const fails = async (where: string, code: string, words: RegExp, more = {}): Promise<void> => {
    const run = runIscsiLoadInChild({ url: where, requestCount: 1, ...more });
    await assert.rejects(run, (error: LoadError) => {
      assert.equal(error.code, code);
      assert.match(error.message, words);
      return true;
    });
  };
  const nobody = `iscsi://127.0.0.1:${freePort("127.0.0.1")}/x/0`;
  await fails(nobody, "CONNECT_FAILED", /errno 111/);
  await fails(`iscsi://${host}:${port}/${targetName}x/0`, "REFUSED", /0x0203/);
  await fails(url, "OPTIONS", /has 16777216 bytes/, { areaBytes: 512 });
  // LOGICAL UNIT NOT SUPPORTED: the number of the unit does go out.
  await fails(url.replace(/0$/, "1"), "REFUSED", /sense key 5, 0x2500/);
  assert.throws(() => parseIscsiUrl("iscsi://host/target/0"), LoadError);
  assert.throws(() => parseIscsiUrl(url.replace(/0$/, "256")), /LUN up to 255/);
});

test("ringstore bench --url: figures, and what only virtio-blk knows is refused", async (t) => {
  const { daemon, url } = await target(cleanupOf(t));
  const words = ["bench", "--url", url, "--rw", "randrw", "--count", "500", "--warmup", "0"];
  const said = await daemon.command([...words, "--json"]);
  assert.equal(said.exitCode, 0, said.stderr);
  assert.equal(JSON.parse(said.stdout).requestCount, 500);
  const shown = await daemon.command(words);
  assert.match(shown.stdout, /^target iscsi:.*\n\n.* 500 requests in /);
  for (const [more, why] of [
    [["--verify"], /--verify is not for a logical unit/],
    [["--bs", "4K-8K"], /4K-8K is a range/],
    [["--depth", "0"], /depth is 0/],
  ] as const) {
    const refused = await daemon.command([...words, ...more]);
    assert.equal(refused.exitCode, 2);
    assert.match(refused.stderr, why);
  }
});
