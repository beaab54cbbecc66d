// Keys, records and placement pages: what is written comes back, and what is newer, damaged or
// somebody else's is refused by name.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MetaKeys } from "./keys.ts";
import {
  decodePage,
  encodePage,
  PAGE_SEGMENTS,
  type PlacementPage,
  placementOf,
  SEGMENT_EXTENTS,
} from "./placement-page.ts";
import {
  clusterCodec,
  diskCodec,
  liveCodec,
  nodeCodec,
  reservationsCodec,
  volumeCodec,
} from "./record-codec.ts";
import type { ClusterRecord, VolumeRecord } from "./records.ts";

const VOLUME = "00000000-0000-4000-8000-000000000001";
const DISK_A = "00000000-0000-4000-8000-00000000000a";
const DISK_B = "00000000-0000-4000-8000-00000000000b";
const NODE = "00000000-0000-4000-8000-0000000000aa";
const AT = "2026-01-01T00:00:00.000Z";

const volume: VolumeRecord = {
  format: 1,
  changeId: "0123456789abcdef",
  id: VOLUME,
  name: "db1",
  sizeBytes: 20 * 2 ** 30,
  blockBytes: 512,
  replicaCount: 2,
  phase: "ready",
  createdAt: AT,
  clusterGeneration: 1,
  epoch: 7,
  owner: { node: NODE, incarnation: 3 },
  state: "open",
  members: [DISK_A, DISK_B],
  out: [
    { disk: DISK_B, sinceStamp: { epoch: 6, sequence: 2 ** 44 - 1 }, reason: "failed", since: AT },
  ],
  membershipVersion: 4,
  attachment: { generation: 2, node: NODE, readOnly: false },
  layers: [0],
};

const cluster: ClusterRecord = {
  format: 1,
  changeId: "0123456789abcdef",
  id: VOLUME,
  name: "home",
  generation: 1,
  features: 0,
  createdAt: AT,
};

const target = {
  portal: "[fd00::1]:3260",
  chapUser: "vm1",
  initiators: ["iqn.2026-01.com.example:host1"],
  since: 2,
};

test("records of every kind come back as they were written", () => {
  assert.deepEqual(volumeCodec.decode("k", volumeCodec.encode(volume)), volume);
  const served = { ...volume, attachment: { ...volume.attachment, target } };
  assert.deepEqual(volumeCodec.decode("k", volumeCodec.encode(served)), served);
  const proving = { ...served.attachment, target: { ...target, chapTargetUser: "db1" } };
  const bytesOfProving = volumeCodec.encode({ ...served, attachment: proving });
  const decoded = volumeCodec.decode("k", bytesOfProving);
  assert.deepEqual(decoded, { ...served, format: 2, attachment: proving }, "older nodes refuse it");
  const after = volumeCodec.encode({ ...decoded, attachment: served.attachment });
  assert.deepEqual(volumeCodec.decode("k", after), served, "and read it again afterwards");
  const unit = { controller: "vm1", lun: 255, since: 2 };
  const unitOf = { ...volume, attachment: { ...volume.attachment, unit } };
  assert.deepEqual(volumeCodec.decode("k", volumeCodec.encode(unitOf)), unitOf);
  const beyond = { ...unitOf, attachment: { ...unitOf.attachment, unit: { ...unit, lun: 256 } } };
  assert.throws(() => volumeCodec.encode(beyond), /unit.*lun is 256/);
  const reservations = {
    format: 1,
    changeId: "0123456789abcdef",
    keeper: { node: NODE, incarnation: 3 },
    since: 2,
    record: {
      generation: 7,
      aptpl: true,
      type: 1,
      holder: 0,
      registrations: [{ transportId: "0500000069716e2e", relativePort: 1, key: "00".repeat(8) }],
    },
  };
  const bytes = reservationsCodec.encode(reservations);
  assert.deepEqual(reservationsCodec.decode("k", bytes), reservations);
  assert.deepEqual(clusterCodec.decode("k", clusterCodec.encode(cluster)), cluster);
  const node = {
    format: 1,
    changeId: "0123456789abcdef",
    id: NODE,
    name: "alpha",
    address: "[fd00::1]:7700",
    rack: null,
    phase: "active",
    joinedAt: AT,
    wireFormats: [1, 1],
  } as const;
  assert.deepEqual(nodeCodec.decode("k", nodeCodec.encode(node)), node);
  const live = { format: 1, process: { node: NODE, incarnation: 1 }, startedAt: AT };
  assert.deepEqual(liveCodec.decode("k", liveCodec.encode(live)), live);
  const disk = {
    format: 1,
    changeId: "0123456789abcdef",
    id: DISK_A,
    number: 65535,
    node: NODE,
    name: "nvme0",
    sizeBytes: 2 ** 42,
    freeBytes: 2 ** 41,
    phase: "active",
    incarnation: 12,
  } as const;
  assert.deepEqual(diskCodec.decode("k", diskCodec.encode(disk)), disk);
});

test("a record in a newer format, or with an unknown feature, is refused by name", () => {
  const newer = Buffer.from(JSON.stringify({ ...volume, format: 3, colour: "red" }));
  assert.throws(() => volumeCodec.decode("ringstore/volume/x/record", newer), {
    code: "newer-format",
    message:
      "The volume record at ringstore/volume/x/record has format 3; this version reads up to 2.",
    advice: "Upgrade this node.",
  });
  const newerCluster = Buffer.from(JSON.stringify({ ...cluster, format: 2 }));
  assert.throws(() => clusterCodec.decode("c", newerCluster), /format 2; .* reads up to 1\./);
  const featured = Buffer.from(JSON.stringify({ ...cluster, features: 4 }));
  assert.throws(() => clusterCodec.decode("c", featured), /uses feature 2, which this version/);
});

