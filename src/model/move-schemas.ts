// JSON schemas of moves and maintenance; the types, with the meaning of each field, are in
// move-types.ts.

import Type from "typebox";
import type {
  HandOverReply,
  NodeMaintenance,
  NodeMaintenanceReply,
  VolumeHandOver,
} from "./move-types.ts";
import { describes, type SchemaOf } from "./schema.ts";
import { closed, name, text } from "./schema-parts.ts";

export const VolumeHandOverSchema: SchemaOf<VolumeHandOver> = describes<VolumeHandOver>()(
  Type.Object({ node: name }, { ...closed, title: "VolumeHandOver" }),
);

export const HandOverReplySchema: SchemaOf<HandOverReply> = describes<HandOverReply>()(
  Type.Object(
    { volume: name, node: name, changed: Type.Boolean() },
    { ...closed, title: "HandOverReply" },
  ),
);

export const NodeMaintenanceSchema: SchemaOf<NodeMaintenance> = describes<NodeMaintenance>()(
  Type.Object({ on: Type.Boolean() }, { ...closed, title: "NodeMaintenance" }),
);

export const NodeMaintenanceReplySchema: SchemaOf<NodeMaintenanceReply> =
  describes<NodeMaintenanceReply>()(
    Type.Object(
      {
        node: name,
        phase: Type.Enum(["active", "maintenance", "draining"]),
        handedOver: Type.Array(Type.Object({ volume: name, node: name }, closed)),
        kept: Type.Array(
          Type.Object({ volume: name, reason: text("why it is still there") }, closed),
        ),
      },
      { ...closed, title: "NodeMaintenanceReply" },
    ),
  );
