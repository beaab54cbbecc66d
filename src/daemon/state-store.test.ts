// Declared state survives, and what is damaged is refused by name, kept, and holds up nobody else.

import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { DeclaredVolume } from "../model/declared.ts";
import { temporaryDirectory } from "../testing/control/host-fixture.ts";
import { nodeStateFs } from "./state-fs.ts";
import { isDamaged, StateStore, VOLUME_STATE } from "./state-store.ts";

const VOLUME: DeclaredVolume = {
  id: "00000000-0000-4000-8000-000000000001",
  name: "db1",
  sizeBytes: 1 << 20,
  blockBytes: 4096,
  readOnly: false,
  serial: "s1",
  backing: { kind: "file", path: null, direct: "auto" },
  createdAt: "2026-01-02T03:04:05.678Z",
  phase: "ready",
  resizeToBytes: null,
  generation: 3,
  attachment: {
    queueCountMax: 4,
    packedAllowed: true,
    readOnly: false,
    attachedAt: "2026-01-02T03:04:05.678Z",
  },
};

let directory = "";
let store: StateStore<DeclaredVolume>;
const file = (): string => join(directory, "db1.json");

before(() => {
  directory = temporaryDirectory();
  store = new StateStore(directory, nodeStateFs, VOLUME_STATE);
});
after(() => rmSync(directory, { recursive: true }));

/** Saves VOLUME, edits the text, loads. */
async function loadEdited(edit: (text: string) => string): Promise<string> {
  await store.save(VOLUME);
  const text = edit(readFileSync(file(), "utf8"));
  writeFileSync(file(), text);
  const { declared: volumes, suspects, damaged } = store.load();
  assert.deepEqual(volumes, []);
  assert.equal(readFileSync(file(), "utf8"), text, "the file is kept as it is");
  const [suspect] = suspects;
  if (suspect === undefined) {
    assert.equal(damaged[0]?.path, file());
    return damaged[0].problem;
  }
  const result = await store.examine(suspect);
  return isDamaged(result) ? result.problem : "accepted";
}

const withoutChecksum = (text: string): string => text.replace(/ {2}"checksum".*\n/, "");

describe("state files", () => {
  test("what is saved is loaded, without the schema library", async () => {
    await store.save(VOLUME);
    assert.deepEqual(store.load(), { declared: [VOLUME], suspects: [], damaged: [] });
  });

  test("temporary and foreign files are passed over", async () => {
    await store.save(VOLUME);
    writeFileSync(join(directory, ".db2.new"), '{"half":');
    writeFileSync(join(directory, "README"), "hello");
    assert.equal(store.load().declared.length, 1);
    assert.equal(store.load().damaged.length, 0);
  });

  test("removed is gone, twice is fine", async () => {
    await store.save(VOLUME);
    await store.remove("db1");
    await store.remove("db1");
    assert.deepEqual(store.load().declared, []);
  });

  const damage: readonly (readonly [string, (text: string) => string, RegExp])[] = [
    ["one flipped digit", (text) => text.replace("1048576", "1048577"), /^field checksum does not/],
    ["cut off", (text) => text.slice(0, 100), /^is not JSON/],
    ["empty", () => "", /^is not JSON/],
    ["zeroes", (text) => "\0".repeat(text.length), /^is not JSON/],
    ["not an object", () => "7", /^does not hold a JSON object/],
    ["null", () => "null", /^does not hold a JSON object/],
    ["too long", () => " ".repeat(100_000), /^has 100000 characters/],
    ["another format", (text) => text.replace('"format": 1', '"format": 9'), /^field format is 9/],
    ["no volume", (text) => withoutChecksum(text).replace('"volume"', '"x"'), /^field volume /],
    [
      "a wrong field after an edit",
      (text) => withoutChecksum(text).replace("1048576", '"1M"'),
      /^field volume.sizeBytes is "1M", but must be/,
    ],
    [
      "a missing field after an edit",
      (text) => withoutChecksum(text).replace(/ +"serial".*\n/, ""),
      /^field volume.serial is missing$/,
    ],
    [
      "an unknown field after an edit",
      (text) => withoutChecksum(text).replace('"serial"', '"colour": 1, "serial"'),
      /^field volume.colour is not a field/,
    ],
    [
      "another name after an edit",
      (text) => withoutChecksum(text).replace('"db1"', '"db2"'),
      /^field volume.name is "db2"/,
    ],
    ["a good edit without checksum", withoutChecksum, /^accepted$/],
  ];
  for (const [what, edit, problem] of damage) {
    test(what, async () => assert.match(await loadEdited(edit), problem));
  }

  test("a file under another volume's name is refused although its checksum holds", async () => {
    await store.save(VOLUME);
    writeFileSync(join(directory, "db9.json"), readFileSync(file()));
    const { declared: volumes, damaged } = store.load();
    assert.equal(volumes.length, 1);
    assert.match(damaged[0]?.problem ?? "", /volume.name is "db1"/);
    rmSync(join(directory, "db9.json"));
  });
});
