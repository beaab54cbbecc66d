// The routes of a cluster over a control plane that is made up: every reply fits its schema, what
// is wrong is refused before the control plane is asked, and the token is in no log and no cache.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { afterEach, beforeEach, describe, test } from "node:test";
import {
  ClusterNodeListSchema,
  ClusterNodeSchema,
  ClusterReplySchema,
  ClusterTokenReplySchema,
  ClusterViewSchema,
  DrainReplySchema,
  NodeRemoveReplySchema,
  RebuildListSchema,
} from "../model/cluster-schemas.ts";
import { RebuildLimitSchema } from "../model/rebuild-schemas.ts";
import { StatusSchema, VolumeListSchema, VolumeSchema } from "../model/schemas.ts";
import { compileValidator } from "../model/validate.ts";
import {
  CLUSTER_TOKEN,
  type FakeClusterApi,
  fakeClusterApi,
} from "../testing/control/fake-cluster.ts";
import { createApiServer } from "./server.ts";

const GIB = 2 ** 30;
const INIT = { name: "prod", address: "10.0.0.1:7400", metadata: ["10.0.0.1:2379"] };
const JOIN = { token: CLUSTER_TOKEN, address: "10.0.0.1:7400" };

let api: FakeClusterApi;

beforeEach(async () => {
  api = await fakeClusterApi();
});
afterEach(async () => {
  await api.server.close();
});

type Json = Record<string, unknown>;

interface Answer {
  readonly status: number;
  readonly body: Json;
  readonly headers: Json;
}

type Method = "GET" | "POST" | "PUT" | "DELETE";

async function call(method: Method, url: string, body?: Json): Promise<Answer> {
  const response = await api.server.inject({
    method,
    url,
    ...(body === undefined ? {} : { payload: body }),
  });
  return { status: response.statusCode, body: response.json(), headers: response.headers };
}

async function fits(answer: Promise<Answer>, schema: object, status = 200): Promise<Json> {
  const { status: actual, body } = await answer;
  assert.equal(actual, status, JSON.stringify(body));
  assert.equal(compileValidator(schema as never)(body), null, JSON.stringify(body));
  return body;
}

async function refused(answer: Promise<Answer>, status: number, code: string): Promise<string> {
  const { status: actual, body } = await answer;
  assert.deepEqual({ status: actual, code: body["code"] }, { status, code }, JSON.stringify(body));
  return `${body["message"]} | ${body["advice"] ?? ""}`;
}

