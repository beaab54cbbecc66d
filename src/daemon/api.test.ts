// The REST API over the real control plane and the fake data plane, through inject(): every route,
// every error with its words, and every reply checked against the OpenAPI document.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import {
  type ApiServerOptions,
  createApiServer,
  openApiDocument,
  parseTokens,
} from "../api/index.ts";
import { RingstoreError } from "../base/error.ts";
import { compileValidator } from "../model/validate.ts";
import { HostFixture, never, temporaryDirectory } from "../testing/control/host-fixture.ts";
import { DaemonControl } from "./control.ts";
import { NoCluster } from "./no-cluster.ts";

const MIB = 1024 * 1024;
const TOKEN = "0123456789abcdef0123456789abcdef";

type App = Awaited<ReturnType<typeof createApiServer>>;
type Json = Record<string, unknown>;

let fixture: HostFixture;
let control: DaemonControl;
let app: App;
let tcp: App;
const answeredRoutes: string[] = [];

beforeEach(async () => {
  const root = temporaryDirectory();
  fixture = new HostFixture(root, [join(root, "allowed")]);
  control = new DaemonControl(
    {
      version: "1.2.3",
      nodeId: "n1",
      startedAt: new Date(0),
      volumeMetrics: true,
      listenWarning: null,
    },
    { host: fixture.host, cluster: new NoCluster(), nowMs: () => performance.now() },
  );
  const modules = {
    controlPlane: control,
    log: fixture.host.modules.log,
    answered: (method: string, route: string, status: number) => {
      answeredRoutes.push(`${method} ${route} ${status}`);
      control.countRequest(method, route, status);
    },
    fatal: (error: unknown) => void fixture.defects.push(error),
  };
  const options: ApiServerOptions = {
    transport: "unix",
    tokens: () => parseTokens(`ci:${TOKEN}\n`, "tokens"),
  };
  app = await createApiServer(options, modules);
  tcp = await createApiServer({ ...options, transport: "tcp" }, modules);
});

afterEach(async () => {
  await app.close();
  await tcp.close();
  fixture.remove();
});

interface Answer {
  readonly status: number;
  readonly body: Json;
  readonly text: string;
}

/** The schema with every component put in its place. */
function resolveRefs(schema: unknown, document: OpenApi): unknown {
  const text = JSON.stringify(schema, (_, value: Json | unknown) => {
    const ref = typeof value === "object" && value !== null && (value as Json)["$ref"];
    if (typeof ref !== "string") return value;
    return document.components.schemas[ref.split("/").at(-1) as string];
  });
  return JSON.parse(text);
}

interface OpenApi {
  readonly components: { readonly schemas: Record<string, unknown> };
  readonly paths: Record<string, Record<string, { responses: Record<string, unknown> }>>;
}

/** The documented schema of a reply; undocumented replies fail the test. */
function checkReply(method: string, url: string, status: number, body: unknown): void {
  const document = openApiDocument(app) as OpenApi;
  const path = (url.split("?")[0] as string).replace(
    /^(\/v1\/volumes\/)[^/]+/,
    (_, base: string) => `${base}{name}`,
  );
  const responses = document.paths[path]?.[method.toLowerCase()]?.responses;
  if (responses === undefined) {
    assert.ok([400, 401, 404].includes(status), `${method} ${path} ${status} is not documented`);
    return;
  }
  const response = (responses[status] ?? responses[`${Math.floor(status / 100)}XX`]) as
    | { content?: { "application/json": { schema: object } } }
    | undefined;
  assert.ok(response !== undefined, `${method} ${path} has no response ${status}`);
  const schema = response.content?.["application/json"].schema;
  if (schema === undefined) return;
  const violation = compileValidator(resolveRefs(schema, document) as never)(body);
  assert.equal(violation, null, `${method} ${url} ${status}: ${JSON.stringify(violation)}`);
}

async function call(
  method: "GET" | "POST" | "DELETE",
  url: string,
  payload?: unknown,
  server: App = app,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const response = await server.inject({
    method,
    url,
    headers,
    ...(payload === undefined ? {} : { payload: payload as object }),
  });
  const isJson = String(response.headers["content-type"]).startsWith("application/json");
  const body = isJson ? (response.json() as Json) : {};
  if (isJson) checkReply(method, url, response.statusCode, body);
  return { status: response.statusCode, body, text: response.body };
}

