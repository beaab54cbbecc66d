// The embedded server's folder: what was appended is there, what was lost is noticed, what is newer
// or open elsewhere is refused. And its leases, where the process itself stood still.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { ClassicLevel } from "classic-level";
import {
  compactPut,
  Database,
  leaseDelete,
  leasePut,
  versionDelete,
  versionPut,
} from "./database.ts";
import { EXPIRY_PERIOD_MS, Leases } from "./leases.ts";
import { Mvcc, type Version } from "./mvcc.ts";

const SECOND = 1000;

async function inFolder(act: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "rs-database-"));
  try {
    await act(join(folder, "meta"));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A few revisions, as the engine would write them. */
function history(mvcc: Mvcc): Version[] {
  const versions: Version[] = [];
  for (let round = 0; round < 6; round++) {
    mvcc.begin();
    mvcc.put("a", Uint8Array.of(48 + round), 0n);
    if (round === 3) mvcc.delete("b");
    else mvcc.put("b", Uint8Array.of(48 + round), round === 5 ? 77n : 0n);
    versions.push(...mvcc.end());
  }
  return versions;
}

function contentOf(mvcc: Mvcc, revision: number): string[] {
  return [...mvcc.range("", null, revision)].map(({ key, value, version, lease }) => {
    return `${key}=${Buffer.from(value ?? []).toString()} v${version} l${lease}`;
  });
}

test("a database that is opened again holds every revision, compaction and lease", () =>
  inFolder(async (folder) => {
    const mvcc = new Mvcc();
    const versions = history(mvcc);
    const first = await Database.open(folder);
    await first.append([...versions.map(versionPut), leasePut(77n, 30), leasePut(78n, 5)]);
    await first.append([leaseDelete(78n)]);
    const { clusterId } = first;
    await first.close();
    let again = await Database.open(folder);
    assert.equal(again.clusterId, clusterId);
    let loaded = await again.load();
    assert.deepEqual([...loaded.leases], [[77n, 30]]);
    for (let revision = 2; revision <= mvcc.revision; revision++) {
      assert.deepEqual(contentOf(loaded.mvcc, revision), contentOf(mvcc, revision));
    }
    assert.deepEqual(loaded.mvcc.since(4), mvcc.since(4));
    const forgotten = mvcc.compact(5);
    assert.ok(forgotten.length > 0);
    await again.append([compactPut(5), ...forgotten.map(versionDelete)]);
    await again.close();
    again = await Database.open(folder);
    loaded = await again.load();
    assert.equal(loaded.mvcc.revision, mvcc.revision);
    assert.equal(loaded.mvcc.compactRevision, 5);
    for (let revision = 5; revision <= mvcc.revision; revision++) {
      assert.deepEqual(contentOf(loaded.mvcc, revision), contentOf(mvcc, revision));
    }
    assert.deepEqual(loaded.mvcc.since(5), mvcc.since(5));
    await again.close();
  }));

test("a revision that is missing in the middle is a loss, and the folder is refused", () =>
  inFolder(async (folder) => {
    const versions = history(new Mvcc());
    const kept = versions.filter((version) => version.modRevision !== 4);
    const database = await Database.open(folder);
    await database.append(kept.map(versionPut));
    await assert.rejects(database.load(), {
      code: "database",
      message: "The metadata database has lost revisions 4 to 4.",
    });
    await database.close();
  }));

test("a folder that is open elsewhere, or in a newer format, is refused by name", () =>
  inFolder(async (folder) => {
    const database = await Database.open(folder);
    await assert.rejects(Database.open(folder), /Another process has the metadata in .* open/);
    await database.close();
    const level = new ClassicLevel(folder);
    await level.put("mformat", '{"format":2,"clusterId":"1","memberId":"1"}');
    await level.close();
    await assert.rejects(Database.open(folder), {
      code: "newer-format",
      message: /has format 2; this/,
    });
  }));

test("a lease ends after its time, and a process that stood still gives that time back", () => {
  const leases = new Leases(0);
  assert.equal(leases.grant(1n, 5, 0), 5);
  assert.equal(leases.grant(2n, 1, 0), 2, "the shortest that there is");
  let nowMs = 0;
  const look = (): bigint[] => leases.expired((nowMs += EXPIRY_PERIOD_MS));
  for (let ms = 0; ms < 1.8 * SECOND; ms += EXPIRY_PERIOD_MS) assert.deepEqual(look(), []);
  assert.equal(leases.renew(1n, nowMs), 5);
  assert.deepEqual(look(), [2n]);
  leases.take(2n);
  assert.equal(leases.renew(2n, nowMs), 0, "it is gone");
  // Stopped for a minute: nobody could renew anything.
  nowMs += 60 * SECOND;
  assert.deepEqual(look(), []);
  for (let ms = 0; ms < 4 * SECOND; ms += EXPIRY_PERIOD_MS) assert.deepEqual(look(), []);
  while (nowMs < 67 * SECOND) if (look().length > 0) return;
  assert.fail("it never ended");
});
