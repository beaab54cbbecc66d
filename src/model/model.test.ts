// The model's promises: names, sizes, settings and violations are told in words a person can act
// on; the declared-state schema and the API schema accept what the daemon writes.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { checkConfigFile, checkSetting, SETTINGS, settingOf } from "./config.ts";
import { DeclaredVolumeSchema } from "./declared-schema.ts";
import { API_ERROR_CODES, EXIT_CODES, exitCodeOf, httpStatusOf, meaningOf } from "./errors.ts";
import { METRICS, metricOf, metricsPage } from "./metrics.ts";
import { VolumeCreateSchema } from "./schemas.ts";
import { compileValidator } from "./validate.ts";
import {
  checkQueueCount,
  checkSerial,
  checkVolumeName,
  checkVolumeSize,
  parseSize,
  quote,
} from "./volume-rules.ts";

const MIB = 1024 * 1024;

describe("volume rules", () => {
  test("names are DNS labels of 1 to 63 characters", () => {
    for (const name of ["a", "0", "db-1", "a".repeat(63), "vm-100-disk-1"]) checkVolumeName(name);
    const bad = ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "a".repeat(64), "ü", "a\n", "a b"];
    for (const name of bad) {
      assert.throws(() => checkVolumeName(name), /is not a volume name/, JSON.stringify(name));
    }
  });

  test("sizes: limits, multiples, and the advice names the neighbours", () => {
    checkVolumeSize(MIB, 512);
    checkVolumeSize(2 ** 50, 4096);
    checkVolumeSize(512, 512, 512);
    assert.throws(() => checkVolumeSize(20, 512), {
      message: "a volume of 20 bytes is too small",
      advice: "use at least 1 MiB; a size may carry a unit, e.g. 20G",
    });
    assert.throws(() => checkVolumeSize(2 ** 50 + 512, 512), /too large/);
    assert.throws(() => checkVolumeSize(MIB + 512, 4096), {
      message: `a volume of ${MIB + 512} bytes is not a multiple of its 4096-byte blocks`,
      advice: `use ${MIB} or ${MIB + 4096}`,
    });
    assert.throws(() => checkVolumeSize(Number.NaN, 512), /too large/);
  });

  test("serials, queues and sizes in words", () => {
    checkSerial("x".repeat(20));
    for (const bad of ["", "x".repeat(21), "a b", "ä"]) {
      assert.throws(() => checkSerial(bad), /is not a serial number/);
    }
    checkQueueCount(128);
    for (const bad of [0, 129, 1.5]) assert.throws(() => checkQueueCount(bad), /number of queues/);
    assert.equal(parseSize("--size", "20G"), 20 * 1024 ** 3);
    assert.throws(() => parseSize("--size", "20X"), { message: '--size: "20X" is not a size' });
  });

  test("outside text is quoted, bounded and harmless to a terminal", () => {
    assert.equal(quote("a\u001b[2J"), '"a\\u001b[2J"');
    assert.ok(quote("x".repeat(10_000)).length < 100);
  });
});

describe("violations", () => {
  const check = compileValidator(VolumeCreateSchema);
  const cases: readonly (readonly [unknown, string, RegExp])[] = [
    [{ sizeBytes: 1 }, "name", /^is missing$/],
    [{ name: "A" }, "name", /^is "A", but must match pattern/],
    [{ name: "a", sizeBytes: 1.5 }, "sizeBytes", /^is 1.5, but must be integer/],
    [{ name: "a", sizeBytes: "1G" }, "sizeBytes", /^is "1G", but must be/],
    [{ name: "a", blockBytes: 1024 }, "blockBytes", /^is 1024, but must be one of 512, 4096/],
    [{ name: "a", backing: "floppy" }, "backing", /must be one of "file", "memory", "null"/],
    [{ name: "a", copies: 3 }, "copies", /^is not a field/],
    [[], "", /^is a list, but must be object/],
    [null, "", /^is null, but must be object/],
  ];
  for (const [value, field, problem] of cases) {
    test(`${JSON.stringify(value)} names ${field || "the value"}`, () => {
      const violation = check(value);
      assert.equal(violation?.field, field);
      assert.match(violation.problem, problem);
    });
  }

  test("what is right has none", () => {
    assert.equal(check({ name: "a", sizeBytes: MIB, blockBytes: 4096, backing: "null" }), null);
  });

  test("fields inside alternatives are named too", () => {
    const violation = compileValidator(DeclaredVolumeSchema)({
      id: "00000000-0000-4000-8000-000000000000",
      name: "a",
      sizeBytes: MIB,
      blockBytes: 512,
      readOnly: false,
      serial: "s",
      backing: { kind: "tape" },
      createdAt: "2026-01-01T00:00:00.000Z",
      phase: "ready",
      resizeToBytes: null,
      generation: 0,
      attachment: null,
    });
    assert.match(violation?.field ?? "", /^backing/);
  });
});

describe("settings", () => {
  test("a configuration file is checked key by key", () => {
    assert.deepEqual(checkConfigFile(null, "f"), {});
    assert.deepEqual(checkConfigFile({ pollUs: 0, trustMemory: true }, "f"), {
      pollUs: 0,
      trustMemory: true,
    });
    assert.throws(() => checkConfigFile({ polUs: 1 }, "/etc/r.yaml"), {
      message: '/etc/r.yaml: "polUs" is not a setting',
    });
    assert.throws(() => checkConfigFile({ pollUs: "1" }, "/etc/r.yaml"), {
      message: 'pollUs in /etc/r.yaml is "1", but must be a whole number from 0 to 10000',
    });
    assert.throws(() => checkConfigFile({ logLevel: "loud" }, "f"), /must be one of debug, info/);
    assert.throws(() => checkConfigFile({ trustMemory: "yes" }, "f"), /must be true or false/);
    assert.throws(() => checkConfigFile({ allowPaths: "a" }, "f"), /must be a list/);
    assert.throws(() => checkConfigFile({ listen: 80 }, "f"), /must be text/);
    assert.throws(() => checkConfigFile([], "f"), /does not hold settings/);
  });

  test("every fallback passes its own check", () => {
    for (const setting of SETTINGS) checkSetting(setting, setting.fallback, setting.key);
    assert.equal(settingOf("pollUs")?.flag, "poll-us");
  });
});

describe("errors and metrics", () => {
  test("every API error has a status, a meaning and a documented exit code", () => {
    const documented = new Set(EXIT_CODES.map(([code]) => code));
    for (const code of API_ERROR_CODES) {
      assert.ok(httpStatusOf(code) >= 400 && httpStatusOf(code) < 600, code);
      assert.ok(documented.has(exitCodeOf(code)), code);
      assert.notEqual(meaningOf(code), "unknown code");
    }
    assert.equal(exitCodeOf("from_the_future"), 1);
    assert.equal(exitCodeOf("toString"), 1);
  });

  test("metric names keep Prometheus' conventions", () => {
    const names = new Set<string>();
    for (const metric of METRICS) {
      assert.match(metric.name, /^ringstore_[a-z_]+$/);
      assert.equal(metric.name.endsWith("_total"), metric.kind === "counter", metric.name);
      assert.doesNotMatch(metric.name, /_(us|ms|kb|mb|usec|msec)(_|$)/);
      assert.match(metric.help, /\.$/);
      names.add(metric.name);
      assert.ok(metricsPage().includes(`\`${metric.name}\``));
    }
    assert.equal(names.size, METRICS.length);
    assert.throws(() => metricOf("ringstore_nothing"), /no metric is called/);
  });
});
