// /v1/cluster, /v1/nodes: the routes that make and show a cluster. Volumes of the
// cluster are volumes like others: routes-volumes.ts.
//
// Invariant: the cluster's token leaves this daemon on the unix socket only, and is never kept by
// what lies between: no log has it, no cache may.

import type { FastifyInstance } from "fastify";
import { checkClusterInit, checkClusterJoin } from "../model/cluster-rules.ts";
import {
  ClusterInitSchema,
  ClusterJoinSchema,
  ClusterNodeListSchema,
  ClusterNodeSchema,
  ClusterReplySchema,
  ClusterTokenReplySchema,
  ClusterViewSchema,
  DrainReplySchema,
  DrainSchema,
  NodeRemoveReplySchema,
} from "../model/cluster-schemas.ts";
import type { ClusterInit, ClusterJoin, Drain } from "../model/cluster-types.ts";
import type { ControlPlane } from "./control-plane.ts";
import { type DryRun, dryRun, type Named, named, requireLocal, routesOf } from "./route.ts";

const route = routesOf("cluster");

export function addClusterRoutes(app: FastifyInstance, controlPlane: ControlPlane): void {
  app.get(
    "/v1/cluster",
    {
      schema: route("showCluster", "The cluster that this daemon is in, null when it is in none", {
        response: { 200: ClusterReplySchema },
      }),
    },
    async () => ({ cluster: await controlPlane.cluster.show() }),
  );

  app.post<{ Body: ClusterInit } & DryRun>(
    "/v1/cluster/init",
    {
      schema: route("initCluster", "Makes a cluster of which this daemon is the first node", {
        ...dryRun,
        body: ClusterInitSchema,
        response: { 200: ClusterViewSchema, 201: ClusterViewSchema },
      }),
    },
    async (request, reply) => {
      checkClusterInit(request.body);
      const isDryRun = request.query.dryRun === "true";
      void reply.code(isDryRun ? 200 : 201);
      return await controlPlane.cluster.init(request.body, { dryRun: isDryRun });
    },
  );

  app.post<{ Body: ClusterJoin } & DryRun>(
    "/v1/cluster/join",
    {
      schema: route("joinCluster", "Makes this daemon a node of the cluster of the token", {
        ...dryRun,
        body: ClusterJoinSchema,
        response: { 200: ClusterViewSchema },
      }),
    },
    async (request) => {
      checkClusterJoin(request.body);
      return await controlPlane.cluster.join(request.body, {
        dryRun: request.query.dryRun === "true",
      });
    },
  );

  app.get(
    "/v1/cluster/token",
    {
      schema: route("clusterToken", "What lets a node join: a secret; on the unix socket only", {
        response: { 200: ClusterTokenReplySchema },
      }),
    },
    async (request, reply) => {
      // A bearer token travels in the clear and opens one daemon; the cluster's opens every disk.
      const refusal = "the cluster's token is not given out over TCP";
      requireLocal(request.caller, refusal, "ringstore --data DIR cluster token");
      void reply.header("cache-control", "no-store");
      return await controlPlane.cluster.token();
    },
  );

  addNodeRoutes(app, controlPlane);
  addDrainRoutes(app, controlPlane);
}

function addNodeRoutes(app: FastifyInstance, controlPlane: ControlPlane): void {
  app.get(
    "/v1/nodes",
    {
      schema: route("listNodes", "All nodes of the cluster, by name", {
        response: { 200: ClusterNodeListSchema },
      }),
    },
    async () => ({ nodes: await controlPlane.cluster.listNodes() }),
  );

  app.get<Named>(
    "/v1/nodes/:name",
    { schema: route("showNode", "One node", { ...named, response: { 200: ClusterNodeSchema } }) },
    async (request) => await controlPlane.cluster.showNode(request.params.name),
  );

  app.delete<Named & DryRun>(
    "/v1/nodes/:name",
    {
      schema: route("removeNode", "Forgets a node that is gone or empty, and copies on it", {
        ...named,
        ...dryRun,
        response: { 200: NodeRemoveReplySchema },
      }),
    },
    async (request) =>
      await controlPlane.cluster.removeNode(request.params.name, {
        dryRun: request.query.dryRun === "true",
      }),
  );
}

function addDrainRoutes(app: FastifyInstance, controlPlane: ControlPlane): void {
  app.post<Named & { Body: Drain } & DryRun>(
    "/v1/nodes/:name/drain",
    {
      schema: route("drainNode", "Moves all copies off a node, or ends that", {
        ...named,
        ...dryRun,
        body: DrainSchema,
        response: { 200: DrainReplySchema },
      }),
    },
    async (request) =>
      await controlPlane.cluster.drainNode(request.params.name, {
        dryRun: request.query.dryRun === "true",
        cancel: request.body.cancel === true,
      }),
  );

  app.post<Named & { Body: Drain } & DryRun>(
    "/v1/disks/:name/drain",
    {
      schema: route("drainDisk", "Moves all copies of the cluster's off a disk, or ends that", {
        ...named,
        ...dryRun,
        body: DrainSchema,
        response: { 200: DrainReplySchema },
      }),
    },
    async (request) =>
      await controlPlane.cluster.drainDisk(request.params.name, {
        dryRun: request.query.dryRun === "true",
        cancel: request.body.cancel === true,
      }),
  );
}
