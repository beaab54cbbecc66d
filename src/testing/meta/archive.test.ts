// The metadata goes to a file and comes back, from the embedded server into etcd; what is damaged,
// newer, or does not fit together is refused, and an import that was interrupted is done again.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { TIB } from "../../base/index.ts";
import {
  type EtcdMetaStore,
  exportMetadata,
  importMetadata,
  MetaKeys,
  readArchive,
} from "../../meta/index.ts";
import { volumeCodec } from "../../meta/record-codec.ts";
import { applied } from "./conformance.ts";
import { MetaProcess } from "./meta-process.ts";
import { SampleCluster, uuid } from "./sample-cluster.ts";

const LIMIT = { timeout: 120_000 };
const keys = new MetaKeys("cluster/a/");
const folder = mkdtempSync(join(tmpdir(), "rs-archive-"));
const path = join(folder, "metadata.jsonl");
let servers: MetaProcess[] = [];
let embedded: EtcdMetaStore;
let etcd: EtcdMetaStore;

before(async () => {
  servers = [await MetaProcess.start("embedded"), await MetaProcess.start("etcd")];
  [embedded, etcd] = servers.map((server) => server.connect()) as [EtcdMetaStore, EtcdMetaStore];
  const size = {
    nodes: 3,
    disksPerNode: 2,
    diskBytes: 40 * TIB,
    volumes: 3,
    volumeBytes: 20 * TIB,
  };
  const sample = new SampleCluster(keys, size);
  applied(await embedded.transact({ guards: [], writes: sample.base() }));
  for (let index = 0; index < size.volumes; index++) {
    applied(await embedded.transact({ guards: [], writes: sample.volume(index) }));
  }
  const lease = await embedded.grantLease(60_000, () => undefined);
  applied(await embedded.compareAndSwap(keys.leader, 0, Buffer.from("x"), lease));
});

after(async () => {
  for (const store of [embedded, etcd]) store.close();
  for (const server of servers) await server.stop();
  rmSync(folder, { recursive: true, force: true });
});

test("what was exported comes back, but for what lives on a lease", LIMIT, async () => {
  const header = await exportMetadata(embedded, keys, path, new Date(0));
  assert.equal(header.cluster, uuid(9, 0));
  const archive = readArchive(path);
  assert.equal(archive.inventory.volumes.size, 3);
  assert.equal(archive.inventory.pages.get(uuid(3, 0))?.length, 2, "20 TiB take two pages");
  const other = new MetaKeys("moved/");
  // As if an earlier attempt had been cut off.
  const [firstKey, firstValue] = [...archive.values].find(([key]) => key.startsWith("disk/"))!;
  applied(await etcd.compareAndSwap(other.root + firstKey, 0, firstValue));
  const count = await importMetadata(etcd, other, archive, () => false);
  assert.equal(count, archive.values.size);
  const strip = ({ root }: MetaKeys, list: { key: string; value: Uint8Array }[]): string[] =>
    list.map(({ key, value }) => `${key.slice(root.length)} ${Buffer.from(value).toString("hex")}`);
  const from = (await embedded.list(keys.root)).entries.filter((one) => one.leaseId === 0n);
  const to = (await etcd.list(other.root)).entries;
  assert.deepEqual(strip(other, [...to]), strip(keys, [...from]));
  await assert.rejects(
    importMetadata(etcd, other, archive, () => false),
    /a cluster .* already/,
  );
});

test("an import that meets something else stops, and there is no cluster", LIMIT, async () => {
  const archive = readArchive(path);
  const other = new MetaKeys("taken/");
  const key = other.disk(uuid(2, 0));
  applied(await etcd.compareAndSwap(key, 0, Buffer.from("mine")));
  await assert.rejects(
    importMetadata(etcd, other, archive, () => false),
    {
      code: "archive",
      message: `${key} is there already, and holds something else.`,
    },
  );
  assert.equal(await etcd.get(other.cluster), null);
});

test("an archive that is damaged, cut short or newer is refused", LIMIT, () => {
  const whole = readFileSync(path, "utf8");
  const damaged = join(folder, "damaged.jsonl");
  const refusal = (text: string): RegExp | object => {
    writeFileSync(damaged, text);
    return { name: "RingstoreError" };
  };
  const middle = whole.length >> 1;
  const cuts = [
    whole.slice(0, -1),
    whole.slice(0, middle),
    whole.slice(0, whole.indexOf("\n") + 1),
    "",
  ];
  for (const text of cuts) assert.throws(() => readArchive(damaged), refusal(text));
  const flipped = `${whole.slice(0, middle)}${whole[middle] === "A" ? "B" : "A"}${whole.slice(middle + 1)}`;
  assert.throws(() => readArchive(damaged), refusal(flipped));
  // As good as the true one, but for the checksum.
  const older = whole.replace(/"revision":\d+/, '"revision":1');
  assert.throws(() => readArchive(damaged), refusal(older));
  const lines = whole.split("\n");
  lines.splice(3, 1);
  assert.throws(() => readArchive(damaged), refusal(lines.join("\n")));
  refusal(whole.replace('"format":1', '"format":3'));
  assert.throws(() => readArchive(damaged), { code: "newer-format" });
});

test(
  "an archive whose records do not fit together is refused by the key that does not",
  LIMIT,
  () => {
    const changed = join(folder, "changed.jsonl");
    /** The archive with one entry changed or left out, and a checksum that is right. */
    const alter = (key: string, change: (value: Buffer) => Buffer | null): void => {
      const lines = readFileSync(path, "utf8").trimEnd().split("\n").slice(0, -1);
      const kept = lines.flatMap((line) => {
        const entry = JSON.parse(line) as { key?: string; value: string };
        if (entry.key !== key) return [line];
        const value = change(Buffer.from(entry.value, "base64"));
        return value === null ? [] : [JSON.stringify({ key, value: value.toString("base64") })];
      });
      const body = `${kept.join("\n")}\n`;
      const sha256 = createHash("sha256").update(body).digest("hex");
      writeFileSync(changed, `${body}${JSON.stringify({ entries: kept.length - 1, sha256 })}\n`);
    };
    const without = (key: string): void => alter(key, () => null);
    const volume = `volume/${uuid(3, 1)}`;
    const record = `${volume}/record`;
    const cases: [() => void, RegExp][] = [
      [() => without(`disk/${uuid(2, 0)}`), /disk number 1|member .* not there|leads to disk/],
      [() => without(`node/${uuid(1, 0)}`), /is on node .*, which is not there/],
      [() => without(`${volume}/map/0001`), /has 1024 segments instead of 1280/],
      [() => without("volume-name/volume1"), /the name volume1 does not lead to volume/],
      [() => without("cluster"), /there is no cluster record/],
      [
        () =>
          alter(record, (value) => {
            const volume = volumeCodec.decode(record, value);
            return Buffer.from(volumeCodec.encode({ ...volume, clusterGeneration: 2 }));
          }),
        /volume1 is of generation 2, the cluster is older/,
      ],
      [
        () =>
          alter(record, (value) =>
            Buffer.from(value.toString().replace('"format":1', '"format":3')),
          ),
        /has format 3/,
      ],
    ];
    for (const [make, message] of cases) {
      make();
      assert.throws(() => readArchive(changed), message);
    }
  },
);