describe("a cluster", () => {
  test("none, made, shown; not made twice", async () => {
    assert.deepEqual(await fits(call("GET", "/v1/cluster"), ClusterReplySchema), { cluster: null });
    assert.equal((await fits(call("GET", "/v1/status"), StatusSchema))["cluster"], null);
    const plan = call("POST", "/v1/cluster/init?dryRun=true", INIT);
    assert.equal((await fits(plan, ClusterViewSchema))["name"], "prod");
    assert.equal(api.plane.cluster.view, null, "a dry run makes nothing");
    const made = await fits(call("POST", "/v1/cluster/init", INIT), ClusterViewSchema, 201);
    const shown = await fits(call("GET", "/v1/cluster"), ClusterReplySchema);
    assert.deepEqual(shown, { cluster: made });
    assert.deepEqual((await fits(call("GET", "/v1/status"), StatusSchema))["cluster"], made);
    await refused(call("POST", "/v1/cluster/init", INIT), 409, "in_cluster");
    await refused(call("POST", "/v1/cluster/join", JOIN), 409, "in_cluster");
  });

  test("all that is asked for arrives", async () => {
    const body = { ...INIT, nodeName: "host-9", rack: "a" };
    await call("POST", "/v1/cluster/init", body);
    assert.deepEqual(api.plane.cluster.asked, [body]);
  });

  test("joined with its token, and no other", async () => {
    await refused(call("POST", "/v1/cluster/join", { ...JOIN, token: "x" }), 403, "join_refused");
    const taken = call("POST", "/v1/cluster/join", { ...JOIN, nodeName: "host-2" });
    await refused(taken, 409, "node_exists");
    await fits(call("POST", "/v1/cluster/join?dryRun=true", JOIN), ClusterViewSchema);
    assert.equal(api.plane.cluster.view, null);
    await fits(call("POST", "/v1/cluster/join", JOIN), ClusterViewSchema);
    assert.deepEqual(api.plane.cluster.asked.at(-1), JOIN);
  });

  const bad: readonly (readonly [string, Json, RegExp])[] = [
    ["no name", { ...INIT, name: undefined }, /^name is missing/],
    ["a bad name", { ...INIT, name: "Prod" }, /^name is "Prod", but must match/],
    ["no address", { ...INIT, address: undefined }, /^address is missing/],
    ["no port", { ...INIT, address: "10.0.0.1" }, /address "10.0.0.1" is not an address/],
    ["port 0", { ...INIT, address: "10.0.0.1:0" }, /is not an address/],
    ["a port too high", { ...INIT, address: "h:65536" }, /is not an address/],
    ["no host", { ...INIT, address: ":7400" }, /is not an address/],
    ["bare IPv6", { ...INIT, address: "fd00::1:7400" }, /is not an address/],
    ["any address", { ...INIT, address: "0.0.0.0:7400" }, /no address that another machine can/],
    ["any IPv6 address", { ...INIT, address: "[::]:7400" }, /no address that another machine can/],
    ["no metadata", { ...INIT, metadata: [] }, /^metadata /],
    ["metadata without a port", { ...INIT, metadata: ["http://etcd"] }, /metadata "etcd" is not/],
    ["a password", { ...INIT, metadata: ["http://u:hunter2@e:2379"] }, /holds a user's name or/],
    ["a bad node", { ...INIT, nodeName: "a.b" }, /^nodeName is "a.b", but must match/],
    ["a bad rack", { ...INIT, rack: "" }, /^rack is "", but must match/],
    ["an unknown field", { ...INIT, replicas: 2 }, /^replicas is not a field/],
  ];
  for (const [what, body, message] of bad) {
    test(`not made with ${what}`, async () => {
      const said = await refused(call("POST", "/v1/cluster/init", body), 400, "invalid_request");
      assert.match(said, message);
      assert.doesNotMatch(said, /hunter2/);
      assert.deepEqual(api.plane.cluster.asked, []);
    });
  }

  test("good addresses are taken", async () => {
    for (const address of ["10.0.0.1:7400", "[fd00::1]:7400", "node-1.example.org:1"]) {
      const metadata = ["etcd1:2379", "http://etcd2:2379", "https://[fd00::2]:2379/"];
      const answer = await call("POST", "/v1/cluster/init?dryRun=true", {
        ...INIT,
        address,
        metadata,
      });
      assert.equal(answer.status, 200, address);
    }
  });
});

describe("the token", () => {
  test("is given out on the unix socket, and nothing may keep it", async () => {
    await refused(call("GET", "/v1/cluster/token"), 409, "no_cluster");
    await call("POST", "/v1/cluster/init", INIT);
    const answer = await call("GET", "/v1/cluster/token");
    await fits(Promise.resolve(answer), ClusterTokenReplySchema);
    assert.equal(answer.body["token"], CLUSTER_TOKEN);
    assert.equal(answer.headers["cache-control"], "no-store");
  });

  test("is not given out over TCP, whoever asks", async () => {
    await call("POST", "/v1/cluster/init", INIT);
    const bearer = "0123456789abcdef";
    const digest = createHash("sha256").update(bearer).digest();
    const tcp = await createApiServer(
      { transport: "tcp", tokens: () => [{ name: "ci", digest }] },
      {
        controlPlane: api.plane as never,
        log: { log: () => undefined },
        answered: () => undefined,
        fatal: () => undefined,
      },
    );
    try {
      const ask = (url: string) =>
        tcp.inject({ url, headers: { authorization: `Bearer ${bearer}` } });
      assert.equal((await ask("/v1/cluster")).statusCode, 200);
      const answer = await ask("/v1/cluster/token");
      assert.equal(answer.statusCode, 403);
      assert.equal(answer.json().code, "local_only");
      assert.ok(!answer.body.includes(CLUSTER_TOKEN));
    } finally {
      await tcp.close();
    }
  });

  const bad: readonly (readonly [string, unknown, RegExp])[] = [
    ["none", undefined, /^token is missing/],
    ["an empty one", "", /the cluster's token is missing/],
    ["two lines", `${CLUSTER_TOKEN}\n${CLUSTER_TOKEN}`, /is not one line/],
    ["a long one", CLUSTER_TOKEN.repeat(2000), /is not one line/],
  ];
  for (const [what, token, message] of bad) {
    test(`refused and not repeated: ${what}`, async () => {
      const said = await refused(
        call("POST", "/v1/cluster/join", { ...JOIN, token }),
        400,
        "invalid_request",
      );
      assert.match(said, message);
      assert.ok(!said.includes(CLUSTER_TOKEN.slice(0, 12)), said);
    });
  }

  test("is in no log, whatever became of the call", async () => {
    await call("POST", "/v1/cluster/join", { ...JOIN, address: "nowhere" });
    await call("POST", "/v1/cluster/join", { ...JOIN, unknown: 1 });
    await call("POST", "/v1/cluster/join", { ...JOIN, token: `${CLUSTER_TOKEN}-not` });
    await call("POST", "/v1/cluster/join?dryRun=true", JOIN);
    await call("POST", "/v1/cluster/join", JOIN);
    await call("POST", "/v1/cluster/join", JOIN);
    await call("GET", "/v1/cluster/token");
    assert.equal(api.log.length, 6, "every changing call is logged");
    assert.match(api.log.join("\n"), /"route":"\/v1\/cluster\/join"/);
    assert.ok(!api.log.join("\n").includes(CLUSTER_TOKEN));
  });
});

describe("nodes and rebuilds", () => {
  test("not without a cluster", async () => {
    for (const url of ["/v1/nodes", "/v1/nodes/host-1", "/v1/rebuilds", "/v1/rebuilds/limit"]) {
      await refused(call("GET", url), 409, "no_cluster");
    }
    const limit = { bytesPerSecond: null };
    await refused(call("PUT", "/v1/rebuilds/limit", limit), 409, "no_cluster");
  });

  test("listed, shown, removed when they are gone", async () => {
    await call("POST", "/v1/cluster/init", INIT);
    const { nodes } = await fits(call("GET", "/v1/nodes"), ClusterNodeListSchema);
    assert.equal((nodes as Json[]).length, 3);
    const node = await fits(call("GET", "/v1/nodes/host-2"), ClusterNodeSchema);
    assert.equal(node["rack"], "b");
    await refused(call("GET", "/v1/nodes/host-4"), 404, "node_not_found");
    await refused(call("GET", "/v1/nodes/HOST"), 400, "invalid_request");
    await refused(call("DELETE", "/v1/nodes/host-2"), 409, "node_alive");
    const from = { node: "host-3", disk: "nvme0" };
    const why = "no other node has a disk with 1 GiB free";
    const copies = [{ volume: "db1", from, to: null, why }];
    const gone = { node: "host-3", volumes: ["db1"], copies };
    const plan = call("DELETE", "/v1/nodes/host-3?dryRun=true");
    assert.deepEqual(await fits(plan, NodeRemoveReplySchema), gone);
    assert.equal(api.plane.cluster.nodes.length, 3);
    await refused(call("DELETE", "/v1/nodes/host-3?dryRun=1"), 400, "invalid_request");
    assert.deepEqual(await fits(call("DELETE", "/v1/nodes/host-3"), NodeRemoveReplySchema), gone);
    await refused(call("DELETE", "/v1/nodes/host-3"), 404, "node_not_found");
  });

  test("drained, and not, with a body that says which", async () => {
    await call("POST", "/v1/cluster/init", INIT);
    const drain = (more = ""): string => `/v1/nodes/host-2/drain${more}`;
    const plan = await fits(call("POST", drain("?dryRun=true"), {}), DrainReplySchema);
    assert.equal(plan["draining"], true);
    assert.equal(api.plane.cluster.nodes[1]?.phase, "active");
    await fits(call("POST", drain(), {}), DrainReplySchema);
    const node = await fits(call("GET", "/v1/nodes/host-2"), ClusterNodeSchema);
    assert.equal(node["phase"], "draining");
    const ended = await fits(call("POST", drain(), { cancel: true }), DrainReplySchema);
    assert.equal(ended["draining"], false);
    await refused(call("POST", drain(), { cancel: 1 }), 400, "invalid_request");
    await refused(call("POST", "/v1/nodes/host-3/drain", {}), 507, "no_space");
    const disk = await fits(call("POST", "/v1/disks/nvme0/drain", {}), DrainReplySchema);
    assert.equal(disk["disk"], "nvme0");
  });

  test("rebuilds", async () => {
    await call("POST", "/v1/cluster/init", INIT);
    const rebuild = { volume: "db1", node: "host-3", disk: "nvme0", doneBytes: 1, totalBytes: 3 };
    const stage = { reason: "missing", stage: "copying", isTotalKnown: false } as const;
    const work = { ...rebuild, ...stage, bytesPerSecond: 0.5, secondsLeft: null };
    api.plane.cluster.work = [work];
    const reply = await fits(call("GET", "/v1/rebuilds"), RebuildListSchema);
    assert.deepEqual(reply, { rebuilds: [work] });
  });

  test("the limit on rebuilds is shown and set; a rate that cannot be changes nothing", async () => {
    await call("POST", "/v1/cluster/init", INIT);
    const url = "/v1/rebuilds/limit";
    const first = await fits(call("GET", url), RebuildLimitSchema);
    assert.equal(first["bytesPerSecond"], null);
    const set = call("PUT", url, { bytesPerSecond: 1_048_576 });
    assert.equal((await fits(set, RebuildLimitSchema))["bytesPerSecond"], 1_048_576);
    for (const bytesPerSecond of [0, -1, 65_535, 1.5e6 + 0.5, 2 ** 41, "auto"]) {
      await refused(call("PUT", url, { bytesPerSecond }), 400, "invalid_request");
    }
    await refused(call("PUT", url, {}), 400, "invalid_request");
    assert.equal(api.plane.cluster.limit.bytesPerSecond, 1_048_576);
    assert.ok(
      api.log.some((line) => line.includes(url)),
      "every changing call is logged",
    );
    await fits(call("PUT", url, { bytesPerSecond: null }), RebuildLimitSchema);
    assert.equal(api.plane.cluster.limit.bytesPerSecond, null);
  });
});

describe("volumes of the cluster", () => {
  test("are made with so many copies, 1 to 3", async () => {
    const body = { name: "db1", sizeBytes: GIB, replicas: 2 };
    await fits(call("POST", "/v1/volumes?dryRun=true", body), VolumeSchema);
    const made = await fits(call("POST", "/v1/volumes", body), VolumeSchema, 201);
    assert.equal((made["backing"] as Json)["kind"], "cluster");
    await fits(call("GET", "/v1/volumes"), VolumeListSchema);
    for (const replicas of [0, 4, 1.5, "2"]) {
      const answer = call("POST", "/v1/volumes", { ...body, replicas });
      assert.match(await refused(answer, 400, "invalid_request"), /^replicas is /);
    }
  });

  test("are taken from another node only when that was asked for", async () => {
    const volume = api.plane.volumeOf({ name: "db1", sizeBytes: GIB, replicas: 2 });
    const backing = { ...volume.backing, attachedTo: "host-2" } as typeof volume.backing;
    api.plane.volumes.set("db1", { ...volume, backing });
    await refused(call("POST", "/v1/volumes/db1/attach", {}), 409, "attached_elsewhere");
    const taken = await call("POST", "/v1/volumes/db1/attach", { takeOver: true });
    assert.equal(taken.status, 200);
    assert.equal(taken.body["socket"], "/run/db1.sock");
    const answer = call("POST", "/v1/volumes/db1/attach", { takeOver: "yes" });
    await refused(answer, 400, "invalid_request");
  });
});
