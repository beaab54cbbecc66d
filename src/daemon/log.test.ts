// The log: nothing is lost before pino is there, levels are kept, lines for people are one line.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { deviceNumbers } from "./backing.ts";
import { EventLog } from "./event-log.ts";
import { DaemonLog, readable } from "./log.ts";

describe("the log", () => {
  test("entries from before the sink arrive in order, then directly", () => {
    const log = new DaemonLog("info");
    const seen: string[] = [];
    log.log("info", "first");
    log.log("debug", "below the level");
    log.log("error", "second");
    log.connect((entry) => void seen.push(entry.event));
    log.setLevel("error");
    log.log("warn", "below the level");
    log.log("error", "third", { a: 1 });
    assert.deepEqual(seen, ["first", "second", "third"]);
  });

  test("a line for people is one line, whatever the fields hold", () => {
    const at = new Date("2026-01-02T03:04:05.678Z");
    const fields = { volume: "db1", path: "/a b", text: "x\ny", count: 3, none: null };
    const line = readable({ level: "info", at, event: "volume.served", fields });
    assert.equal(
      line,
      '03:04:05.678 info  volume.served  volume=db1 path="/a b" text="x\\ny" count=3 none=null\n',
    );
  });
});

describe("small things", () => {
  test("device numbers as the kernel packs them", () => {
    assert.deepEqual(deviceNumbers(0x0801), [8, 1]);
    assert.deepEqual(deviceNumbers(0x10300), [259, 0]);
    assert.deepEqual(deviceNumbers(0x10082c), [8, 300]);
  });

  test("events: bounded, numbered, resumable over a restart", () => {
    const log = new EventLog(() => new Date(0));
    for (let count = 0; count < 2000; count++) log.add("volume.created", "v", String(count));
    assert.equal(log.since(0).length, 1024);
    assert.equal(log.since(1999)[0]?.message, "1999");
    assert.equal(log.since(2000).length, 0);
    assert.equal(log.since(9999).length, 1024, "a number from before a restart");
    let heard = 0;
    const end = log.subscribe(() => void heard++);
    log.add("volume.deleted", "v", "");
    end();
    log.add("volume.deleted", "v", "");
    assert.equal(heard, 1);
  });
});
