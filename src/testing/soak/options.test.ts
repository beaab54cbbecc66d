// The soak's command line and its log: what was asked for is understood or refused, and a line of
// the log stays a line.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { appendEntry, formatEntry } from "./journal.ts";
import { parseSoakOptions, UsageError } from "./options.ts";

test("without arguments: every suite, full counts, a seed", () => {
  const options = parseSoakOptions([]);
  assert.ok(options !== null);
  const boost = ["restarts", "late-dma", "reconnects", "fuzz", "guests"];
  assert.deepEqual(options.suites, [
    ...boost,
    "store-restarts",
    "store-power-cuts",
    "store-crash-points",
    "failovers",
    "cluster-faults",
  ]);
  assert.deepEqual([options.storeRoundCount, options.cutCount], [500, 1000]);
  assert.deepEqual([options.failoverCount, options.faultCount], [50, 200]);
  assert.equal(options.roundCount, 1000);
  assert.equal(options.crashStates, 2_000_000);
  assert.equal(options.reconnectCount, 1000);
  assert.ok(options.seed > 0);
});

test("counts can be lowered, suites chosen, in the soak's own order", () => {
  const argv = ["--suite", "fuzz", "--suite", "restarts", "--rounds", "7", "--seed", "3"];
  const options = parseSoakOptions([...argv, "--minutes", "5"]);
  assert.ok(options !== null);
  assert.deepEqual(options.suites, ["restarts", "fuzz"]);
  assert.deepEqual([options.roundCount, options.seed, options.minutesMax], [7, 3, 5]);
  assert.equal(parseSoakOptions(["--help"]), null);
});

test("what is not understood is refused by name", () => {
  for (const [argv, message] of [
    [["--rounds", "many"], /--rounds is "many"/],
    [["--rounds", "-1"], /rounds/],
    [["--suite", "all"], /no suite all; there are restarts/],
    [["--forever"], /--forever/],
  ] as const) {
    assert.throws(
      () => parseSoakOptions(argv),
      (error) => error instanceof UsageError && message.test(error.message),
    );
  }
});

test("the log begins with its head, and every entry is one row", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "rs-soak-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, "soak.md");
  const entry = { suite: "restarts", seed: 1, counts: "10 rounds", durationMs: 3_725_400 };
  const date = new Date("2026-01-02T03:04:05Z");
  for (const result of ["kept", "BROKEN: a | b\nc"]) {
    appendEntry(path, formatEntry({ ...entry, result }, "abc", date));
  }
  const lines = readFileSync(path, "utf8").trimEnd().split("\n");
  const rows = lines.filter((line) => line.startsWith("| 2026-01-02 03:04 | abc |"));
  assert.equal(rows.length, 2);
  assert.equal(lines.at(-1), rows[1]);
  assert.match(rows[0] ?? "", /\| restarts \| 1 \| 10 rounds \| 1 h 2 min 5 s \| kept \|$/);
  assert.match(rows[1] ?? "", /\| BROKEN: a \\\| b c \|$/);
});
