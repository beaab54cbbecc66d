// The documents made from code are the ones that are checked in.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { generatedDocs, projectRoot } from "./write-docs.ts";

test("the checked-in documents are up to date", async () => {
  for (const [path, text] of await generatedDocs()) {
    const present = readFileSync(join(projectRoot(), path), "utf8");
    assert.ok(present === text, `${path} is out of date: run node dist/daemon/write-docs.js`);
  }
});