async function refused(answer: Promise<Answer>, status: number, code: string): Promise<string> {
  const { status: actual, body } = await answer;
  assert.deepEqual({ status: actual, code: body["code"] }, { status, code }, JSON.stringify(body));
  return `${body["message"]} | ${body["advice"] ?? ""}`;
}

const create = (body: Json, server: App = app, headers: Record<string, string> = {}) =>
  call("POST", "/v1/volumes", body, server, headers);

describe("the life of a volume", () => {
  test("create, show, list, attach, resize, detach, delete", async () => {
    const made = await create({ name: "db1", sizeBytes: 64 * MIB, blockBytes: 4096 });
    assert.equal(made.status, 201);
    assert.equal(made.body["state"], "detached");
    assert.equal(String(made.body["serial"]).length, 20);
    assert.deepEqual((await call("GET", "/v1/volumes/db1")).body, made.body);
    assert.deepEqual((await call("GET", "/v1/volumes")).body, { volumes: [made.body] });
    const attached = await call("POST", "/v1/volumes/db1/attach", {});
    assert.equal(attached.status, 200);
    assert.equal(attached.body["changed"], true);
    assert.equal(attached.body["socket"], join(fixture.paths.socketDirectory, "db1.sock"));
    const again = await call("POST", "/v1/volumes/db1/attach");
    assert.deepEqual(again.body, { ...attached.body, changed: false });
    const grown = await call("POST", "/v1/volumes/db1/resize", { sizeBytes: 128 * MIB });
    assert.equal(grown.body["sizeBytes"], 128 * MIB);
    const refusedDelete = refused(call("DELETE", "/v1/volumes/db1"), 409, "volume_attached");
    assert.match(await refusedDelete, /volume db1 is attached \| detach it first/);
    assert.equal((await call("POST", "/v1/volumes/db1/detach")).body["changed"], true);
    assert.equal((await call("POST", "/v1/volumes/db1/detach")).body["changed"], false);
    const [file] = fixture.dataFiles();
    const deleted = await call("DELETE", "/v1/volumes/db1");
    assert.equal(deleted.body["removedPath"], join(fixture.paths.volumeDirectory, String(file)));
    assert.deepEqual(fixture.dataFiles(), []);
    await refused(call("GET", "/v1/volumes/db1"), 404, "volume_not_found");
  });

  test("a second attachment has a greater generation", async () => {
    await create({ name: "v", sizeBytes: MIB });
    const first = await call("POST", "/v1/volumes/v/attach");
    await call("POST", "/v1/volumes/v/detach");
    const second = await call("POST", "/v1/volumes/v/attach");
    assert.equal(Number(second.body["generation"]), Number(first.body["generation"]) + 1);
  });

  test("memory stays open while it is detached, files do not", async () => {
    await create({ name: "m", sizeBytes: MIB, backing: "memory" });
    await create({ name: "f", sizeBytes: MIB });
    await create({ name: "z", sizeBytes: MIB, backing: "null" });
    const open = [...fixture.dataPlane.open.values()].map((volume) => volume.spec.name);
    assert.deepEqual(open, ["m"]);
  });

  test("dry runs answer and change nothing", async () => {
    const plan = await call("POST", "/v1/volumes?dryRun=true", { name: "v", sizeBytes: MIB });
    assert.equal(plan.status, 200);
    assert.equal(plan.body["sizeBytes"], MIB);
    assert.deepEqual(fixture.stateFiles(), []);
    await create({ name: "v", sizeBytes: MIB });
    const steps = fixture.steps.taken.length;
    const resized = await call("POST", "/v1/volumes/v/resize?dryRun=true", { sizeBytes: 2 * MIB });
    assert.equal(resized.body["sizeBytes"], 2 * MIB);
    assert.equal((await call("DELETE", "/v1/volumes/v?dryRun=true")).status, 200);
    assert.equal(fixture.steps.taken.length, steps);
    assert.equal((await call("GET", "/v1/volumes/v")).body["sizeBytes"], MIB);
  });

  test("operations on one volume wait for each other, and too many are refused", async () => {
    await create({ name: "v", sizeBytes: MIB });
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    const before = fixture.dataPlane.intercept;
    fixture.dataPlane.intercept = (method, name) =>
      method === "attach" ? gate : before(method, name);
    const calls = Array.from({ length: 20 }, () => call("POST", "/v1/volumes/v/attach"));
    await new Promise((resolve) => setTimeout(resolve, 50));
    release();
    const answers = await Promise.all(calls);
    const busy = answers.filter((answer) => answer.body["code"] === "volume_busy").length;
    const changed = answers.filter((answer) => answer.body["changed"] === true).length;
    assert.equal(busy, 4);
    assert.equal(changed, 1);
    assert.equal(fixture.dataPlane.calls.filter((one) => one === "attach v").length, 1);
  });
});

