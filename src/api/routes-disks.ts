// /v1/disks: the routes that make, examine and remove disks of the store. Work that takes longer
// than a call is answered 202 with the disk, whose `task` tells how far it is.

import type { FastifyInstance } from "fastify";
import {
  DiskCreateSchema,
  DiskListSchema,
  DiskRemoveReplySchema,
  DiskSchema,
} from "../model/disk-schemas.ts";
import type { DiskCreate } from "../model/disk-types.ts";
import type { ControlPlane } from "./control-plane.ts";
import { type DiskRemoveQuery, DiskRemoveQuerySchema, EmptySchema } from "./query-schemas.ts";
import { type DryRun, dryRun, type Named, named, routesOf } from "./route.ts";

const route = routesOf("disks");

export function addDiskRoutes(app: FastifyInstance, controlPlane: ControlPlane): void {
  app.get(
    "/v1/disks",
    { schema: route("listDisks", "All disks, by name", { response: { 200: DiskListSchema } }) },
    async () => ({ disks: controlPlane.listDisks() }),
  );

  app.post<{ Body: DiskCreate } & DryRun>(
    "/v1/disks",
    {
      schema: route("createDisk", "Formats a device or file for the store; 202 when it has begun", {
        ...dryRun,
        body: DiskCreateSchema,
        response: { 200: DiskSchema, 202: DiskSchema },
      }),
    },
    async (request, reply) => {
      const isDryRun = request.query.dryRun === "true";
      void reply.code(isDryRun ? 200 : 202);
      return await controlPlane.createDisk(request.body, request.caller, { dryRun: isDryRun });
    },
  );

  app.get<Named>(
    "/v1/disks/:name",
    { schema: route("showDisk", "One disk", { ...named, response: { 200: DiskSchema } }) },
    async (request) => controlPlane.showDisk(request.params.name),
  );

  app.post<Named>(
    "/v1/disks/:name/check",
    {
      schema: route(
        "checkDisk",
        "Closes a disk that serves nothing, verifies all of it, opens it again",
        { ...named, body: EmptySchema, response: { 202: DiskSchema } },
      ),
    },
    async (request, reply) => {
      void reply.code(202);
      return await controlPlane.checkDisk(request.params.name);
    },
  );

  app.delete<Named & { readonly Querystring: DiskRemoveQuery }>(
    "/v1/disks/:name",
    {
      schema: route("removeDisk", "Lets go of a disk; what is on it stays", {
        ...named,
        querystring: DiskRemoveQuerySchema,
        response: { 200: DiskRemoveReplySchema },
      }),
    },
    async (request) =>
      await controlPlane.removeDisk(request.params.name, {
        dryRun: request.query.dryRun === "true",
        force: request.query.force === "true",
      }),
  );
}
