// A reporter for node:test, loaded into each test process (`--test-reporter`): one line per test,
// led by the file, so that the lines of files that run side by side can be told apart; failures
// with their error right there. Each result also goes to a file (RINGSTORE_TEST_RESULTS), as one
// line of JSON, for whoever counts: what was written stays when the process dies.

import { appendFileSync } from "node:fs";
import { inspect } from "node:util";

const file = process.env.RINGSTORE_TEST_FILE ?? "";
const results = process.env.RINGSTORE_TEST_RESULTS;

/** What the runner itself says at the end of a file; the sums are printed once, over all files. */
const SUMMARY = /^(?:tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) [\d.]+$/;

export default async function* report(source) {
  // The names of the tests around the one that is reported, by nesting.
  const trail = [];
  // Results are reported in order; this is what runs, at once.
  const running = [];
  for await (const { type, data } of source) {
    if (type === "test:dequeue") {
      running.length = data.nesting;
      running.push(data.name);
      record({ type: "start", name: running.join(" › ") });
    } else if (type === "test:start") {
      trail.length = data.nesting;
      trail.push(data.name);
    } else if (type === "test:pass" || type === "test:fail") {
      trail.length = data.nesting;
      const name = [...trail, data.name].join(" › ");
      const result = classify(type, data);
      const error = errorText(result, data).slice(0, ERROR_CHARS);
      record(error === "" ? { ...result, name } : { ...result, name, error });
      // A suite that holds passing tests adds nothing to their lines.
      if (result.outcome === "pass" && result.isSuite) continue;
      yield line(result, name, data);
    } else if (type === "test:diagnostic" && !SUMMARY.test(data.message)) {
      yield `  ${file} › ${data.message}\n`;
    }
  }
  record({ type: "end" });
}

function classify(type, data) {
  const failureType = data.details?.error?.failureType;
  const isSuite = data.details?.type === "suite";
  const reason = typeof data.skip === "string" ? data.skip : data.todo;
  let outcome = type === "test:pass" ? "pass" : "fail";
  if (data.skip !== undefined && data.skip !== false) outcome = "skipped";
  else if (data.todo !== undefined && data.todo !== false) outcome = "todo";
  else if (outcome === "fail" && /cancelled|Aborted|Timeout/i.test(failureType ?? "")) {
    outcome = "cancelled";
  }
  // What failed only because something in it failed was reported there.
  const isEcho = failureType === "subtestsFailed";
  return { type: "result", outcome, isSuite, isEcho, reason: reason === true ? "" : reason };
}

/** What of a failure's text is kept for the summary. */
const ERROR_CHARS = 1200;

const MARKS = { pass: "✔", fail: "✖", cancelled: "✖", skipped: "﹣", todo: "…" };

function line(result, name, data) {
  const duration = `${(data.details?.duration_ms ?? 0).toFixed(0)} ms`;
  const reason = result.reason ? ` # ${result.outcome}: ${result.reason}` : "";
  const title = name.replaceAll("\n", "\\n");
  const head = `${MARKS[result.outcome]} ${file} › ${title} (${duration})${reason}\n`;
  const text = errorText(result, data);
  return text === "" ? head : `${head}${text.replace(/^/gm, "    ")}\n`;
}

/** What a failure says, with where it happened; empty for anything else. */
function errorText(result, data) {
  const isFailure = result.outcome === "fail" || result.outcome === "cancelled";
  if (!isFailure || result.isEcho) return "";
  const error = data.details?.error;
  return inspect(error?.cause ?? error, { colors: false, depth: 6 });
}

function record(entry) {
  if (results !== undefined) appendFileSync(results, `${JSON.stringify(entry)}\n`);
}
