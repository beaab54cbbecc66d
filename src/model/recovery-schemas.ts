// JSON schemas of recovery-types.ts.

import Type from "typebox";
import { PATH_LENGTH_MAX } from "./limits.ts";
import type {
  ClusterRecover,
  MetadataArchiveReply,
  MetadataArchiveRequest,
  RecoveryReply,
} from "./recovery-types.ts";
import { describes, type SchemaOf } from "./schema.ts";
import { closed, count, name, nullable, text, when } from "./schema-parts.ts";

const path = Type.String({
  pattern: "^/",
  maxLength: PATH_LENGTH_MAX,
  description: "on the daemon's machine, which reads or writes it as its own user",
});
const texts = (description: string) => Type.Array(Type.String(), { description });

export const MetadataArchiveRequestSchema: SchemaOf<MetadataArchiveRequest> =
  describes<MetadataArchiveRequest>()(
    Type.Object({ path }, { ...closed, title: "MetadataArchiveRequest" }),
  );

export const MetadataArchiveReplySchema: SchemaOf<MetadataArchiveReply> =
  describes<MetadataArchiveReply>()(
    Type.Object(
      {
        path,
        cluster: text("UUID of the cluster whose metadata it is"),
        generation: count(),
        revision: count("of the metadata store when it was saved"),
        at: when,
      },
      { ...closed, title: "MetadataArchiveReply" },
    ),
  );

export const ClusterRecoverSchema: SchemaOf<ClusterRecover> = describes<ClusterRecover>()(
  Type.Object(
    {
      partial: Type.Optional(
        Type.Boolean({
          description: "go on although copies are missing: what comes back may be an older state",
        }),
      ),
    },
    { ...closed, title: "ClusterRecover" },
  ),
);

export const RecoveryReplySchema: SchemaOf<RecoveryReply> = describes<RecoveryReply>()(
  Type.Object(
    {
      cluster: name,
      generation: count(),
      nodes: texts("that have told what their disks say"),
      disks: texts("NODE/DISK"),
      volumes: Type.Array(
        Type.Object(
          {
            id: text("UUID"),
            name,
            sizeBytes: count(),
            copyCount: count(),
            replicaCount: nullable(count("how many there should be")),
            source: text("NODE/DISK of the copy that counts"),
            out: texts("the others, which are resynced from it"),
            attachedTo: nullable(name),
            lost: texts("what is not known of it any more"),
          },
          { ...closed, title: "RecoveredVolume" },
        ),
      ),
      incomplete: texts("volumes with copies that nobody told of"),
      unusedCount: count("replicas that were never written to: left alone"),
      lost: texts("what is not known of the cluster any more"),
    },
    { ...closed, title: "RecoveryReply" },
  ),
);
