// The commands that move volumes between nodes and put nodes aside: a part of the command table
// (command-table.ts).

import type { CommandSpec } from "./command-spec.ts";

export const MOVE_COMMANDS: readonly CommandSpec[] = [
  {
    path: ["volume", "hand-over"],
    summary: "move an attached volume of the cluster to another node",
    details: [
      "The node that has it finishes what is under way and lets go; the other one serves it from " +
        "then on. Refused while a guest uses the volume: to move that, see volume attach " +
        "--standby.",
    ],
    arguments: [
      { name: "name", description: "the volume's name", completes: "volume" },
      { name: "node", description: "the node that shall have it", completes: "node" },
    ],
    options: [],
    examples: ["ringstore volume hand-over db1 host-2"],
    load: async () => (await import("./commands/move.ts")).handOver,
  },
  {
    path: ["node", "maintenance"],
    summary: "put a node aside for a while, or take it back",
    details: [
      "on: volumes that it has attached and that serve no guest are handed over to other nodes; " +
        "nothing new is placed on it, and its copies are not made anew elsewhere while it is " +
        "away. Refused, naming the volumes, when it has the last copy in sync of some.",
      "off: it takes part again. What its copies have missed is brought up to date.",
    ],
    arguments: [
      { name: "switch", description: "on or off", completes: "nothing" },
      { name: "name", description: "the node's name", completes: "node" },
    ],
    options: [
      {
        long: "dry-run",
        kind: "switch",
        description: "check everything and change nothing",
      },
    ],
    examples: [
      "ringstore node maintenance on host-2 --dry-run",
      "ringstore node maintenance on host-2",
      "ringstore node maintenance off host-2",
    ],
    load: async () => (await import("./commands/move.ts")).maintain,
  },
];
