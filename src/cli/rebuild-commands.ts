// The commands on copies that are being brought up to date: a part of the command table
// (command-table.ts).

import type { CommandSpec } from "./command-spec.ts";

export const REBUILD_COMMANDS: readonly CommandSpec[] = [
  {
    path: ["rebuild", "list"],
    summary: "list the copies that this node's volumes are bringing up to date",
    details: [
      "A few volumes are copied at a time, those with the fewest copies in sync first; the " +
        "others wait for their turn. How much there is to copy, and the time left, are known " +
        "when both copies have told what changed.",
    ],
    arguments: [],
    options: [],
    examples: ["ringstore rebuild list"],
    load: async () => (await import("./commands/rebuild.ts")).list,
  },
  {
    path: ["rebuild", "limit"],
    summary: "show or set how fast this node's volumes may rebuild copies",
    details: [
      "auto, the default: as fast as it can be while clients' latency (p99) stays within about " +
        "twice what it is without. RATE, in bytes per second, is a limit for all of them " +
        "together, whatever clients see. It holds at once, and is kept over restarts.",
      "Each node has its own limit, for the volumes that it owns. Metadata is not needed.",
    ],
    arguments: [
      {
        name: "rate",
        description: "auto or RATE, e.g. 200M",
        completes: "nothing",
        optional: true,
      },
    ],
    options: [],
    examples: [
      "ringstore rebuild limit",
      "ringstore rebuild limit 200M",
      "ringstore rebuild limit auto",
    ],
    load: async () => (await import("./commands/rebuild.ts")).limit,
  },
];
