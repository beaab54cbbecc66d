// /v1/cluster/export, import, recover: the cluster's metadata as a whole. On the unix socket only:
// an archive is a file of the daemon's machine, and what is put back decides over every volume.

import type { FastifyInstance } from "fastify";
import {
  ClusterRecoverSchema,
  MetadataArchiveReplySchema,
  MetadataArchiveRequestSchema,
  RecoveryReplySchema,
} from "../model/recovery-schemas.ts";
import type { ClusterRecover, MetadataArchiveRequest } from "../model/recovery-types.ts";
import type { ControlPlane } from "./control-plane.ts";
import { type DryRun, dryRun, requireLocal, routesOf } from "./route.ts";

const route = routesOf("cluster");
const REFUSED = "the cluster's metadata is not saved or put back over TCP";

interface Archive {
  readonly Body: MetadataArchiveRequest;
}

export function addRestoreRoutes(app: FastifyInstance, controlPlane: ControlPlane): void {
  app.post<Archive>(
    "/v1/cluster/export",
    {
      schema: route("exportMetadata", "Saves the cluster's metadata to a file of this node", {
        body: MetadataArchiveRequestSchema,
        response: { 200: MetadataArchiveReplySchema },
      }),
    },
    async ({ caller, body }) => {
      requireLocal(caller, REFUSED, "ringstore --data DIR cluster export FILE");
      return await controlPlane.cluster.exportMetadata(body);
    },
  );

  app.post<Archive & DryRun>(
    "/v1/cluster/import",
    {
      schema: route("importMetadata", "Puts an archive back into metadata without a cluster", {
        ...dryRun,
        body: MetadataArchiveRequestSchema,
        response: { 200: MetadataArchiveReplySchema },
      }),
    },
    async ({ caller, body, query }) => {
      requireLocal(caller, REFUSED, "ringstore --data DIR cluster import FILE");
      return await controlPlane.cluster.importMetadata(body, { dryRun: query.dryRun === "true" });
    },
  );

  app.post<{ Body: ClusterRecover } & DryRun>(
    "/v1/cluster/recover",
    {
      schema: route("recoverCluster", "Makes the records again from what the nodes' disks say", {
        ...dryRun,
        body: ClusterRecoverSchema,
        response: { 200: RecoveryReplySchema },
      }),
    },
    async ({ caller, body, query }) => {
      requireLocal(caller, REFUSED, "ringstore --data DIR cluster recover --from-disks");
      return await controlPlane.cluster.recover(body, { dryRun: query.dryRun === "true" });
    },
  );
}
