// What is planned when disks are lost, emptied or too few; carried out step by step, it ends with
// every volume whole, and never touches a copy that is needed.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { GIB, MIB } from "../base/index.ts";
import { volumeCodec } from "./record-codec.ts";
import { type DiskRecord, type NodeRecord, RECORD_FORMAT, type VolumeRecord } from "./records.ts";
import {
  foresee,
  isInSync,
  leavingOf,
  outCopies,
  planRepairs,
  type RepairPlan,
  type RepairView,
} from "./repair-plan.ts";

const NOW = "2026-11-27T07:00:00.000Z";
const AFTER_MS = 1000;
const CHANGE = "0123456789abcdef";

function idOf(kind: number, index: number): string {
  return `${kind}0000000-0000-4000-8000-${String(index).padStart(12, "0")}`;
}

const nodeId = (index: number): string => idOf(1, index);
const diskId = (index: number): string => idOf(2, index);

class Scene {
  readonly nodes = new Map<string, NodeRecord>();
  readonly disks = new Map<string, DiskRecord>();
  volumes: VolumeRecord[] = [];
  readonly dead = new Set<string>();
  readonly lost = new Map<string, number>();
  /** As the node sees it that owns the volumes: disks, and nodes to which it has no link. */
  readonly cutOff = new Map<string, number>();
  readonly unreached = new Set<string>();

  /** A disk on each of so many nodes, with the same index. */
  constructor(count: number, freeBytes: number = GIB) {
    for (let index = 1; index <= count; index += 1) {
      this.addNode(index, null);
      this.addDisk(index, index, freeBytes);
    }
  }

  addNode(index: number, rack: string | null): void {
    this.nodes.set(nodeId(index), {
      format: RECORD_FORMAT,
      changeId: CHANGE,
      id: nodeId(index),
      name: `n${index}`,
      address: "127.0.0.1:1",
      rack,
      phase: "active",
      joinedAt: NOW,
      wireFormats: [1, 1],
    });
  }

  addDisk(index: number, node: number, freeBytes: number): void {
    this.disks.set(diskId(index), {
      format: RECORD_FORMAT,
      changeId: CHANGE,
      id: diskId(index),
      number: index,
      node: nodeId(node),
      name: `d${index}`,
      sizeBytes: 2 * GIB,
      freeBytes,
      phase: "active",
      incarnation: 1,
    });
  }

  setNode(index: number, change: Partial<NodeRecord>): void {
    this.nodes.set(nodeId(index), { ...this.nodes.get(nodeId(index))!, ...change });
  }

  setDisk(index: number, change: Partial<DiskRecord>): void {
    this.disks.set(diskId(index), { ...this.disks.get(diskId(index))!, ...change });
  }

  addVolume(name: string, disks: readonly number[], change: Partial<VolumeRecord> = {}): void {
    this.volumes.push({
      format: RECORD_FORMAT,
      changeId: CHANGE,
      id: idOf(3, this.volumes.length),
      name,
      sizeBytes: 64 * MIB,
      blockBytes: 4096,
      replicaCount: disks.length,
      phase: "ready",
      createdAt: NOW,
      clusterGeneration: 1,
      epoch: 1,
      owner: null,
      state: "open",
      members: disks.map(diskId),
      out: [],
      membershipVersion: 1,
      attachment: { generation: 1, node: null, readOnly: false },
      layers: [0],
      ...change,
    });
  }

  lose(index: number, ms: number = AFTER_MS): void {
    this.lost.set(diskId(index), ms);
    this.dead.add(this.disks.get(diskId(index))!.node);
  }

  /** No link from the owner to the disk's node. */
  part(index: number, ms: number = AFTER_MS): void {
    this.cutOff.set(diskId(index), ms);
    this.unreached.add(this.disks.get(diskId(index))!.node);
  }

  join(index: number): void {
    this.cutOff.delete(diskId(index));
    this.unreached.delete(this.disks.get(diskId(index))!.node);
  }