describe("what is refused", () => {
  const bad: readonly (readonly [string, Json, RegExp])[] = [
    ["no name", { sizeBytes: MIB }, /^name is missing/],
    ["a bad name", { name: "A", sizeBytes: MIB }, /^name is "A", but must match/],
    ["an unknown field", { name: "a", sizeBytes: MIB, copies: 2 }, /^copies is not a field/],
    ["no size", { name: "a" }, /^sizeBytes is missing \| give a size/],
    ["a tiny size", { name: "a", sizeBytes: 20 }, /too small \| use at least 1 MiB/],
    ["a huge size", { name: "a", sizeBytes: 2 ** 51 }, /^sizeBytes is .*, but must be <=/],
    ["a crooked size", { name: "a", sizeBytes: MIB + 1 }, /not a multiple of its 512-byte blocks/],
    ["a size as text", { name: "a", sizeBytes: "1G" }, /^sizeBytes is "1G", but must be integer/],
    ["a bad block", { name: "a", sizeBytes: MIB, blockBytes: 1024 }, /one of 512, 4096/],
    ["a bad serial", { name: "a", sizeBytes: MIB, serial: "ä" }, /^serial is "ä", but must/],
    ["path with memory", { name: "a", backing: "memory", path: "/x" }, /path does not go with/],
    ["a relative path", { name: "a", path: "x.img" }, /is not absolute/],
    ["a directory", { name: "a", path: "/tmp" }, /neither a file nor a block device/],
    ["a device that is no disk", { name: "a", path: "/dev/null" }, /neither a file nor a block/],
  ];
  for (const [what, body, message] of bad) {
    test(`${what}`, async () => {
      assert.match(await refused(create(body), 400, "invalid_request"), message);
      assert.deepEqual(fixture.stateFiles(), []);
      assert.deepEqual(fixture.dataFiles(), []);
    });
  }

  test("a name that is taken", async () => {
    await create({ name: "v", sizeBytes: MIB });
    await refused(create({ name: "v", sizeBytes: MIB }), 409, "volume_exists");
  });

  test("two creates of one name at once: one wins, nothing is orphaned", async () => {
    const answers = await Promise.all([
      create({ name: "v", sizeBytes: MIB }),
      create({ name: "v", sizeBytes: MIB }),
    ]);
    assert.deepEqual(answers.map((answer) => answer.status).sort(), [201, 409]);
    assert.equal(fixture.dataFiles().length, 1);
  });

  test("paths: missing, too small, in use under another name, and of a managed file", async () => {
    const missing = join(fixture.root, "missing.img");
    await refused(create({ name: "a", path: missing }), 404, "backing_not_found");
    const path = join(fixture.root, "a.img");
    writeFileSync(path, Buffer.alloc(3 * MIB + 100));
    const tooSmall = create({ name: "a", path, sizeBytes: 4 * MIB });
    assert.match(await refused(tooSmall, 409, "backing_too_small"), /fewer than/);
    const made = await create({ name: "a", path });
    assert.equal(made.body["sizeBytes"], 3 * MIB, "the incomplete last block is left out");
    symlinkSync(path, join(fixture.root, "alias.img"));
    const alias = create({ name: "b", path: join(fixture.root, "alias.img") });
    assert.match(await refused(alias, 409, "backing_in_use"), /is the backing of volume a/);
    await create({ name: "m", sizeBytes: MIB });
    const managed = join(fixture.paths.volumeDirectory, fixture.dataFiles()[0] as string);
    await refused(create({ name: "c", path: managed }), 409, "backing_in_use");
    assert.equal((await call("DELETE", "/v1/volumes/a")).body["removedPath"], null);
  });

  test("a name whose socket path would be too long", async () => {
    const name = "n".repeat(63);
    const deep = new HostFixture(join(fixture.root, "d".repeat(60 - fixture.root.length)));
    const host = deep.host;
    const { createVolume } = await import("./volume-operations.ts");
    await assert.rejects(
      createVolume(
        host,
        { name, sizeBytes: MIB },
        { transport: "unix", name: "l" },
        { dryRun: true },
      ),
      {
        code: "invalid_request",
        message: /makes its socket path too long/,
        advice: /use at most \d+ /,
      },
    );
    deep.kill();
  });

  test("shrinking needs permission to lose data", async () => {
    await create({ name: "v", sizeBytes: 2 * MIB });
    const shrink = { sizeBytes: MIB };
    const said = await refused(
      call("POST", "/v1/volumes/v/resize", shrink),
      400,
      "invalid_request",
    );
    assert.match(said, /would cut data off \| .*--allow-data-loss/);
    const allowed = { ...shrink, allowDataLoss: true };
    assert.equal((await call("POST", "/v1/volumes/v/resize", allowed)).status, 200);
  });

  test("another attachment than the present one", async () => {
    await create({ name: "v", sizeBytes: MIB });
    await call("POST", "/v1/volumes/v/attach", { queueCountMax: 2 });
    const differs = call("POST", "/v1/volumes/v/attach", { queueCountMax: 4 });
    assert.match(await refused(differs, 409, "attachment_differs"), /queueCountMax 2, not 4/);
    assert.equal((await call("POST", "/v1/volumes/v/attach", { queueCountMax: 2 })).status, 200);
    assert.equal((await call("POST", "/v1/volumes/v/attach", {})).status, 200);
  });

  test("bad requests: JSON, type, size, route, method, query", async () => {
    const json = { "content-type": "application/json" };
    await refused(call("POST", "/v1/volumes", "{", app, json), 400, "invalid_request");
    const poison = '{"name":"a","sizeBytes":1048576,"__proto__":{"x":1}}';
    await refused(call("POST", "/v1/volumes", poison, app, json), 400, "invalid_request");
    const form = { "content-type": "application/x-www-form-urlencoded" };
    const asForm = refused(call("POST", "/v1/volumes", "a=b", app, form), 400, "invalid_request");
    assert.match(await asForm, /send JSON with the header/);
    const huge = { name: "a", serial: "x".repeat(70_000) };
    await refused(create(huge), 413, "request_too_large");
    await refused(call("GET", "/v1/nothing"), 404, "route_not_found");
    await refused(call("DELETE", "/v1/volumes"), 404, "route_not_found");
    await refused(call("GET", "/v1/volumes/A%00b"), 400, "invalid_request");
    await refused(call("GET", `/v1/volumes/${"a".repeat(64)}`), 400, "invalid_request");
    await refused(call("GET", `/v1/volumes/${"a".repeat(2000)}`), 400, "invalid_request");
    await refused(call("POST", "/v1/volumes?dryRun=yes", { name: "a" }), 400, "invalid_request");
    await refused(call("GET", "/v1/events?since=-1"), 400, "invalid_request");
    await refused(call("POST", "/v1/volumes/a/detach", { force: true }), 400, "invalid_request");
    await refused(call("GET", "/%"), 400, "invalid_request");
  });

  test("everything, once the daemon is stopping", async () => {
    await create({ name: "v", sizeBytes: MIB });
    fixture.host.stopping = true;
    await refused(create({ name: "w", sizeBytes: MIB }), 503, "shutting_down");
    await refused(call("POST", "/v1/volumes/v/attach"), 503, "shutting_down");
    assert.equal((await call("GET", "/v1/volumes/v")).status, 200);
  });
});

