// /v1/rebuilds: copies that are being brought up to date, and how fast that may go.

import type { FastifyInstance } from "fastify";
import { RebuildListSchema } from "../model/cluster-schemas.ts";
import { RebuildLimitChangeSchema, RebuildLimitSchema } from "../model/rebuild-schemas.ts";
import type { RebuildLimitChange } from "../model/rebuild-types.ts";
import type { ControlPlane } from "./control-plane.ts";
import { routesOf } from "./route.ts";

const route = routesOf("cluster");

export function addRebuildRoutes(app: FastifyInstance, controlPlane: ControlPlane): void {
  app.get(
    "/v1/rebuilds",
    {
      schema: route("listRebuilds", "Copies being brought up to date by this node's volumes", {
        response: { 200: RebuildListSchema },
      }),
    },
    async () => ({ rebuilds: await controlPlane.cluster.rebuilds() }),
  );

  app.get(
    "/v1/rebuilds/limit",
    {
      schema: route("showRebuildLimit", "How fast this node's volumes may rebuild copies", {
        response: { 200: RebuildLimitSchema },
      }),
    },
    async () => await controlPlane.cluster.rebuildLimit(),
  );

  app.put<{ Body: RebuildLimitChange }>(
    "/v1/rebuilds/limit",
    {
      schema: route("setRebuildLimit", "Sets how fast this node's volumes may rebuild copies", {
        body: RebuildLimitChangeSchema,
        response: { 200: RebuildLimitSchema },
      }),
    },
    async (request) => await controlPlane.cluster.setRebuildLimit(request.body),
  );
}