  back(index: number): void {
    this.lost.delete(diskId(index));
    this.dead.delete(this.disks.get(diskId(index))!.node);
  }

  view(): RepairView {
    return {
      nodes: this.nodes,
      disks: this.disks,
      volumes: this.volumes,
      isAlive: (node) => !this.dead.has(node),
      lostMs: (disk) => this.lost.get(disk) ?? 0,
      cutOffMs: (_, disk) => this.cutOff.get(disk) ?? 0,
      isReachable: (node) => !this.unreached.has(node),
      afterMs: AFTER_MS,
      now: NOW,
    };
  }

  plan(): RepairPlan {
    return planRepairs(this.view());
  }

  /** Carries out what is planned, and checks what every step must keep. */
  step(): string[] {
    return this.plan().steps.map(({ kind, volume, next, replacement, why }) => {
      for (const disk of volume.members) {
        if (next.members.includes(disk)) continue;
        assert.ok(!isInSync(volume, disk), "only a member that is out leaves");
        if (disk !== replacement.from) continue;
        assert.ok(isInSync(next, replacement.to), "the new copy is in sync before");
      }
      assert.equal(next.membershipVersion, volume.membershipVersion + 1);
      volumeCodec.encode(next);
      const at = this.volumes.indexOf(volume);
      this.volumes[at] = next;
      return `${kind} ${volume.name}: ${why}`;
    });
  }

  change(name: string, make: (record: VolumeRecord) => VolumeRecord): void {
    this.volumes = this.volumes.map((one) => (one.name === name ? make(one) : one));
  }

  /** What the owner does. */
  putOut(name: string, index: number): void {
    const sinceStamp = { epoch: 1, sequence: 1 };
    this.change(name, (record) => ({
      ...record,
      out: [
        ...record.out,
        { disk: diskId(index), sinceStamp, reason: "missing" as const, since: NOW },
      ],
    }));
  }

  takeIn(name: string, disk: string): void {
    this.change(name, (record) => ({
      ...record,
      out: record.out.filter((one) => one.disk !== disk),
    }));
  }

  volume(name: string): VolumeRecord {
    return this.volumes.find((one) => one.name === name)!;
  }

  /** Disks with copies, by index. */
  members(name: string): number[] {
    return this.volume(name).members.map((disk) => Number(disk.slice(-3)));
  }
}