describe("failures of the data plane", () => {
  const faults: readonly (readonly [Error, number, string])[] = [
    [new RingstoreError("NO_SPACE", "the disk is full"), 507, "no_space"],
    [Object.assign(new RingstoreError("SYS", "open"), { errno: 2 }), 404, "backing_not_found"],
    [Object.assign(new RingstoreError("SYS", "flock"), { errno: 11 }), 409, "backing_in_use"],
    [Object.assign(new RingstoreError("SYS", "x"), { errno: 28 }), 507, "no_space"],
    [Object.assign(new RingstoreError("SYS", "x"), { errno: 95 }), 501, "unsupported"],
    [Object.assign(new RingstoreError("SYS", "x"), { errno: 5 }), 500, "backing_failed"],
    [new RingstoreError("TIMED_OUT", "no answer"), 504, "timed_out"],
    [new RingstoreError("IO_URING_UNAVAILABLE", "no ring"), 501, "unsupported"],
    [new RingstoreError("STRANGE", "strange"), 500, "backing_failed"],
    [new TypeError("x is not a function"), 500, "internal"],
  ];
  for (const [error, status, code] of faults) {
    test(`${error.message} (${code}): create is taken back, attach is undeclared`, async () => {
      const before = fixture.dataPlane.intercept;
      fixture.dataPlane.intercept = (method, name) => {
        if (method === "openVolume" && name === "bad") throw error;
        if (method === "attach") throw error;
        return before(method, name);
      };
      const made = refused(create({ name: "bad", sizeBytes: MIB }), status, code);
      assert.match(await made, /^cannot create volume bad: /);
      assert.deepEqual(fixture.stateFiles(), []);
      assert.deepEqual(fixture.dataFiles(), []);
      await create({ name: "good", sizeBytes: MIB });
      await refused(call("POST", "/v1/volumes/good/attach"), status, code);
      assert.equal((await call("GET", "/v1/volumes/good")).body["state"], "detached");
      assert.equal(fixture.dataPlane.open.size, 0, "the backing was closed again");
      fixture.dataPlane.intercept = before;
      assert.equal((await call("POST", "/v1/volumes/good/attach")).status, 200);
    });
  }

  test("a resize that fails leaves the size as it was", async () => {
    await create({ name: "v", sizeBytes: MIB });
    const before = fixture.dataPlane.intercept;
    fixture.dataPlane.intercept = (method, name) => {
      if (method === "resizeVolume") throw new RingstoreError("NO_SPACE", "full");
      return before(method, name);
    };
    await refused(call("POST", "/v1/volumes/v/resize", { sizeBytes: 2 * MIB }), 507, "no_space");
    assert.equal((await call("GET", "/v1/volumes/v")).body["sizeBytes"], MIB);
    assert.equal(fixture.store.load().declared[0]?.resizeToBytes, null);
  });

  test("a detach that fails leaves it attached and can be repeated", async () => {
    await create({ name: "v", sizeBytes: MIB });
    await call("POST", "/v1/volumes/v/attach");
    const before = fixture.dataPlane.intercept;
    fixture.dataPlane.intercept = () => {
      throw new RingstoreError("TIMED_OUT", "the device is stuck");
    };
    await refused(call("POST", "/v1/volumes/v/detach"), 504, "timed_out");
    assert.equal((await call("GET", "/v1/volumes/v")).body["state"], "attached");
    fixture.dataPlane.intercept = before;
    assert.equal((await call("POST", "/v1/volumes/v/detach")).status, 200);
  });

  test("a create that cannot even be taken back is named, and delete finishes it", async () => {
    const before = fixture.dataPlane.intercept;
    let failing = true;
    fixture.dataPlane.intercept = (method, name) => {
      if (failing && (method === "closeVolume" || method === "deleteBacking")) {
        throw new RingstoreError("TIMED_OUT", "stuck");
      }
      return before(method, name);
    };
    await refused(create({ name: "v", sizeBytes: MIB }), 504, "timed_out");
    const shown = await call("GET", "/v1/volumes/v");
    assert.equal(shown.body["state"], "creating");
    const { body } = await call("GET", "/v1/advise");
    const [advice] = body["advice"] as { code: string; command: string }[];
    assert.equal(advice?.code, "CREATE_UNFINISHED");
    assert.equal(advice?.command, "ringstore volume delete v");
    await refused(call("POST", "/v1/volumes/v/attach"), 409, "volume_unavailable");
    failing = false;
    assert.equal((await call("DELETE", "/v1/volumes/v")).status, 200);
    assert.deepEqual(fixture.dataFiles(), []);
  });
});

