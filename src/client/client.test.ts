// The client's promises: every call asks for the right thing, the server's errors arrive as they
// were, replies that make no sense are called that.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { RingstoreClient } from "./client.ts";
import { EventParser } from "./event-parser.ts";
import type { ClientRequest, Transport } from "./transport.ts";

class Scripted implements Transport {
  readonly requests: ClientRequest[] = [];
  status = 200;
  text = "{}";
  chunks: string[] = [];

  async send(request: ClientRequest): Promise<{ status: number; text: string }> {
    this.requests.push(request);
    return { status: this.status, text: this.text };
  }

  async stream(_path: string, received: (text: string) => void): Promise<void> {
    for (const chunk of this.chunks) received(chunk);
  }
}

const VOLUME = JSON.stringify({ id: "i", name: "a", sizeBytes: 1, state: "detached" });

describe("requests", () => {
  test("each method has its route", async () => {
    const transport = new Scripted();
    const client = new RingstoreClient(transport);
    transport.text = VOLUME;
    await client.createVolume({ name: "a", sizeBytes: 1 }, { dryRun: true });
    await client.showVolume("a/../b");
    await client.resizeVolume("a", { sizeBytes: 2 });
    transport.text = '{"volume":"a","changed":true,"socket":"/s","qemu":{}}';
    await client.attachVolume("a", {});
    await client.detachVolume("a");
    await client.deleteVolume("a", { dryRun: true });
    assert.deepEqual(
      transport.requests.map(({ method, path }) => `${method} ${path}`),
      [
        "POST /v1/volumes?dryRun=true",
        "GET /v1/volumes/a%2F..%2Fb",
        "POST /v1/volumes/a/resize",
        "POST /v1/volumes/a/attach",
        "POST /v1/volumes/a/detach",
        "DELETE /v1/volumes/a?dryRun=true",
      ],
    );
    assert.deepEqual(transport.requests[0]?.body, { name: "a", sizeBytes: 1 });
  });

  test("each method of a cluster has its route; the token is marked as a secret", async () => {
    const transport = new Scripted();
    const client = new RingstoreClient(transport);
    transport.text = '{"id":"i","name":"p","node":"n","metadata":{},"cluster":null,"token":"t"}';
    await client.showCluster();
    await client.initCluster({ name: "p", address: "a:1", metadata: ["a:2"] }, { dryRun: true });
    await client.joinCluster({ token: "t", address: "a:1" });
    await client.clusterToken();
    transport.text = '{"id":"i","name":"n","node":"n","state":"alive","disks":[],"volumes":[]}';
    await client.showNode("n/..");
    await client.removeNode("n", { dryRun: true });
    transport.text = '{"node":"n","disk":null,"draining":true,"copies":[]}';
    await client.drainNode("n", { cancel: true });
    await client.drainDisk("d", {}, { dryRun: true });
    transport.text = '{"nodes":[],"rebuilds":[]}';
    await client.listNodes();
    await client.listRebuilds();
    transport.text = '{"bytesPerSecond":null}';
    await client.rebuildLimit();
    await client.setRebuildLimit({ bytesPerSecond: null });
    assert.deepEqual(
      transport.requests.map(({ method, path }) => `${method} ${path}`),
      [
        "GET /v1/cluster",
        "POST /v1/cluster/init?dryRun=true",
        "POST /v1/cluster/join",
        "GET /v1/cluster/token",
        "GET /v1/nodes/n%2F..",
        "DELETE /v1/nodes/n?dryRun=true",
        "POST /v1/nodes/n/drain",
        "POST /v1/disks/d/drain?dryRun=true",
        "GET /v1/nodes",
        "GET /v1/rebuilds",
        "GET /v1/rebuilds/limit",
        "PUT /v1/rebuilds/limit",
      ],
    );
    assert.deepEqual(transport.requests[2]?.body, { token: "t", address: "a:1" });
    assert.deepEqual(transport.requests[1]?.secretFields, ["metadataPassword"]);
    assert.deepEqual(transport.requests[2]?.secretFields, ["token", "metadataPassword"]);
  });
});

describe("replies", () => {
  test("an error reply keeps code, message and advice", async () => {
    const transport = new Scripted();
    transport.status = 404;
    transport.text = '{"code":"volume_not_found","message":"no a","advice":"look"}';
    await assert.rejects(new RingstoreClient(transport).showVolume("a"), {
      name: "ClientError",
      code: "volume_not_found",
      message: "no a",
      advice: "look",
    });
  });

  const nonsense: readonly (readonly [string, number, string])[] = [
    ["an error that is not ours", 502, "<html>Bad gateway</html>"],
    ["an error without a code", 500, '{"error":"x"}'],
    ["a null error", 500, "null"],
    ["no JSON", 200, "hello"],
    ["a missing field", 200, '{"id":"i"}'],
    ["null", 200, "null"],
  ];
  for (const [what, status, text] of nonsense) {
    test(`${what} is a bad reply`, async () => {
      const transport = new Scripted();
      Object.assign(transport, { status, text });
      await assert.rejects(new RingstoreClient(transport).showVolume("a"), { code: "bad_reply" });
    });
  }
});

describe("event streams", () => {
  test("events cut anywhere come out whole, heartbeats do not", async () => {
    const whole = ': hi\n\nid: 1\nevent: x\ndata: {"seq":1}\n\n: beat\n\ndata: {"seq":2}\r\n\r\n';
    for (let size = 1; size < whole.length; size++) {
      const transport = new Scripted();
      for (let at = 0; at < whole.length; at += size) {
        transport.chunks.push(whole.slice(at, at + size));
      }
      const seen: number[] = [];
      await new RingstoreClient(transport).followEvents((event) => void seen.push(event.seq));
      assert.deepEqual(seen, [1, 2], `chunks of ${size}`);
    }
  });

  test("a line without an end does not fill the memory", () => {
    const parser = new EventParser(() => undefined);
    assert.throws(() => {
      for (let count = 0; count < 100; count++) parser.push("x".repeat(64 * 1024));
    }, /line without an end/);
  });
});
