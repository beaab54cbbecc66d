// JSON schemas of what the REST API says about a cluster; the types, with the meaning of each
// field, are in cluster-types.ts.
//
// Invariant: an error about a schema repeats the value it is about, so the schema of the token
// demands nothing but text; cluster-rules.ts checks the rest without repeating it.

import Type, { type TUnsafe } from "typebox";
import type {
  ClusterBackingView,
  ClusterInit,
  ClusterJoin,
  ClusterNode,
  ClusterNodeList,
  ClusterReply,
  ClusterTokenReply,
  ClusterView,
  Drain,
  DrainReply,
  NodeRemoveReply,
  RebuildList,
} from "./cluster-types.ts";
import {
  ADDRESS_LENGTH_MAX,
  DISK_COUNT_MAX,
  METADATA_ENDPOINT_COUNT_MAX,
  NODE_COUNT_MAX,
  PATH_LENGTH_MAX,
} from "./limits.ts";
import { describes, partOf, type SchemaOf } from "./schema.ts";
import { closed, count, health, name, nameOf, nullable, text, when } from "./schema-parts.ts";

const address = Type.String({
  minLength: 1,
  maxLength: ADDRESS_LENGTH_MAX,
  description: "HOST:PORT at which the other nodes reach this one",
});
const endpoint = Type.String({ minLength: 1, maxLength: ADDRESS_LENGTH_MAX });
const names = (description: string) => Type.Array(name, { description });

const node = {
  nodeName: Type.Optional(nameOf("default: the host's name")),
  rack: Type.Optional(nameOf("failure domain: copies go to different ones where they can")),
};

const file = (description: string) =>
  Type.Optional(Type.String({ pattern: "^/", maxLength: PATH_LENGTH_MAX, description }));
const access = {
  metadataCa: file("PEM, of who signed the metadata servers' certificates: TLS"),
  metadataCert: file("PEM, this node's certificate, where the servers ask for one"),
  metadataKey: file("PEM, the key of that certificate"),
  metadataUser: Type.Optional(Type.String({ minLength: 1, maxLength: 255 })),
  metadataPassword: Type.Optional(text("secret: of the metadata's user")),
};

export const ClusterInitSchema: SchemaOf<ClusterInit> = describes<ClusterInit>()(
  Type.Object(
    {
      name,
      address,
      metadata: Type.Array(endpoint, {
        minItems: 1,
        maxItems: METADATA_ENDPOINT_COUNT_MAX,
        description: "etcd's API, HOST:PORT or URLs",
      }),
      ...node,
      ...access,
    },
    { ...closed, title: "ClusterInit" },
  ),
);

export const ClusterJoinSchema: SchemaOf<ClusterJoin> = describes<ClusterJoin>()(
  Type.Object(
    { token: text("secret: what the token of the cluster is"), address, ...node, ...access },
    { ...closed, title: "ClusterJoin" },
  ),
);

export const ClusterTokenReplySchema: SchemaOf<ClusterTokenReply> = describes<ClusterTokenReply>()(
  Type.Object(
    { token: text("secret: whoever has it can join") },
    { ...closed, title: "ClusterToken" },
  ),
);

/** Also a part of the status. */
export const clusterView: TUnsafe<ClusterView> = partOf<ClusterView>()(
  Type.Object(
    {
      id: text("UUID"),
      name,
      generation: count("of the cluster record; rises when it is restored from an archive"),
      node: Type.String({ description: "the node that answers" }),
      metadata: Type.Object({ endpoints: Type.Array(endpoint), reachable: Type.Boolean() }, closed),
      nodeCount: count(),
      liveNodeCount: count(),
      volumeCount: count(),
      degradedCount: count("volumes with a copy that is out"),
      canLoseNodes: count("so many nodes can be lost without a volume losing its last copy"),
      health: Type.Array(health),
    },
    { ...closed, title: "Cluster" },
  ),
);

export const ClusterViewSchema: SchemaOf<ClusterView> = clusterView;

export const ClusterReplySchema: SchemaOf<ClusterReply> = describes<ClusterReply>()(
  Type.Object({ cluster: nullable(clusterView) }, { ...closed, title: "ClusterReply" }),
);