describe("a lost copy", () => {
  test("is made elsewhere after its time, and leaves when the new one is in sync", () => {
    const scene = new Scene(3);
    scene.addVolume("v", [1, 2]);
    scene.putOut("v", 2);
    scene.lose(2, AFTER_MS - 1);
    assert.deepEqual(scene.step(), []);
    scene.lose(2);
    assert.match(scene.step()[0]!, /^begin v: d3 on n3/);
    assert.deepEqual(scene.members("v"), [1, 2, 3]);
    assert.equal(scene.volume("v").out.length, 2);
    assert.equal(outCopies(scene.volume("v")).length, 1);
    assert.deepEqual(scene.step(), [], "the new copy is being made");
    assert.equal(leavingOf(scene.volume("v")), null);
    scene.takeIn("v", diskId(3));
    assert.equal(leavingOf(scene.volume("v")), diskId(2));
    assert.deepEqual(scene.step(), ["finish v: the new copy is in sync"]);
    assert.deepEqual(scene.members("v"), [1, 3]);
    assert.deepEqual(scene.volume("v").out, []);
    assert.equal(scene.volume("v").replacement, undefined);
    assert.deepEqual(scene.step(), []);
  });

  test("that is in sync again first makes the plan superfluous", () => {
    const scene = new Scene(3);
    scene.addVolume("v", [1, 2]);
    scene.putOut("v", 2);
    scene.lose(2);
    scene.step();
    scene.back(2);
    assert.deepEqual(scene.step(), [], "it is being resynced");
    scene.takeIn("v", diskId(2));
    assert.match(scene.step()[0]!, /^drop v: .*in sync again/);
    assert.deepEqual(scene.members("v"), [1, 2]);
    assert.deepEqual(scene.volume("v").out, []);
  });

  test("both in sync: the owner puts the old one out, then it leaves", () => {
    const scene = new Scene(3);
    scene.addVolume("v", [1, 2]);
    scene.putOut("v", 2);
    scene.lose(2);
    scene.step();
    scene.back(2);
    scene.takeIn("v", diskId(3));
    scene.takeIn("v", diskId(2));
    assert.deepEqual(scene.step(), []);
    assert.equal(leavingOf(scene.volume("v")), diskId(2));
    scene.putOut("v", 2);
    assert.match(scene.step()[0]!, /^finish v/);
    assert.deepEqual(scene.members("v"), [1, 3]);
  });

  test("a place that is lost or emptied meanwhile is given up for another", () => {
    for (const spoil of ["lost", "draining", "forgotten"]) {
      const scene = new Scene(4);
      scene.addVolume("v", [1, 2]);
      scene.putOut("v", 2);
      scene.lose(2);
      scene.step();
      assert.deepEqual(scene.members("v"), [1, 2, 3]);
      if (spoil === "lost") scene.lose(3);
      else if (spoil === "draining") scene.setNode(3, { phase: "draining" });
      else scene.disks.delete(diskId(3));
      assert.match(scene.step()[0]!, /^drop v/, spoil);
      assert.deepEqual(scene.members("v"), [1, 2]);
      scene.step();
      assert.deepEqual(scene.members("v"), [1, 2, 4]);
    }
  });

  test("nothing is planned without a copy to read, for a volume that goes, for one in maintenance", () => {
    const scene = new Scene(4);
    scene.addVolume("alone", [2]);
    scene.addVolume("goes", [1, 2], { phase: "deleting" });
    scene.lose(2);
    assert.deepEqual(scene.plan(), { steps: [], blocked: [] });
  });

  test("the most endangered first; two at a time to a disk, whose room they share", () => {
    const scene = new Scene(4, 200 * MIB);
    for (const name of ["a", "b"]) scene.addVolume(name, [1, 3, 2]);
    scene.addVolume("z", [1, 2]);
    for (const name of ["a", "b", "z"]) scene.putOut(name, 2);
    scene.lose(2);
    scene.setDisk(3, { freeBytes: 0 });
    const steps = scene.step();
    assert.deepEqual(
      steps.map((one) => one.slice(0, 7)),
      ["begin z", "begin a"],
    );
    // Two are on their way: 200 MiB have room for three volumes, 190 for two and a bit.
    scene.takeIn("z", diskId(4));
    scene.setDisk(4, { freeBytes: 126 * MIB });
    scene.step();
    assert.equal(scene.volume("b").replacement, undefined);
    const { blocked } = scene.plan();
    assert.match(blocked[0]?.message ?? "", /no other node has a disk with 64.*free: n4 62/);
    assert.equal(blocked[0]?.volume.name, "b");
  });
});