test("what a volume record must never say cannot be written, nor read", () => {
  const wrong: [Partial<Record<keyof VolumeRecord, unknown>>, RegExp][] = [
    [{ attachment: { generation: 3, node: null, readOnly: false, target } }, /is a target/],
    [
      {
        attachment: {
          generation: 3,
          node: NODE,
          readOnly: false,
          target: { ...target, chapUser: null, chapTargetUser: "db1" },
        },
      },
      /proves itself to initiators that prove nothing/,
    ],
    [{ out: [...volume.out, { ...volume.out[0], disk: DISK_A }] }, /all of its members are out/],
    [{ out: [{ ...volume.out[0], disk: NODE }] }, /is out and no member/],
    [{ members: [DISK_A, DISK_A] }, /twice among its members/],
    [{ epoch: 0 }, /an owner without an epoch/],
    [{ epoch: 2 ** 20 }, /epoch is 1048576, but must be <= 1048575/],
    [{ name: "No Such" }, /name is "No Such"/],
    [{ sizeBytes: 5000 }, /no multiple of 4096/],
  ];
  for (const [change, message] of wrong) {
    const record = { ...volume, ...change } as VolumeRecord;
    assert.throws(() => volumeCodec.encode(record), message);
    const bytes = Buffer.from(JSON.stringify(record));
    assert.throws(() => volumeCodec.decode("k", bytes), message);
  }
  assert.throws(() => volumeCodec.decode("k", Buffer.from("{")), /at k is not JSON/);
  assert.throws(() => volumeCodec.decode("k", Buffer.from("null")), /not understood/);
});

const disks = fc.uniqueArray(fc.integer({ min: 1, max: 65535 }), { maxLength: 3 });
const plain = { noNullPrototype: true };
const placement = fc.record({ disks, layer: fc.nat(0xffffffff), flags: fc.nat(255) }, plain);
const page = fc
  .record({
    page: fc.nat(65535),
    segments: fc.array(placement, { minLength: 1, maxLength: 40 }),
    moved: fc.array(fc.tuple(fc.nat(), placement), { maxLength: 8 }),
  })
  .map(({ page, segments, moved }): PlacementPage => {
    const extents = new Map(moved.map(([n, p]) => [n % (segments.length * SEGMENT_EXTENTS), p]));
    const exceptions = [...extents].map(([extent, one]) => ({ ...one, extent }));
    return { page, segments, exceptions: exceptions.sort((a, b) => a.extent - b.extent) };
  });

test("placement pages come back as they were packed, and every flipped bit is noticed", () => {
  fc.assert(
    fc.property(page, fc.nat(), (one, position) => {
      const bytes = encodePage(VOLUME, one);
      assert.deepEqual(decodePage(VOLUME, "k", bytes), one);
      const bit = position % (bytes.length * 8);
      bytes[bit >>> 3]! ^= 1 << (bit & 7);
      assert.throws(() => decodePage(VOLUME, "k", bytes), { name: "RingstoreError" });
    }),
    { numRuns: 300 },
  );
});

test("a page of another volume, cut short, or in a newer format is refused", () => {
  const one: PlacementPage = {
    page: 0,
    segments: [{ disks: [1, 2], layer: 0, flags: 0 }],
    exceptions: [{ extent: 5, disks: [3, 2], layer: 0, flags: 0 }],
  };
  const bytes = encodePage(VOLUME, one);
  assert.equal(bytes.length, 32 + 2 * 16);
  assert.throws(() => decodePage(DISK_A, "k", bytes), /belongs to another volume/);
  assert.throws(() => decodePage(VOLUME, "k", bytes.subarray(0, 40)), /at k is not understood/);
  const newer = Uint8Array.from(bytes);
  newer[4] = 2;
  assert.throws(() => decodePage(VOLUME, "map/0000", newer), {
    code: "newer-format",
    message: "The placement page at map/0000 has format 2; this version reads up to 1.",
  });
  const long = { ...one, segments: new Array(PAGE_SEGMENTS + 1).fill(one.segments[0]) };
  assert.throws(() => encodePage(VOLUME, long), /1025 segments of 1024/);
  assert.deepEqual(placementOf(one, 4)?.disks, [1, 2]);
  assert.deepEqual(placementOf(one, 5)?.disks, [3, 2]);
  assert.equal(placementOf(one, SEGMENT_EXTENTS), null);
});

test("keys sort as their numbers count, and lie below their root", () => {
  const keys = new MetaKeys("site/a/");
  assert.equal(keys.volumeMapPage(VOLUME, 255), `site/a/volume/${VOLUME}/map/00ff`);
  assert.ok(keys.volumeMapPage(VOLUME, 9) < keys.volumeMapPage(VOLUME, 10));
  assert.ok(keys.diskNumber(255) < keys.diskNumber(4096));
  assert.ok(keys.volumeRecord(VOLUME).startsWith(keys.volume(VOLUME)));
  for (const root of ["", "/", "a", "A/", "a//", "a b/"]) {
    assert.throws(() => new MetaKeys(root), { code: "refused" }, root);
  }
  assert.throws(() => keys.node("not-a-uuid"), /UUIDs/);
});
