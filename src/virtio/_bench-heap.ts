// Run by heap.test.ts in a process of its own, with --expose-gc: serves millions of requests and
// says on stdout, as JSON, how much the heap has grown.

import { BenchRig, type BenchShape } from "./_bench-rig.ts";

const WARM_UP = 600_000;

const SHAPES: readonly (readonly [BenchShape, number])[] = [
  [{ name: "split", packed: false, indirect: false, write: false, depth: 32 }, 5_000_000],
  [{ name: "split indirect", packed: false, indirect: true, write: true, depth: 32 }, 1_000_000],
  [{ name: "packed", packed: true, indirect: false, write: true, depth: 32 }, 1_000_000],
  [{ name: "depth 1", packed: false, indirect: false, write: false, depth: 1 }, 1_000_000],
];

const collect = (globalThis as unknown as { gc: () => void }).gc;

const grown: Record<string, number> = {};
for (const [shape, count] of SHAPES) {
  const rig = new BenchRig(shape);
  rig.run(WARM_UP);
  collect();
  const before = process.memoryUsage();
  rig.run(count);
  collect();
  const after = process.memoryUsage();
  grown[shape.name] = after.heapUsed + after.external - before.heapUsed - before.external;
}
process.stdout.write(JSON.stringify(grown));
