// The placement planner: its hard rules hold for every inventory, it finds what can be found, and it
// says why.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { GIB } from "../base/index.ts";
import { MetaError } from "./errors.ts";
import { type PlacementCandidates, type PlacementRequest, planPlacement } from "./placement.ts";
import { SEGMENT_BYTES } from "./placement-page.ts";

const RUNS = Number(process.env["RINGSTORE_PLACEMENT_RUNS"] ?? 400);

interface Drawn {
  readonly racks: readonly (string | null)[];
  /** Per disk: its node, its free segments. */
  readonly disks: readonly (readonly [number, number])[];
}

const drawn = fc.record({
  racks: fc.array(fc.constantFrom(null, "a", "b", "c"), { minLength: 1, maxLength: 6 }),
  disks: fc.array(fc.tuple(fc.nat(5), fc.nat(6)), { maxLength: 10 }),
}) as fc.Arbitrary<Drawn>;

function inventoryOf({ racks, disks }: Drawn, scale = SEGMENT_BYTES): PlacementCandidates {
  return {
    nodes: racks.map((rack, index) => ({ id: `n${index}`, name: `node${index}`, rack })),
    disks: disks
      .filter(([node]) => node < racks.length)
      .map(([node, free], index) => ({
        number: index + 1,
        name: `disk${index + 1}`,
        node: `n${node}`,
        freeBytes: free * scale,
      })),
  };
}

/** Segments of one size fit if, and only if, no node is asked for more than one copy of each. */
function fits(inventory: PlacementCandidates, segments: number, replicaCount: number): boolean {
  const room = new Map<string, number>();
  for (const { node, freeBytes } of inventory.disks) {
    room.set(node, (room.get(node) ?? 0) + Math.floor(freeBytes / SEGMENT_BYTES));
  }
  let sum = 0;
  for (const count of room.values()) sum += Math.min(count, segments);
  return sum >= segments * replicaCount;
}

function check(request: PlacementRequest, inventory: PlacementCandidates): void {
  const plan = planPlacement(request, inventory);
  const disks = new Map(inventory.disks.map((disk) => [disk.number, disk]));
  assert.equal(plan.segments.length, Math.ceil(request.sizeBytes / SEGMENT_BYTES));
  const taken = new Map<number, number>();
  for (const [index, set] of plan.segments.entries()) {
    assert.equal(set.length, request.replicaCount);
    const nodes = new Set(set.map((number) => disks.get(number)!.node));
    assert.equal(nodes.size, set.length, "copies on different nodes");
    const bytes = Math.min(SEGMENT_BYTES, request.sizeBytes - index * SEGMENT_BYTES);
    for (const number of set) taken.set(number, (taken.get(number) ?? 0) + bytes);
  }
  for (const [number, bytes] of taken) {
    assert.ok(bytes <= disks.get(number)!.freeBytes, `disk ${number} is not overfilled`);
  }
  assert.deepEqual(new Map(plan.disks.map((disk) => [disk.number, disk.bytes])), taken);
}

test("copies lie on different nodes, no disk is overfilled, and a placement is found if there is one", () => {
  let found = 0;
  let refused = 0;
  fc.assert(
    fc.property(
      drawn,
      fc.integer({ min: 1, max: 8 }),
      fc.integer({ min: 1, max: 3 }),
      fc.option(fc.nat(5)),
      (one, segments, replicaCount, local) => {
        const inventory = inventoryOf(one);
        const localNode = local === null ? null : `n${local}`;
        const request = { sizeBytes: segments * SEGMENT_BYTES, replicaCount, localNode };
        if (fits(inventory, segments, replicaCount)) {
          found++;
          check(request, inventory);
        } else {
          refused++;
          assert.throws(
            () => planPlacement(request, inventory),
            (error: unknown) => error instanceof MetaError && error.code === "no-room",
          );
        }
      },
    ),
    { numRuns: RUNS },
  );
  assert.ok(found > RUNS / 10 && refused > RUNS / 10, `both happen: ${found}, ${refused}`);
});