describe("a copy that its owner does not reach", () => {
  test("is made elsewhere after its time by the owner's node, where the owner reaches it", () => {
    const scene = new Scene(4);
    scene.addVolume("v", [1, 2]);
    scene.putOut("v", 2);
    scene.part(2, AFTER_MS - 1);
    assert.deepEqual(scene.step(), []);
    scene.part(2);
    // The roomiest, which the owner does not reach either; and another disk of the node cut off.
    scene.setDisk(3, { freeBytes: 2 * GIB });
    scene.unreached.add(nodeId(3));
    scene.addDisk(5, 2, 2 * GIB);
    assert.deepEqual(
      scene.plan().steps.map(({ isOwners }) => isOwners),
      [true],
    );
    assert.match(scene.step()[0]!, /^begin v: its owner does not reach the copy there; d4 on n4/);
    assert.deepEqual(scene.step(), []);
    scene.takeIn("v", diskId(4));
    assert.deepEqual(
      scene.plan().steps.map(({ isOwners }) => isOwners),
      [false],
      "whoever leads ends it",
    );
    scene.step();
    assert.deepEqual(scene.members("v"), [1, 4]);
  });

  test("stays when it is reached again before; the plan goes when it is in sync first", () => {
    const scene = new Scene(3);
    scene.addVolume("v", [1, 2]);
    scene.putOut("v", 2);
    scene.part(2, AFTER_MS - 1);
    scene.join(2);
    assert.deepEqual(scene.step(), []);
    scene.part(2);
    assert.equal(scene.step().length, 1);
    scene.join(2);
    assert.deepEqual(scene.step(), []);
    scene.takeIn("v", diskId(2));
    assert.match(scene.step()[0]!, /^drop v/);
    assert.deepEqual(scene.members("v"), [1, 2]);
  });

  test("is not touched while it counts, nor while no other does; without a place it says so", () => {
    const scene = new Scene(3);
    scene.addVolume("v", [1, 2]);
    scene.part(2);
    assert.deepEqual(scene.plan(), { steps: [], blocked: [] }, "the record says: in sync");
    scene.putOut("v", 2);
    scene.lose(1, 1);
    assert.deepEqual(scene.plan(), { steps: [], blocked: [] }, "nothing to copy from");
    scene.back(1);
    scene.unreached.add(nodeId(3));
    const { steps, blocked } = scene.plan();
    assert.deepEqual(steps, []);
    assert.match(blocked[0]?.message ?? "", /every node that its owner reaches has a copy/);
  });

  test("and a new place that is cut off too is given up for another", () => {
    const scene = new Scene(4);
    scene.addVolume("v", [1, 2]);
    scene.putOut("v", 2);
    scene.part(2);
    scene.step();
    assert.deepEqual(scene.members("v"), [1, 2, 3]);
    scene.part(3);
    assert.match(scene.step()[0]!, /^drop v: .*cut off from the owner/);
    scene.step();
    assert.deepEqual(scene.members("v"), [1, 2, 4]);
  });
});

describe("a place", () => {
  test("is never where another copy is, prefers the guest's node, then another rack", () => {
    const scene = new Scene(0);
    for (const [index, rack] of ["r", "s", "r", "t"].entries()) {
      scene.addNode(index + 1, rack);
      scene.addDisk(index + 1, index + 1, GIB);
    }
    scene.setDisk(3, { freeBytes: 2 * GIB });
    scene.addVolume("v", [1, 2]);
    scene.putOut("v", 2);
    scene.lose(2);
    assert.match(scene.plan().steps[0]?.why ?? "", /^d4/, "not the roomier one in rack r");
    const attachment = { generation: 1, node: nodeId(3), readOnly: false };
    scene.change("v", (record) => ({ ...record, attachment }));
    assert.match(scene.plan().steps[0]?.why ?? "", /^d3 on n3: the node where it is attached/);
    scene.lose(4);
    scene.lose(3);
    const { blocked } = scene.plan();
    assert.match(blocked[0]?.message ?? "", /every node that is alive has a copy/);
    // Another disk of the node whose disk failed will do.
    const two = new Scene(2);
    two.addDisk(3, 2, GIB);
    two.addVolume("v", [1, 2]);
    two.putOut("v", 2);
    two.setDisk(2, { phase: "failed" });
    two.lost.set(diskId(2), AFTER_MS);
    assert.match(two.plan().steps[0]?.why ?? "", /^d3 on n2/);
  });
});