describe("callers", () => {
  const bearer = (token: string): Record<string, string> => ({ authorization: `Bearer ${token}` });

  test("over TCP nothing is answered without a token", async () => {
    const wrong = [
      {},
      bearer("x"),
      bearer(`${TOKEN}0`),
      bearer(TOKEN.slice(1)),
      bearer(""),
      {
        authorization: TOKEN,
      },
    ];
    for (const headers of wrong) {
      for (const url of ["/v1/status", "/metrics", "/v1/openapi.json", "/v1/nothing"]) {
        await refused(call("GET", url, undefined, tcp, headers), 401, "unauthorized");
      }
      await refused(create({ name: "v", sizeBytes: MIB }, tcp, headers), 401, "unauthorized");
    }
    assert.deepEqual(fixture.stateFiles(), []);
    assert.equal((await call("GET", "/v1/status", undefined, tcp, bearer(TOKEN))).status, 200);
  });

  test("over TCP a host path must be allowed", async () => {
    const path = join(fixture.root, "secret.img");
    writeFileSync(path, Buffer.alloc(MIB));
    const asked = create({ name: "v", path }, tcp, bearer(TOKEN));
    assert.match(await refused(asked, 403, "path_not_allowed"), /--allow-path/);
    const allowed = join(fixture.root, "allowed");
    mkdirSync(allowed);
    const sneaky = `${allowed}/../secret.img`;
    await refused(create({ name: "v", path: sneaky }, tcp, bearer(TOKEN)), 403, "path_not_allowed");
    const inside = join(allowed, "a.img");
    writeFileSync(inside, Buffer.alloc(MIB));
    symlinkSync(path, `${inside}.link`);
    const link = create({ name: "v", path: `${inside}.link` }, tcp, bearer(TOKEN));
    await refused(link, 403, "path_not_allowed");
    assert.equal((await create({ name: "v", path: inside }, tcp, bearer(TOKEN))).status, 201);
    assert.equal((await create({ name: "w", path })).status, 201, "the unix socket may name any");
  });

  test("every call that changes something is logged with caller and result", async () => {
    await create({ name: "v", sizeBytes: MIB });
    await create({ name: "v", sizeBytes: MIB }, tcp, bearer(TOKEN));
    await create({ name: "x", sizeBytes: MIB }, tcp, bearer("wrong"));
    await call("GET", "/v1/volumes");
    await call("DELETE", "/v1/volumes/v");
    const lines = fixture.log
      .filter((line) => line.event === "api.call")
      .map(({ fields }) =>
        [fields["method"], fields["route"], fields["volume"], fields["transport"], fields["caller"]]
          .concat([fields["status"], fields["code"]] as never[])
          .join(" "),
      );
    assert.deepEqual(lines, [
      "POST /v1/volumes v unix local 201 ",
      "POST /v1/volumes v tcp ci 409 volume_exists",
      "POST /v1/volumes  tcp unknown 401 unauthorized",
      "DELETE /v1/volumes/:name v unix local 200 ",
    ]);
  });
});

