// The log ring: every line arrives once and whole, in order, across wraps; full rings drop and
// say so; a dying thread gets the lines out whoever holds the lock; two threads at once.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Worker } from "node:worker_threads";
import { Prng } from "../base/index.ts";
import type { Clock, Log, LogFields, LogLevel } from "../ports/index.ts";
import { LimitedLog } from "./limited-log.ts";
import { createLogRing, LINE_BYTES_MAX, LogRingReader, LogRingWriter } from "./log-ring.ts";
import { formatLine, RingLog } from "./ring-log.ts";

const RING_BYTES = 32 * 1024;
const HEADER_BYTES = 64;

function collect(): { lines: string[]; sink: (line: Uint8Array) => void } {
  const lines: string[] = [];
  return { lines, sink: (line) => void lines.push(Buffer.from(line).toString("utf8")) };
}

describe("log ring", () => {
  it("carries lines of every length through many wraps, in order", () => {
    const shared = createLogRing(RING_BYTES);
    const writer = new LogRingWriter(shared);
    const reader = new LogRingReader(shared);
    const prng = new Prng(3);
    const expected: string[] = [];
    const { lines, sink } = collect();
    for (let count = 0; count < 3000; count++) {
      const text = `${count}${"\u00e9x".repeat(prng.between(0, 900))}`;
      if (writer.write(text)) expected.push(`${text}\n`);
      if (prng.chance(0.3)) reader.drain(sink, prng.between(1, 100));
    }
    reader.drain(sink, 1000);
    assert.deepEqual(lines, expected);
    assert.equal(expected.length + reader.droppedCount, 3000);
    assert.ok(expected.length > 1000);
    assert.ok(reader.droppedCount > 0, "the test must also see a full ring");
  });

  it("still works when the positions pass 2^31 and 2^32", () => {
    for (const start of [0x7fffe000, -8192]) {
      const shared = createLogRing(RING_BYTES);
      const words = new Int32Array(shared, 0, 2);
      words[0] = words[1] = start;
      const writer = new LogRingWriter(shared);
      const reader = new LogRingReader(shared);
      const { lines, sink } = collect();
      for (let count = 0; count < 10; count++) {
        let accepted = 0;
        while (writer.write("y".repeat(500))) accepted += 1;
        assert.equal(accepted, Math.floor(RING_BYTES / 504));
        assert.equal(reader.drain(sink, 1000), accepted);
      }
      assert.ok(lines.every((line) => line.length === 501));
      assert.ok((words[0] as number) < 0 !== start < 0, "the position went past its sign");
    }
  });

  it("takes lines until exactly full and never overruns", () => {
    const shared = createLogRing(RING_BYTES);
    const writer = new LogRingWriter(shared);
    const reader = new LogRingReader(shared);
    let accepted = 0;
    while (writer.write("z".repeat(1020))) accepted += 1;
    assert.equal(accepted, RING_BYTES / 1024);
    assert.equal(writer.write(""), false);
    const { lines, sink } = collect();
    assert.equal(reader.drain(sink, 1000), accepted);
    assert.ok(lines.every((line) => line === `${"z".repeat(1020)}\n`));
    assert.equal(writer.droppedCount, 2);
    assert.ok(writer.write(""));
  });

  it("the longest line fits, a longer one is refused as our own mistake", () => {
    const writer = new LogRingWriter(createLogRing(RING_BYTES));
    assert.ok(writer.write("l".repeat(LINE_BYTES_MAX)));
    assert.throws(() => writer.write("l".repeat(LINE_BYTES_MAX + 1)), /must cut it/);
  });

  it("a fatal drain reads although another thread holds the lock", () => {
    const shared = createLogRing(RING_BYTES);
    new LogRingWriter(shared).write("last words");
    new Int32Array(shared)[3] = 1;
    const reader = new LogRingReader(shared);
    const { lines, sink } = collect();
    assert.equal(reader.drain(sink, 10), 0);
    assert.equal(reader.drainFatal(sink), 1);
    assert.deepEqual(lines, ["last words\n"]);
  });

  it("a length that cannot be is not believed", () => {
    const shared = createLogRing(RING_BYTES);
    const writer = new LogRingWriter(shared);
    const reader = new LogRingReader(shared);
    for (const damage of [LINE_BYTES_MAX + 1, 0xffffffff, 400]) {
      const at = (new Int32Array(shared)[0] as number) & (RING_BYTES - 1);
      writer.write("short");
      new Uint32Array(shared, HEADER_BYTES)[at / 4] = damage;
      const { lines, sink } = collect();
      assert.equal(reader.drain(sink, 10), 1);
      assert.match(lines[0] as string, /damaged/);
      writer.write("next");
      assert.equal(reader.drain(sink, 10), 1);
      assert.equal(lines[1], "next\n");
    }
  });

  it("two threads: nothing lost, doubled, torn or reordered", async () => {
    const code = `
      const { workerData } = require("node:worker_threads");
      import(workerData.module).then(({ LogRingWriter }) => {
        const writer = new LogRingWriter(workerData.shared);
        for (let count = 0; count < 30000; count++) {
          const line = count + ":" + "a".repeat(count % 700);
          while (!writer.tryWrite(line)) Atomics.wait(new Int32Array(workerData.shared), 8, 0, 1);
        }
      });`;
    const shared = createLogRing(RING_BYTES);
    const module = new URL("./log-ring.js", import.meta.url).href;
    const worker = new Worker(code, { eval: true, workerData: { module, shared } });
    let hasEnded = false;
    const ended = new Promise<number>((resolve, reject) => {
      worker.on("exit", resolve);
      worker.on("error", reject);
    }).finally(() => {
      hasEnded = true;
    });
    const reader = new LogRingReader(shared);
    let next = 0;
    const sink = (line: Uint8Array): void => {
      const text = Buffer.from(line).toString("latin1");
      assert.equal(text, `${next}:${"a".repeat(next % 700)}\n`);
      next += 1;
    };
    while (!hasEnded || reader.drain(sink, 1) > 0) {
      reader.drain(sink, 500);
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.equal(await ended, 0);
    assert.equal(next, 30000);
    assert.equal(reader.droppedCount, 0);
  });
});

describe("ring log", () => {
  const context = { timeMs: 1722420000123, reactorIndex: 2 };

  function makeLog(levelMin: LogLevel): { log: RingLog; reader: LogRingReader } {
    const shared = createLogRing(RING_BYTES);
    const modules = { writer: new LogRingWriter(shared), wallTimeMs: () => 1722420000123 };
    return {
      log: new RingLog({ reactorIndex: 2, levelMin }, modules),
      reader: new LogRingReader(shared),
    };
  }

  it("writes one JSON object per line, its own names first", () => {
    const { log, reader } = makeLog("info");
    log.log("debug", "not written");
    log.log("warn", "ring stopped", { volume: "db\n1", queue: 3, event: "mine", bad: null });
    const { lines, sink } = collect();
    assert.equal(reader.drain(sink, 10), 1);
    assert.equal(
      lines[0],
      '{"time":1722420000123,"level":"warn","event":"ring stopped","reactor":2,' +
        '"volume":"db\\n1","queue":3,"event_":"mine","bad":null}\n',
    );
  });

  it("cuts what is too long, whatever it is made of", () => {
    for (const text of ["plain ", "\u0001\u0002", "\u{1f600}", "\ud800", "\u20ac"]) {
      const fields: Record<string, string> = {};
      for (let count = 0; count < 30; count++) fields[`${count}${text.repeat(400)}`] = text;
      fields["last"] = text.repeat(9000);
      const line = formatLine(context, "info", text.repeat(5000), fields);
      assert.ok(Buffer.byteLength(line) <= LINE_BYTES_MAX);
      assert.equal(JSON.parse(line).cut, true);
    }
    const whole = formatLine(context, "info", "e", { text: "t".repeat(8000) });
    assert.equal(JSON.parse(whole).text.length, 8000);
  });

  it("says how many lines were lost once there is room again", () => {
    const { log, reader } = makeLog("info");
    for (let count = 0; count < 1000; count++) log.log("info", "flood", { count });
    const first = collect();
    const kept = reader.drain(first.sink, 2000);
    log.log("info", "after");
    log.log("info", "later");
    const { lines, sink } = collect();
    reader.drain(sink, 10);
    const records = lines.map((line) => JSON.parse(line));
    assert.deepEqual(
      records.map((record) => record.event),
      ["log lines lost, the ring was full", "after", "later"],
    );
    assert.equal(records[0].lost, 1000 - kept);
    assert.equal(reader.droppedCount, 1000 - kept);
  });
});

describe("limited log", () => {
  class FakeLog implements Log {
    readonly lines: { level: LogLevel; event: string; fields: LogFields }[] = [];
    log(level: LogLevel, event: string, fields: LogFields = {}): void {
      this.lines.push({ level, event, fields });
    }
  }

  function make(): { log: LimitedLog; target: FakeLog; clock: Clock & { us: number } } {
    const target = new FakeLog();
    const clock = {
      us: 5e6,
      nowUs(): number {
        return this.us;
      },
    };
    const options = { lineCountMax: 3, windowMs: 1000, fields: { volume: "db1" } };
    return { log: new LimitedLog(options, { log: target, clock }), target, clock };
  }

  it("lets N through per event and window, then sums up", () => {
    const { log, target, clock } = make();
    for (let count = 0; count < 10; count++) log.log("warn", "bad chain", { count });
    log.log("info", "other");
    assert.deepEqual(
      target.lines.map((line) => [line.event, line.fields["count"], line.fields["volume"]]),
      [
        ["bad chain", 0, "db1"],
        ["bad chain", 1, "db1"],
        ["bad chain", 2, "db1"],
        ["other", undefined, "db1"],
      ],
    );
    clock.us += 1e6;
    log.log("warn", "bad chain", { count: 10 });
    assert.deepEqual(target.lines.slice(4), [
      {
        level: "warn",
        event: "log lines held back",
        fields: { volume: "db1", of: "bad chain", heldBack: 7, seconds: 1 },
      },
      { level: "warn", event: "bad chain", fields: { volume: "db1", count: 10 } },
    ]);
  });

  it("flush reports windows that are over, closing reports all", () => {
    const { log, target, clock } = make();
    for (let count = 0; count < 5; count++) log.log("warn", "a");
    log.flush();
    assert.equal(target.lines.length, 3);
    clock.us += 1e6;
    log.flush();
    assert.equal(target.lines[3]?.fields["heldBack"], 2);
    for (let count = 0; count < 4; count++) log.log("warn", "b");
    log.flush({ isClosing: true });
    assert.equal(target.lines[target.lines.length - 1]?.fields["of"], "b");
    log.flush({ isClosing: true });
    assert.equal(target.lines.length, 8);
  });

  it("event names that a guest invents share a budget", () => {
    const { log, target } = make();
    for (let count = 0; count < 5000; count++) log.log("warn", `event ${count}`);
    assert.equal(target.lines.length, 64 + 3);
    log.flush({ isClosing: true });
    assert.equal(target.lines[67]?.fields["of"], "other events");
    assert.equal(target.lines[67]?.fields["heldBack"], 5000 - 67);
  });
});