const clusterNode = Type.Object(
  {
    id: text("UUID"),
    name,
    address: Type.String(),
    rack: nullable(name),
    state: Type.Enum(["alive", "missing"]),
    phase: Type.Enum(["active", "maintenance", "draining"], {
      description: "draining: it gets no new copies, and loses those that it has",
    }),
    isThis: Type.Boolean({ description: "the node that answers" }),
    joinedAt: when,
    disks: Type.Array(
      Type.Object(
        {
          id: text("UUID"),
          name,
          sizeBytes: count(),
          freeBytes: count(),
          phase: Type.Enum(["active", "draining", "failed"]),
        },
        { ...closed, title: "NodeDisk" },
      ),
      { maxItems: DISK_COUNT_MAX },
    ),
    ownedVolumes: names("volumes that it serves, or served last"),
    copiesOf: names("volumes with a copy on it"),
    link: Type.Union([Type.Enum(["down", "dialling", "up", "ending"]), Type.Null()], {
      description: "how the answering node's link to it is; null for itself",
    }),
  },
  { ...closed, title: "Node" },
);

export const ClusterNodeSchema: SchemaOf<ClusterNode> = describes<ClusterNode>()(clusterNode);

export const ClusterNodeListSchema: SchemaOf<ClusterNodeList> = describes<ClusterNodeList>()(
  Type.Object(
    { nodes: Type.Array(clusterNode, { maxItems: NODE_COUNT_MAX }) },
    { ...closed, title: "NodeList" },
  ),
);

const place = Type.Object(
  { node: name, disk: text("its name") },
  { ...closed, title: "CopyPlace" },
);

const plannedCopy = Type.Object(
  {
    volume: name,
    from: nullable(place),
    to: nullable(place),
    why: text("why there, or why nowhere"),
  },
  { ...closed, title: "PlannedCopy" },
);

export const NodeRemoveReplySchema: SchemaOf<NodeRemoveReply> = describes<NodeRemoveReply>()(
  Type.Object(
    { node: name, volumes: names("that lose a copy"), copies: Type.Array(plannedCopy) },
    { ...closed, title: "NodeRemoveReply" },
  ),
);

export const DrainSchema: SchemaOf<Drain> = describes<Drain>()(
  Type.Object(
    {
      cancel: Type.Optional(
        Type.Boolean({ description: "ends it: copies that have not moved stay" }),
      ),
    },
    { ...closed, title: "Drain" },
  ),
);

export const DrainReplySchema: SchemaOf<DrainReply> = describes<DrainReply>()(
  Type.Object(
    {
      node: name,
      disk: nullable(name),
      draining: Type.Boolean(),
      copies: Type.Array(plannedCopy, {
        description: "that have not begun to move, and where they would go now",
      }),
    },
    { ...closed, title: "DrainReply" },
  ),
);

const copy = Type.Object(
  {
    node: name,
    disk: name,
    state: Type.Enum(["in-sync", "resyncing", "out", "unknown"]),
    reason: nullable(text("why it is out")),
    since: nullable(when),
    resync: nullable(Type.Object({ doneBytes: count(), totalBytes: count() }, closed)),
  },
  { ...closed, title: "VolumeCopy" },
);

/** A form of a volume's backing. */
export const clusterBacking: TUnsafe<ClusterBackingView> = partOf<ClusterBackingView>()(
  Type.Object(
    {
      kind: Type.Literal("cluster"),
      replicaCount: count(),
      copies: Type.Array(copy),
      replacement: nullable(
        Type.Object(
          {
            from: nullable(place),
            to: place,
            reason: Type.Enum(["lost", "drain", "too-few"]),
            since: when,
          },
          { ...closed, title: "CopyReplacement", description: "a copy that is being made" },
        ),
      ),
      epoch: count("rises with every takeover"),
      owner: nullable(name),
      attachedTo: nullable(name),
      standby: nullable(name),
      targetUrl: Type.Optional(nullable(text("of an iSCSI target, where it is served"))),
    },
    closed,
  ),
);

export const RebuildListSchema: SchemaOf<RebuildList> = describes<RebuildList>()(
  Type.Object(
    {
      rebuilds: Type.Array(
        Type.Object(
          {
            volume: name,
            node: name,
            disk: name,
            reason: nullable(Type.String({ description: "why the copy was out" })),
            stage: Type.Union([
              Type.Literal("waiting"),
              Type.Literal("copying"),
              Type.Literal("entering"),
            ]),
            doneBytes: count(),
            totalBytes: count("as far as is known"),
            isTotalKnown: Type.Boolean({ description: "no more will be found" }),
            bytesPerSecond: Type.Number({ minimum: 0, description: "over the last seconds" }),
            secondsLeft: nullable(Type.Number({ minimum: 0, description: "null: not known yet" })),
          },
          { ...closed, title: "Rebuild" },
        ),
      ),
    },
    { ...closed, title: "RebuildList" },
  ),
);
