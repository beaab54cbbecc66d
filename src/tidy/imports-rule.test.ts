// The import table is enforced, for values and for types, in files and in tests.

import assert from "node:assert/strict";
import { test } from "node:test";
import { checkImports } from "./imports-rule.ts";
import { projectOf } from "./project.ts";

function messagesOf(path: string, ...lines: string[]): string[] {
  return checkImports(projectOf({ [path]: lines.join("\n") })).map((finding) => finding.message);
}

const REFUSED: readonly (readonly [string, string, RegExp])[] = [
  ["src/virtio/a.ts", 'import { x } from "../sys/index.ts";', /virtio\/ may not import sys\//],
  ["src/virtio/a.ts", 'import type { X } from "../sys/index.ts";', /may not import sys\//],
  ["src/virtio/a.ts", 'export * from "../sys/index.ts";', /may not import sys\//],
  ["src/virtio/a.ts", 'const x = await import("../sys/index.ts");', /may not import sys\//],
  ["src/virtio/a.ts", 'import {\n  x,\n  type Y,\n} from "../sys/a.ts";', /may not import sys\//],
  ["src/virtio/a.ts", 'import "../sys/a.ts";', /may not import sys\//],
  ["src/base/a.ts", 'import type { X } from "../ports/index.ts";', /imports nothing/],
  ["src/base/a.ts", 'import { join } from "node:path";', /runs in the simulator/],
  ["src/ports/a.ts", 'import type { Socket } from "node:net";', /runs in the simulator/],
  ["src/model/a.ts", 'import { join } from "node:path";', /runs in a browser/],
  ["src/client/a.ts", 'import { request } from "node:http";', /runs in a browser/],
  ["src/virtio/a.ts", 'import koffi from "koffi";', /only sys\/ loads koffi/],
  ["src/virtio/a.test.ts", 'import koffi from "koffi";', /only sys\/ loads koffi/],
  ["src/uring/a.ts", 'import pino from "pino";', /may not import the package "pino"/],
  ["src/sys/a.ts", 'import pino from "pino";', /may not import the package "pino"/],
  ["src/model/a.ts", 'import x from "@fastify/swagger/y";', /package "@fastify\/swagger"/],
  ["src/local/a.ts", 'import { x } from "../volume/index.ts";', /may not import volume\//],
  ["src/api/a.ts", 'import { x } from "../telemetry/_ring.ts";', /private to telemetry\//],
  ["src/daemon/a.ts", 'import { x } from "../testing/index.ts";', /imported only by tests/],
  ["src/daemon/a.ts", 'import { x } from "../bench/boost.ts";', /may not import bench\//],
  ["src/testing/a.ts", 'import { x } from "../bench/boost.ts";', /may not import bench\//],
  ["src/load/a.ts", 'import { x } from "../vhost-user/session.ts";', /may not import vhost-user\//],
  ["src/virtio/a.test.ts", 'import { x } from "../api/index.ts";', /may not import api\//],
  ["src/virtio/a.ts", 'import { x } from "./b.test.ts";', /is for tests/],
  ["src/virtio/a.ts", 'import { x } from "./_fake-disk.ts";', /is for tests/],
  ["src/virtio/a.ts", 'import x from "../../package.json";', /leads out of src\//],
  ["src/virtio/a.ts", 'import x from "../../scripts/lib/x.ts";', /leads out of src\//],
  ["src/virtio/a.ts", 'import x from "../stray.ts";', /leads out of src\//],
  ["src/attic/a.ts", "export const x = 1;", /room "attic" is not in/],
  ["src/a.ts", "export const x = 1;", /is in no room/],
];

for (const [path, text, expected] of REFUSED) {
  test(`refused in ${path}: ${text}`, () => {
    const messages = messagesOf(path, text);
    assert.equal(messages.length, 1, messages.join("\n"));
    assert.match(messages[0] ?? "", expected);
  });
}

const ALLOWED: readonly (readonly [string, string])[] = [
  ["src/virtio/a.ts", 'import type { BlockDevice } from "../ports/index.ts";'],
  ["src/virtio/a.ts", 'import { x } from "./_private.ts";'],
  ["src/virtio/deep/a.ts", 'import { x } from "../b.ts";'],
  ["src/sys/a.ts", 'import koffi from "koffi";'],
  ["src/sys/a.ts", 'import { readFileSync } from "node:fs";'],
  ["src/model/a.ts", 'import { Type } from "typebox";'],
  ["src/daemon/show/main.ts", 'import { boot } from "../../vm/index.ts";'],
  ["src/daemon/a.ts", 'import { serve } from "../vhost-user/index.ts";'],
  ["src/load/a.ts", 'import { x } from "../vhost-user/messages.ts";'],
  ["src/bench/a.ts", 'import { x } from "../testing/index.ts";'],
  ["src/virtio/a.test.ts", 'import { x } from "../testing/index.ts";'],
  ["src/virtio/a.test.ts", 'import { x } from "../load/index.ts";'],
  ["src/virtio/a.fuzz.ts", 'import { x } from "../reactor/index.ts";'],
  ["src/virtio/a.test.ts", 'import fc from "fast-check";'],
  ["src/testing/a.ts", 'import { x } from "../cli/index.ts";'],
  ["src/base/a.test.ts", 'import { test } from "node:test";'],
  ["src/virtio/a.test.ts", 'import { x } from "./b.fuzz.ts";'],
  ["src/virtio/a.test.ts", 'import { x } from "./_fake-disk.ts";'],
  ["src/virtio/_fake-disk.ts", 'import assert from "node:assert/strict";'],
  ["src/virtio/a.ts", '// import { x } from "../sys/index.ts";'],
  ["src/virtio/a.ts", 'const text = `\nimport { x } from "../sys/index.ts";\n`;'],
];

for (const [path, text] of ALLOWED) {
  test(`allowed in ${path}: ${text}`, () => {
    assert.deepEqual(messagesOf(path, text), []);
  });
}

test("a finding names the line", () => {
  const text = ["// One.", "", 'import type { X } from "../sys/index.ts";', ""].join("\n");
  const [finding] = checkImports(projectOf({ "src/virtio/a.ts": text }));
  assert.equal(finding?.line, 3);
});
