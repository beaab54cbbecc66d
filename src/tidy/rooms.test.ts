// The import table itself: every name in it exists, and it has no cycle.

import assert from "node:assert/strict";
import { test } from "node:test";
import { allowsImport, findRoom, ROOMS } from "./rooms.ts";

test("every room named in the table is in the table", () => {
  for (const room of ROOMS) {
    for (const entry of room.imports) {
      const name = entry.replace(/^-/, "").split("/")[0] ?? "";
      assert.ok(name === "*" || findRoom(name) !== undefined, `${room.name} names "${entry}"`);
    }
  }
});

test("no room is declared twice, and each has a contract", () => {
  assert.equal(new Set(ROOMS.map((room) => room.name)).size, ROOMS.length);
  for (const room of ROOMS) assert.ok(room.contract.length > 10, room.name);
});

test("the table has no cycle", () => {
  // Rooms that may import everything stand on top: daemon below testing below bench.
  const mayReach = (from: string, to: string): boolean =>
    allowsImport(findRoom(from)?.imports ?? [], to, "index.ts");
  const remaining = new Set(ROOMS.map((room) => room.name));
  while (remaining.size > 0) {
    const free = [...remaining].filter((name) =>
      [...remaining].every((other) => other === name || !mayReach(name, other)),
    );
    assert.notEqual(free.length, 0, `these import each other: ${[...remaining].join(", ")}`);
    for (const name of free) remaining.delete(name);
  }
});

test("rooms on the data path import no package, and only sys has koffi", () => {
  const dataPath = "base ports uring reactor virtio vhost-user scsi iscsi wire volume chunk local";
  for (const name of dataPath.split(" ")) assert.deepEqual(findRoom(name)?.packages, [], name);
  const withKoffi = ROOMS.filter((room) => room.packages.includes("koffi"));
  assert.deepEqual(
    withKoffi.map((room) => room.name),
    ["sys"],
  );
});

test("entries: everything, everything but, and files by prefix", () => {
  assert.equal(allowsImport(["*", "-testing"], "base", "a.ts"), true);
  assert.equal(allowsImport(["*", "-testing"], "testing", "a.ts"), false);
  assert.equal(allowsImport(["vhost-user/messages"], "vhost-user", "messages.ts"), true);
  assert.equal(allowsImport(["vhost-user/messages"], "vhost-user", "session.ts"), false);
  assert.equal(allowsImport([], "base", "a.ts"), false);
});
