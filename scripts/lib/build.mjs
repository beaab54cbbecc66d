// Building: TypeScript to dist/, exactly what src/ says, and nothing when nothing has changed.
//
// Invariants:
// - The stamp is taken away first and written last: a build that was cut short is done again.
// - dist/ holds no file whose source is gone; a test that was deleted does not run.
// - Nothing is emitted while there is a type error.
// - dist/bundle/ is the daemon once more, in few files: loading two hundred takes a thread 0.2 s
//   longer, and guests of a restarted daemon wait for it. Nothing in it differs but the files.

import { copyFileSync, mkdirSync, readdirSync, rmdirSync, rmSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { DIST, ROOT, SetupError, say } from "./project.mjs";
import { capture, run } from "./run.mjs";
import { hashFiles, isStamped, listFiles, removeStamp, writeStamp } from "./stamp.mjs";

const SRC = join(ROOT, "src");
const STAMP = join(DIST, ".stamp");
const TSC = join(ROOT, "node_modules", ".bin", "tsc");
const BUNDLE = join(DIST, "bundle");
const BIOME = join(ROOT, "node_modules", ".bin", "biome");

/** Rooms where an index may be out of range: they handle what people and networks send. */
const CONTROL_PROJECT = "tsconfig.control.json";
const CONTROL_FILE = /^src\/(?:model|api|client|cli)\//;

/** What a restart waits for: the main thread's entry and the reactor thread's. */
const BUNDLED = ["daemon/main.js", "daemon/reactor-worker.js"];

export async function build() {
  const sources = listFiles(SRC);
  const settings = ["tsconfig.json", CONTROL_PROJECT, "package.json", "package-lock.json"];
  const hash = hashFiles([...sources, ...settings.map((name) => join(ROOT, name))]);
  if (isStamped(STAMP, hash)) return;
  say("Building.");
  removeStamp(STAMP);
  removeStale(sources);
  if (run(TSC, ["-p", "tsconfig.json", "--noEmitOnError"]) !== 0) {
    throw new SetupError("The build failed; the compiler's words are above.");
  }
  checkControlRooms(sources);
  copyAssets(sources);
  await bundle();
  writeStamp(STAMP, hash);
}

/**
 * What is loaded late stays a file of its own; packages stay where npm put them. Constants must
 * stay constants, which the compiler of the hot path folds: not every bundler leaves them so.
 */
async function bundle() {
  // npm's packages are there by now; they were not when this file was loaded.
  const { rollup } = await import("rollup");
  let bundled;
  try {
    bundled = await rollup({
      input: BUNDLED.map((name) => join(DIST, name)),
      external: (id) => !id.startsWith(".") && !id.startsWith("/"),
      treeshake: false,
      onLog: (level, { message }) => {
        if (level === "warn") throw new Error(message);
      },
    });
    await bundled.write({ dir: BUNDLE, format: "es", sourcemap: false });
  } catch (error) {
    throw new SetupError(`The daemon could not be bundled: ${error.message}`);
  } finally {
    await bundled?.close();
  }
}

/** Formatting and lint; true when there is nothing to say. */
export function checkStyle() {
  return run(BIOME, ["check", "--error-on-warnings", "."]) === 0;
}

function checkControlRooms(sources) {
  if (!sources.some((path) => CONTROL_FILE.test(relative(ROOT, path)))) return;
  const printed = capture("sh", [
    "-c",
    '"$0" -p "$1" --noEmit --pretty false; true',
    TSC,
    CONTROL_PROJECT,
  ]);
  // Rooms below are pulled in by import; their indexes are numbers under an assert.
  const errors = (printed ?? "the compiler cannot be run")
    .split("\n")
    .filter((line) => CONTROL_FILE.test(line) || /^(?!src\/|\s).*\S/.test(line));
  if (errors.length === 0) return;
  say(errors.join("\n"));
  throw new SetupError(`The check of ${CONTROL_PROJECT} failed; the compiler's words are above.`);
}

/** What a source becomes in dist/. */
function outputsOf(source) {
  const path = join(DIST, relative(SRC, source));
  if (!source.endsWith(".ts")) return [path];
  if (source.endsWith(".d.ts")) return [];
  const stem = path.slice(0, -".ts".length);
  return [".js", ".js.map", ".d.ts"].map((suffix) => stem + suffix);
}

function removeStale(sources) {
  const expected = new Set(sources.flatMap(outputsOf));
  for (const path of listFiles(DIST)) if (!expected.has(path)) rmSync(path);
  removeEmptyFolders(DIST);
}

function removeEmptyFolders(folder) {
  let entries;
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if (error.code === "ENOENT") return;
    throw error;
  }
  for (const entry of entries)
    if (entry.isDirectory()) removeEmptyFolders(join(folder, entry.name));
  if (readdirSync(folder).length === 0) rmdirSync(folder);
}

/** Files that the code reads at run time lie beside it, built or not. */
function copyAssets(sources) {
  for (const source of sources) {
    if (source.endsWith(".ts")) continue;
    const [target] = outputsOf(source);
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(source, target);
  }
}
