// Moving volumes between nodes, and putting a node aside for a while.

import type { FastifyInstance } from "fastify";
import {
  HandOverReplySchema,
  NodeMaintenanceReplySchema,
  NodeMaintenanceSchema,
  VolumeHandOverSchema,
} from "../model/move-schemas.ts";
import type { NodeMaintenance, VolumeHandOver } from "../model/move-types.ts";
import type { ControlPlane } from "./control-plane.ts";
import { type DryRun, dryRun, type Named, named, routesOf } from "./route.ts";

const route = routesOf("cluster");

export function addMoveRoutes(app: FastifyInstance, controlPlane: ControlPlane): void {
  app.post<Named & { Body: VolumeHandOver }>(
    "/v1/volumes/:name/hand-over",
    {
      schema: route("handOverVolume", "Moves an attached volume that serves no guest to a node", {
        ...named,
        body: VolumeHandOverSchema,
        response: { 200: HandOverReplySchema },
      }),
    },
    async (request) => await controlPlane.cluster.handOver(request.params.name, request.body),
  );

  app.post<Named & DryRun & { Body: NodeMaintenance }>(
    "/v1/nodes/:name/maintenance",
    {
      schema: route("setNodeMaintenance", "Puts a node aside for a while, or takes it back", {
        ...named,
        ...dryRun,
        body: NodeMaintenanceSchema,
        response: { 200: NodeMaintenanceReplySchema },
      }),
    },
    async (request) =>
      await controlPlane.cluster.maintain(request.params.name, request.body, {
        dryRun: request.query.dryRun === "true",
      }),
  );
}