describe("draining", () => {
  test("copies move one after another; the source counts until the owner puts it out", () => {
    const scene = new Scene(3);
    scene.addVolume("v", [1, 2]);
    scene.setNode(2, { phase: "draining" });
    assert.match(scene.step()[0]!, /^begin v: d3/);
    assert.ok(isInSync(scene.volume("v"), diskId(2)));
    assert.equal(outCopies(scene.volume("v")).length, 0, "nothing is lacking");
    scene.takeIn("v", diskId(3));
    assert.deepEqual(scene.step(), []);
    assert.equal(leavingOf(scene.volume("v")), diskId(2));
    scene.putOut("v", 2);
    assert.equal(outCopies(scene.volume("v")).length, 0);
    scene.step();
    assert.deepEqual(scene.members("v"), [1, 3]);
  });

  test("that is called off takes its plans back; a lost copy goes first", () => {
    const scene = new Scene(4);
    scene.addVolume("v", [1, 2]);
    scene.setDisk(2, { phase: "draining" });
    scene.step();
    scene.setDisk(2, { phase: "active" });
    assert.match(scene.step()[0]!, /^drop v: its disk may keep the copy/);
    assert.deepEqual(scene.members("v"), [1, 2]);
    scene.setDisk(2, { phase: "draining" });
    scene.putOut("v", 1);
    scene.lose(1);
    scene.step();
    assert.equal(scene.volume("v").replacement?.from, diskId(1));
  });

  test("what would become of copies: places that fit together, or why there is none", () => {
    const scene = new Scene(3, 100 * MIB);
    scene.addVolume("v", [1, 2]);
    scene.addVolume("w", [1, 2]);
    const seen = foresee(scene.view(), new Set([diskId(2)]));
    assert.deepEqual(
      seen.map(({ volume, from, to }) => [volume.name, from, to]),
      [
        ["v", diskId(2), diskId(3)],
        ["w", diskId(2), null],
      ],
    );
    assert.match(seen[1]?.why ?? "", /n3 36/);
  });
});

test("too few copies get one more", () => {
  const scene = new Scene(3);
  scene.addVolume("v", [1], { replicaCount: 2 });
  assert.match(scene.step()[0]!, /^begin v/);
  const { to } = scene.volume("v").replacement!;
  scene.takeIn("v", to);
  assert.match(scene.step()[0]!, /^finish v/);
  assert.equal(scene.volume("v").members.length, 2);
  assert.equal(scene.volume("v").replacement, undefined);
});

test("whatever is lost, emptied and comes back, in the end every volume is whole", () => {
  const event = fc.tuple(fc.nat(5), fc.integer({ min: 1, max: 5 }), fc.nat(2));
  fc.assert(
    fc.property(fc.array(event, { maxLength: 30 }), (events) => {
      const scene = new Scene(5);
      scene.addVolume("a", [1, 2]);
      scene.addVolume("b", [2, 3, 4]);
      scene.addVolume("c", [5, 1]);
      const names = ["a", "b", "c"] as const;
      /** The owner's part: whoever is gone is put out, whoever is there is taken in. */
      const own = (name: string): void => {
        for (const disk of scene.volume(name).members) {
          const record = scene.volume(name);
          const counted = record.members.filter((one) => isInSync(record, one));
          const gone = scene.lost.has(disk);
          const others = counted.filter((one) => one !== disk && !scene.lost.has(one));
          if (isInSync(record, disk)) {
            const leaves = gone || leavingOf(record) === disk;
            if (leaves && others.length > 0) scene.putOut(name, Number(disk.slice(-3)));
          } else if (!gone && others.length > 0 && leavingOf(record) !== disk) {
            scene.takeIn(name, disk);
          }
        }
      };
      for (const [what, index, which] of events) {
        if (what === 0) scene.lose(index);
        else if (what === 1) scene.back(index);
        else if (what === 2) scene.setNode(index, { phase: "draining" });
        else if (what === 3) scene.setNode(index, { phase: "active" });
        else own(names[which]!);
        scene.step();
      }
      for (let index = 1; index <= 5; index += 1) {
        scene.back(index);
        scene.setNode(index, { phase: "active" });
      }
      for (let turn = 0; turn < 20; turn += 1) {
        for (const name of names) own(name);
        scene.step();
      }
      for (const { name, members, out, replicaCount, replacement } of scene.volumes) {
        assert.deepEqual([members.length, out.length], [replicaCount, 0], name);
        assert.equal(replacement, undefined, name);
        const nodes = new Set(members.map((disk) => scene.disks.get(disk)!.node));
        assert.equal(nodes.size, members.length, "on different nodes");
      }
    }),
    { numRuns: 300 },
  );
});