test("a volume that is no whole number of segments is counted by its bytes", () => {
  fc.assert(
    fc.property(drawn, fc.integer({ min: 1, max: 100 }), (one, quarters) => {
      const inventory = inventoryOf(one, SEGMENT_BYTES / 4);
      const request = {
        sizeBytes: (quarters * SEGMENT_BYTES) / 4,
        replicaCount: 2,
        localNode: null,
      };
      try {
        check(request, inventory);
      } catch (error) {
        if (!(error instanceof MetaError)) throw error;
        // Never a refusal where even whole segments would have fitted.
        assert.equal(fits(inventory, Math.ceil(quarters / 4), 2), false);
      }
    }),
    { numRuns: RUNS },
  );
});

test("the order in which nodes and disks are listed changes nothing", () => {
  fc.assert(
    fc.property(
      drawn,
      fc.integer({ min: 1, max: 6 }),
      fc.infiniteStream(fc.nat()),
      (one, segments, keys) => {
        const inventory = inventoryOf(one);
        const request = { sizeBytes: segments * SEGMENT_BYTES, replicaCount: 2, localNode: "n0" };
        const shuffle = <T>(list: readonly T[]): T[] =>
          list
            .map((item) => ({ item, key: keys.next().value as number }))
            .sort((a, b) => a.key - b.key)
            .map(({ item }) => item);
        const other = { nodes: shuffle(inventory.nodes), disks: shuffle(inventory.disks) };
        assert.deepEqual(outcomeOf(request, other), outcomeOf(request, inventory));
      },
    ),
    { numRuns: RUNS },
  );
});

function outcomeOf(request: PlacementRequest, inventory: PlacementCandidates): unknown {
  try {
    return planPlacement(request, inventory);
  } catch (error) {
    return (error as Error).message;
  }
}

const three: PlacementCandidates = {
  nodes: [
    { id: "n1", name: "alpha", rack: "left" },
    { id: "n2", name: "beta", rack: "left" },
    { id: "n3", name: "gamma", rack: "right" },
  ],
  disks: [
    { number: 1, name: "a", node: "n1", freeBytes: 40 * GIB },
    { number: 2, name: "b", node: "n2", freeBytes: 900 * GIB },
    { number: 3, name: "c", node: "n3", freeBytes: 100 * GIB },
  ],
};

test("one copy is local and the other in another rack, though a third node has more room", () => {
  const plan = planPlacement({ sizeBytes: 20 * GIB, replicaCount: 2, localNode: "n1" }, three);
  assert.deepEqual(plan.segments, [
    [1, 3],
    [1, 3],
  ]);
  assert.deepEqual(
    plan.disks.map((disk) => disk.why),
    [
      "a on alpha: the node where it is attached, 40 GiB free",
      "c on gamma: another node, rack right, 100 GiB free",
    ],
  );
  assert.deepEqual(plan.compromises, []);
});

test("what cannot be kept is said: part of it is not local, copies share a rack", () => {
  const request = { sizeBytes: 64 * GIB, replicaCount: 2, localNode: "n1" };
  const plan = planPlacement(request, three);
  assert.deepEqual(plan.segments.slice(0, 2), [
    [1, 3],
    [1, 3],
  ]);
  assert.match(plan.compromises[0] ?? "", /^Not all of it lies on the node .* 40 GiB are free/);
  const both = { sizeBytes: 16 * GIB, replicaCount: 3, localNode: null };
  assert.match(planPlacement(both, three).compromises[0] ?? "", /^Copies share a rack: 2 racks/);
});

test("a refusal names what is missing", () => {
  const refusal = (
    sizeBytes: number,
    replicaCount: number,
    inventory: PlacementCandidates,
  ): MetaError => {
    try {
      planPlacement({ sizeBytes, replicaCount, localNode: null }, inventory);
    } catch (error) {
      return error as MetaError;
    }
    return assert.fail("it was placed");
  };
  const tooLarge = refusal(200 * GIB, 2, three);
  assert.match(tooLarge.message, /^2 × 200 GiB .* alpha 40 GiB, beta 900 GiB, gamma 100 GiB\.$/);
  const one = { nodes: three.nodes, disks: three.disks.slice(0, 1) };
  assert.match(refusal(GIB, 2, one).message, /^2 copies need 2 nodes .* there are 1\.$/);
});
