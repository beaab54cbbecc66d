// /v1/volumes: the routes that declare, change and attach volumes.

import type { FastifyInstance } from "fastify";
import {
  AttachReplySchema,
  DeleteReplySchema,
  DetachReplySchema,
  VolumeAttachSchema,
  VolumeCreateSchema,
  VolumeListSchema,
  VolumeResizeSchema,
  VolumeSchema,
} from "../model/schemas.ts";
import type { VolumeAttach, VolumeCreate, VolumeResize } from "../model/types.ts";
import type { ControlPlane } from "./control-plane.ts";
import { attachReply } from "./guest-config.ts";
import { EmptySchema } from "./query-schemas.ts";
import { type DryRun, dryRun, type Named, named, routesOf } from "./route.ts";

const route = routesOf("volumes");

export function addVolumeRoutes(app: FastifyInstance, controlPlane: ControlPlane): void {
  app.get(
    "/v1/volumes",
    {
      schema: route("listVolumes", "All volumes, by name", { response: { 200: VolumeListSchema } }),
    },
    async () => ({ volumes: controlPlane.list() }),
  );

  app.post<{ Body: VolumeCreate } & DryRun>(
    "/v1/volumes",
    {
      schema: route("createVolume", "Declares a volume and makes its backing", {
        ...dryRun,
        body: VolumeCreateSchema,
        response: { 200: VolumeSchema, 201: VolumeSchema },
      }),
    },
    async (request, reply) => {
      const isDryRun = request.query.dryRun === "true";
      void reply.code(isDryRun ? 200 : 201);
      return await controlPlane.create(request.body, request.caller, { dryRun: isDryRun });
    },
  );

  app.get<Named>(
    "/v1/volumes/:name",
    { schema: route("showVolume", "One volume", { ...named, response: { 200: VolumeSchema } }) },
    async (request) => controlPlane.show(request.params.name),
  );

  app.delete<Named & DryRun>(
    "/v1/volumes/:name",
    {
      schema: route(
        "deleteVolume",
        "Deletes a detached volume and the data Ringstore made for it",
        {
          ...named,
          ...dryRun,
          response: { 200: DeleteReplySchema },
        },
      ),
    },
    async (request) =>
      await controlPlane.remove(request.params.name, { dryRun: request.query.dryRun === "true" }),
  );

  addActions(app, controlPlane);
}

function addActions(app: FastifyInstance, controlPlane: ControlPlane): void {
  app.post<Named & DryRun & { Body: VolumeResize }>(
    "/v1/volumes/:name/resize",
    {
      schema: route("resizeVolume", "Changes the size, seen by a running guest", {
        ...named,
        ...dryRun,
        body: VolumeResizeSchema,
        response: { 200: VolumeSchema },
      }),
    },
    async (request) =>
      await controlPlane.resize(request.params.name, request.body, {
        dryRun: request.query.dryRun === "true",
      }),
  );

  app.post<Named & { Body: VolumeAttach }>(
    "/v1/volumes/:name/attach",
    {
      schema: route(
        "attachVolume",
        "Serves the volume on its vhost-user socket, or as an iSCSI target; idempotent",
        {
          ...named,
          body: VolumeAttachSchema,
          response: { 200: AttachReplySchema },
        },
      ),
    },
    async (request) => {
      const { volume, changed } = await controlPlane.attach(request.params.name, request.body);
      return attachReply(volume, changed, request.body.vmMemoryBytes);
    },
  );

  app.post<Named>(
    "/v1/volumes/:name/detach",
    {
      schema: route(
        "detachVolume",
        "Closes the socket after finishing what is in flight; idempotent",
        {
          ...named,
          body: EmptySchema,
          response: { 200: DetachReplySchema },
        },
      ),
    },
    async (request) => await controlPlane.detach(request.params.name),
  );
}