describe("looking", () => {
  test("status: quiet when healthy, counts, and connected when a front-end is there", async () => {
    await create({ name: "a", sizeBytes: MIB });
    await create({ name: "b", sizeBytes: 2 * MIB });
    await call("POST", "/v1/volumes/b/attach");
    const entry = fixture.host.entries.get("b");
    fixture.dataPlane.connected.add(entry?.declared.id as string);
    const { body } = await call("GET", "/v1/status");
    assert.equal(body["health"], "ok");
    assert.deepEqual(body["items"], []);
    assert.deepEqual(body["volumes"], {
      total: 2,
      attached: 1,
      connected: 1,
      unavailable: 0,
      declaredBytes: 3 * MIB,
    });
  });

  test("health of the data plane is told by status, show, advise and events", async () => {
    await create({ name: "v", sizeBytes: MIB });
    await call("POST", "/v1/volumes/v/attach");
    const id = fixture.host.entries.get("v")?.declared.id as string;
    const health = [{ code: "DEVICE_STUCK", message: "a read takes 31 s" }];
    fixture.dataPlane.extraStats.set(id, { health });
    fixture.dataPlane.connected.add(id);
    control.observer.look();
    assert.equal((await call("GET", "/v1/status")).body["health"], "error");
    const advise = (await call("GET", "/v1/advise")).body["advice"] as Json[];
    assert.equal(advise[0]?.["command"], "ringstore volume show v");
    const events = (await call("GET", "/v1/events")).body["events"] as { type: string }[];
    const types = events.map((event) => event.type);
    assert.deepEqual(types, [
      "volume.created",
      "volume.attached",
      "volume.connected",
      "volume.health",
    ]);
    fixture.dataPlane.connected.clear();
    fixture.dataPlane.extraStats.clear();
    control.observer.look();
    const last = (await call("GET", "/v1/events?since=4")).body["events"] as { type: string }[];
    assert.deepEqual(
      last.map((event) => event.type),
      ["volume.disconnected", "volume.health"],
    );
  });

  test("stats, version, the document, metrics", async () => {
    await create({ name: "v", sizeBytes: MIB });
    await call("POST", "/v1/volumes/v/attach");
    const stats = (await call("GET", "/v1/stats")).body["volumes"] as Json[];
    assert.equal(stats[0]?.["readCount"], 8);
    assert.equal((await call("GET", "/v1/version")).body["version"], "1.2.3");
    const document = (await call("GET", "/v1/openapi.json")).body;
    assert.equal(document["openapi"], "3.1.0");
    for (const url of ["/metrics", "/v1/metrics"]) {
      const { text } = await call("GET", url);
      assert.match(text, /^ringstore_volume_operations_total\{volume="v",op="read"\} 8$/m);
      assert.match(text, /^ringstore_api_requests_total\{method="POST",route="\/v1\/volumes"/m);
    }
  });

  test("routes count by pattern, so callers cannot make series", async () => {
    await call("GET", "/v1/volumes/whatever-1");
    await call("GET", "/v1/made/up/path");
    assert.ok(answeredRoutes.includes("GET /v1/volumes/:name 404"));
    assert.ok(
      !answeredRoutes.some((route) => route.includes("whatever") || route.includes("made")),
    );
  });
});

describe("events as a stream", () => {
  let url = "";

  test("history, then live, resumed by id, ended by close", async () => {
    await create({ name: "a", sizeBytes: MIB });
    url = await app.listen({ host: "127.0.0.1", port: 0 });
    const open = async (headers: Record<string, string>): Promise<AsyncIterator<string>> => {
      const response = await fetch(`${url}/v1/events`, {
        headers: { accept: "text/event-stream", ...headers },
      });
      assert.equal(response.headers.get("content-type"), "text/event-stream");
      assert.equal(response.headers.get("connection"), "close");
      return messages(response.body as ReadableStream<Uint8Array>);
    };
    const stream = await open({});
    assert.match((await stream.next()).value, /event: volume.created\ndata: \{.*"volume":"a"/);
    await create({ name: "b", sizeBytes: MIB });
    assert.match((await stream.next()).value, /^id: 2\n.*\n.*"volume":"b"/);
    const resumed = await open({ "last-event-id": "1" });
    assert.match((await resumed.next()).value, /"volume":"b"/);
    await app.close();
    assert.equal((await stream.next()).done, true);
    assert.equal((await resumed.next()).done, true);
  });

  test("one that is asked for while the server closes does not keep it open", async () => {
    url = await app.listen({ host: "127.0.0.1", port: 0 });
    const socket = connect(Number(new URL(url).port), "127.0.0.1");
    let said = "";
    socket.setEncoding("utf8").on("data", (text: string) => void (said += text));
    const ended = once(socket, "end");
    // Not idle: the connection stays when the server begins to close.
    socket.write("GET /v1/events HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n");
    await new Promise((resolve) => setTimeout(resolve, 50));
    const closed = app.close();
    await new Promise((resolve) => setTimeout(resolve, 50));
    socket.write("\r\n");
    await ended;
    assert.match(said, /^HTTP\/1.1 200 /);
    socket.destroy();
    await closed;
  });

  test("too many streams are refused", async () => {
    url = await app.listen({ host: "127.0.0.1", port: 0 });
    const headers = { accept: "text/event-stream" };
    const open = await Promise.all(
      Array.from({ length: 32 }, () => fetch(`${url}/v1/events`, { headers })),
    );
    const refusedOne = await fetch(`${url}/v1/events`, { headers });
    assert.equal(refusedOne.status, 429);
    await refusedOne.text();
    await open[0]?.body?.cancel();
    for (let tries = 0; ; tries++) {
      const again = await fetch(`${url}/v1/events`, { headers });
      await again.body?.cancel();
      if (again.status === 200) break;
      assert.ok(tries < 200, "a place that is free again is given out again");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await Promise.all(open.slice(1).map((response) => response.body?.cancel()));
  });
});

async function* messages(body: ReadableStream<Uint8Array>): AsyncGenerator<string, string> {
  let pending = "";
  const decoder = new TextDecoder();
  for await (const chunk of body) {
    pending += decoder.decode(chunk, { stream: true });
    for (let end = pending.indexOf("\n\n"); end >= 0; end = pending.indexOf("\n\n")) {
      const message = pending.slice(0, end);
      pending = pending.slice(end + 2);
      if (!message.startsWith(":")) yield message;
    }
  }
  return "";
}

describe("start over a damaged or missing thing", () => {
  test("the others are served; the damaged one is named, its name stays taken", async () => {
    for (const name of ["a", "b", "c"]) {
      await create({ name, sizeBytes: MIB });
      await call("POST", `/v1/volumes/${name}/attach`);
    }
    const path = fixture.store.pathOf("b");
    writeFileSync(path, "{");
    fixture.kill();
    const next = new HostFixture(fixture.root);
    await next.recover();
    const serving = [...next.host.entries.values()].filter((entry) => entry.serving);
    assert.deepEqual(serving.map((entry) => entry.declared.name).sort(), ["a", "c"]);
    assert.equal(next.host.damaged.get("b")?.path, path);
    assert.throws(() => next.host.find("b"), { code: "volume_unavailable" });
    next.kill();
  });

  test("two declarations with one id: the second is refused", async () => {
    await create({ name: "a", sizeBytes: MIB });
    const declared = fixture.host.entries.get("a")?.declared;
    assert.ok(declared !== undefined);
    await fixture.store.save({ ...declared, name: "b" });
    fixture.kill();
    const next = new HostFixture(fixture.root);
    await next.recover();
    assert.match(next.host.damaged.get("b")?.problem ?? "", /which volume a has already/);
    next.kill();
  });

  test("a backing that is missing is reported, and served when it is back", async () => {
    const path = join(fixture.root, "theirs.img");
    writeFileSync(path, Buffer.alloc(MIB));
    await create({ name: "v", path });
    await call("POST", "/v1/volumes/v/attach");
    fixture.kill();
    const { renameSync } = await import("node:fs");
    renameSync(path, `${path}.away`);
    const next = new HostFixture(fixture.root);
    await next.recover();
    const entry = next.host.entries.get("v");
    assert.equal(entry?.problem?.code, "BACKING_UNAVAILABLE");
    assert.match(entry.problem.message, /does not exist/);
    assert.equal(next.host.view(entry).state, "unavailable");
    renameSync(`${path}.away`, path);
    for (let tries = 0; !entry.serving; tries++) {
      assert.ok(tries < 1000, "it is tried again");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.equal(entry.problem, null);
    next.kill();
  });

  test("a device that hangs does not hold up the others or the start", async () => {
    for (const name of ["hangs", "works"]) {
      await create({ name, sizeBytes: MIB });
      await call("POST", `/v1/volumes/${name}/attach`);
    }
    fixture.kill();
    const next = new HostFixture(fixture.root);
    const before = next.dataPlane.intercept;
    next.dataPlane.intercept = (method, name) =>
      name === "hangs" ? never() : before(method, name);
    const { serveDeclared } = await import("./volume-recovery.ts");
    await serveDeclared(next.host, next.store.load());
    assert.equal(next.host.entries.get("works")?.serving, true);
    assert.equal(next.host.entries.get("hangs")?.serving, false);
    next.kill();
  });
});
