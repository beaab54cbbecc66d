// The commands on the cluster and its nodes: a part of the command table
// (command-table.ts).

import type { ArgumentSpec, CommandSpec, OptionSpec } from "./command-spec.ts";

const NODE: ArgumentSpec = { name: "name", description: "the node's name", completes: "node" };

const DRY_RUN: OptionSpec = {
  long: "dry-run",
  kind: "switch",
  description: "check everything and change nothing",
};

/** Of node drain and disk drain. */
export const DRAIN_OPTIONS: readonly OptionSpec[] = [
  {
    long: "cancel",
    kind: "switch",
    description: "end it: copies that have not moved stay",
  },
  {
    long: "no-wait",
    kind: "switch",
    description: "do not wait until all copies have moved",
  },
  { long: "dry-run", kind: "switch", description: "say where copies would go; change nothing" },
];

/** How a node presents itself: the same for the first one and all others. */
const NODE_OPTIONS: readonly OptionSpec[] = [
  {
    long: "address",
    metavar: "HOST:PORT",
    kind: "text",
    description: "where the other nodes reach this one; must be given",
  },
  {
    long: "node-name",
    metavar: "NAME",
    kind: "text",
    description: "what this node is called (default: the host's name)",
  },
  {
    long: "rack",
    metavar: "NAME",
    kind: "text",
    description: "failure domain: copies of a volume go to different ones where they can",
  },
];

/** How the node gets into metadata that is not open to everybody. */
const ACCESS_OPTIONS: readonly OptionSpec[] = [
  {
    long: "metadata-ca",
    metavar: "FILE",
    kind: "path",
    description: "certificate of who signed the metadata servers' ones (PEM): TLS",
  },
  {
    long: "metadata-cert",
    metavar: "FILE",
    kind: "path",
    description: "certificate of this node (PEM), where the servers ask for one; stays here",
  },
  {
    long: "metadata-key",
    metavar: "FILE",
    kind: "path",
    description: "key of that certificate (PEM)",
  },
  {
    long: "metadata-user",
    metavar: "NAME",
    kind: "text",
    description: "user of the metadata",
  },
  {
    long: "metadata-password-file",
    metavar: "FILE",
    kind: "path",
    description: "file with the password of that user; - is standard input",
  },
];

export const CLUSTER_COMMANDS: readonly CommandSpec[] = [
  {
    path: ["cluster", "init"],
    summary: "make a cluster of which this daemon is the first node",
    details: [
      "Other nodes join it with what cluster token prints. What the cluster must agree on is " +
        "kept in etcd, or in the embedded metadata server (ringstored --role meta), which is a " +
        "single point of failure.",
    ],
    arguments: [{ name: "name", description: "the new cluster's name", completes: "nothing" }],
    options: [
      ...NODE_OPTIONS,
      {
        long: "metadata",
        metavar: "HOST:PORT",
        kind: "text",
        repeats: true,
        description:
          "a server of etcd, or the embedded metadata server; once for each server; must be given",
      },
      ...ACCESS_OPTIONS,
      DRY_RUN,
    ],
    examples: [
      "ringstore cluster init prod --address 10.0.0.1:7400 --metadata 10.0.0.1:2379",
      "ringstore cluster init prod --address 10.0.0.1:7400 --metadata 10.0.0.1:2379 " +
        "--metadata 10.0.0.2:2379 --metadata 10.0.0.3:2379 --rack a",
    ],
    load: async () => (await import("./commands/cluster.ts")).init,
  },
  {
    path: ["cluster", "join"],
    summary: "make this daemon a node of a cluster",
    details: [
      "The token is read from a file or from standard input, never from the command line, where " +
        "everybody on the machine can see it. cluster token prints it, on any node of the cluster.",
      "Authority, user and password of the metadata come with the token; a certificate of the " +
        "node itself does not.",
    ],
    arguments: [],
    options: [
      ...NODE_OPTIONS,
      {
        long: "cluster-token-file",
        metavar: "FILE",
        kind: "path",
        description: "file with the cluster's token; - is standard input; must be given",
      },
      ...ACCESS_OPTIONS,
      DRY_RUN,
    ],
    examples: [
      "ringstore cluster join --address 10.0.0.2:7400 --cluster-token-file token",
      "ssh node1 ringstore cluster token | ringstore cluster join --address 10.0.0.2:7400 " +
        "--cluster-token-file -",
    ],
    load: async () => (await import("./commands/cluster.ts")).join,
  },
  {
    path: ["cluster", "token"],
    summary: "print what lets a node join: a secret",
    details: [
      "Whoever has it can join, and then read and write every volume. It is given out on the " +
        "daemon's unix socket only, not over --url.",
    ],
    arguments: [],
    options: [],
    examples: ["(umask 077 && ringstore cluster token > token)"],
    load: async () => (await import("./commands/cluster.ts")).token,
  },
  {
    path: ["cluster", "show"],
    summary: "show the cluster that this daemon is in",
    arguments: [],
    options: [],
    examples: ["ringstore cluster show"],
    load: async () => (await import("./commands/cluster.ts")).show,
  },
  {
    path: ["node", "list"],
    summary: "list the nodes of the cluster",
    arguments: [],
    options: [],
    examples: ["ringstore node list -o wide"],
    load: async () => (await import("./commands/node.ts")).list,
  },
  {
    path: ["node", "show"],
    summary: "show one node with its disks and volumes",
    arguments: [NODE],
    options: [],
    examples: ["ringstore node show host-2"],
    load: async () => (await import("./commands/node.ts")).show,
  },
  {
    path: ["node", "remove"],
    summary: "forget a node that is gone for good, or that is empty",
    details: [
      "A node that is alive must have been emptied with node drain. Of one that is gone, the " +
        "copies that were on it are made anew elsewhere; --dry-run says of which volumes, and " +
        "where. Refused while a volume counts on a copy there.",
    ],
    arguments: [NODE],
    options: [DRY_RUN],
    examples: ["ringstore node remove host-2 --dry-run", "ringstore node remove host-2"],
    load: async () => (await import("./commands/node.ts")).remove,
  },
  {
    path: ["node", "drain"],
    summary: "move all copies off a node",
    details: [
      "Each copy is made elsewhere first, and counts where it is until the new one is in sync. " +
        "Volumes stay attached where they are. The node gets no new copies until it is called " +
        "off with --cancel; when it holds nothing it can be removed, alive.",
      "Refused, with the names of the volumes, when a copy would have no place. Waits until all " +
        "have moved; interrupted, they go on moving.",
    ],
    arguments: [NODE],
    options: DRAIN_OPTIONS,
    examples: [
      "ringstore node drain host-2 --dry-run",
      "ringstore node drain host-2",
      "ringstore node drain host-2 --cancel",
    ],
    load: async () => (await import("./commands/drain.ts")).drainNode,
  },
];
