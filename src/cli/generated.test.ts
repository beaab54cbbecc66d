// What is generated from the command table: completion that really completes in bash, man pages
// that groff can set, and a table without contradictions.

import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { run } from "../testing/control/daemon-process.ts";
import { COMMAND_TABLE } from "./command-table.ts";
import { runBench } from "./commands/bench.ts";
import { formatCount, formatDuration, formatMicroseconds } from "./format.ts";
import { manPages } from "./man.ts";
import { printable, renderTable } from "./output.ts";
import { findRaw } from "./program.ts";
import { quoteForShell } from "./shell.ts";

const CLI = fileURLToPath(new URL("./main.js", import.meta.url));

/** What bash offers after these words; the last may be half a word. */
async function complete(...words: readonly string[]): Promise<string[]> {
  const all = ["ringstore", ...words];
  const script = `
    ringstore() { printf 'alpha\\nbeta\\n'; }
    source <("${process.execPath}" "${CLI}" completion bash)
    COMP_WORDS=(${all
      .map(quoteForShell)
      .map((word) => word || "''")
      .join(" ")})
    COMP_CWORD=${all.length - 1}
    _ringstore
    printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout, stderr } = await run("bash", ["-c", script]);
  assert.equal(stderr, "");
  return stdout.split("\n").filter(Boolean);
}

describe("completion", () => {
  test("commands, after options too", async () => {
    assert.deepEqual(await complete("vol"), ["volume"]);
    assert.deepEqual(await complete("volume", "de"), ["delete", "detach"]);
    assert.deepEqual(await complete("--data", "/x", "volume", "sh"), ["show"]);
  });

  test("options of the command and of all commands, choices, names, shells", async () => {
    assert.deepEqual(await complete("volume", "attach", "--que"), ["--queues"]);
    assert.deepEqual(await complete("volume", "attach", "x", "--to"), ["--token-file"]);
    assert.deepEqual(await complete("volume", "list", "-o", ""), [
      "table",
      "wide",
      "json",
      "yaml",
      "name",
    ]);
    assert.deepEqual(await complete("volume", "create", "x", "--backing", "m"), ["memory"]);
    assert.deepEqual(await complete("volume", "show", ""), ["alpha", "beta"]);
    assert.deepEqual(await complete("volume", "create", ""), []);
    assert.deepEqual(await complete("node", "remove", ""), ["alpha", "beta"]);
    assert.deepEqual(await complete("cluster", "j"), ["join"]);
    assert.deepEqual(await complete("cluster", "init", "x", "--me"), [
      "--metadata",
      "--metadata-ca",
      "--metadata-cert",
      "--metadata-key",
      "--metadata-user",
      "--metadata-password-file",
    ]);
    assert.deepEqual(await complete("completion", "f"), ["fish"]);
  });

  test("zsh and fish get scripts that name every command", async () => {
    for (const shell of ["zsh", "fish"]) {
      const { stdout, code } = await run(process.execPath, [CLI, "completion", shell]);
      assert.equal(code, 0);
      for (const { path } of COMMAND_TABLE.commands) assert.ok(stdout.includes(path.at(-1) ?? "?"));
    }
  });
});

describe("man pages", () => {
  test("one for each command, set by groff without a warning", async () => {
    const pages = manPages(COMMAND_TABLE);
    assert.equal(pages.size, COMMAND_TABLE.commands.length + 2);
    const groff = (await run("sh", ["-c", "command -v groff"])).code === 0;
    for (const [name, text] of pages) {
      assert.match(text, /^\.TH \S+ [18] /);
      for (const line of text.split("\n")) {
        if (line.startsWith("."))
          assert.match(line, /^\.(TH|SH|TP|PP|nf|fi)\b/, `${name}: ${line}`);
      }
      if (!groff) continue;
      const set = await run("groff", ["-man", "-Tutf8", "-ww", "-z"], { input: text });
      assert.deepEqual([set.code, set.stderr], [0, ""], name);
    }
    assert.match(pages.get("ringstore.1") ?? "", /EXIT STATUS\n[\s\S]*\\fB21\\fR/);
    assert.match(pages.get("ringstored.8") ?? "", /\\-\\-reactors/);
  });

  test("printed and written", async () => {
    const { stdout } = await run(process.execPath, [CLI, "man", "volume", "create"]);
    assert.match(stdout, /^\.TH RINGSTORE-VOLUME-CREATE 1/);
    assert.match((await run(process.execPath, [CLI, "man"])).stdout, /^\.TH RINGSTORE 1/);
    assert.match(
      (await run(process.execPath, [CLI, "man", "ringstored"])).stdout,
      /^\.TH RINGSTORED 8/,
    );
    const folder = mkdtempSync(join(tmpdir(), "ringstore-man-"));
    try {
      const { code } = await run(process.execPath, [CLI, "man", "--write", folder]);
      assert.equal(code, 0);
      assert.ok(readdirSync(join(folder, "man1")).includes("ringstore-volume-attach.1"));
      assert.deepEqual(readdirSync(join(folder, "man8")), ["ringstored.8"]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe("the table", () => {
  test("no option says two things, every command has an example of itself", () => {
    for (const command of COMMAND_TABLE.commands) {
      const names = [...COMMAND_TABLE.globalOptions, ...command.options].flatMap((option) =>
        option.short === undefined ? [option.long] : [option.long, option.short],
      );
      assert.equal(new Set(names).size, names.length, command.path.join(" "));
      assert.ok(command.examples.length > 0);
      for (const example of command.examples) {
        assert.ok(example.includes(`ringstore ${command.path.join(" ")}`), example);
      }
      for (const option of command.options) {
        assert.equal(option.metavar === undefined, option.kind === "switch", option.long);
      }
    }
  });
});

describe("bench", () => {
  test("is found behind options, and its words are left alone", () => {
    const words = (...all: string[]): readonly string[] | undefined =>
      findRaw(COMMAND_TABLE, all)?.words;
    assert.deepEqual(words("bench", "--help"), ["--help"]);
    assert.deepEqual(words("--data", "bench", "bench", "-o", "x"), ["-o", "x"]);
    assert.deepEqual(words("-o", "json", "--yes", "bench"), []);
    assert.equal(words("volume", "show", "bench"), undefined);
    assert.equal(words("--data", "bench"), undefined);
  });

  test("passes its words on and gives back the exit code", async () => {
    const folder = mkdtempSync(join(tmpdir(), "ringstore-bench-"));
    try {
      const program = join(folder, "main.mjs");
      const { writeFileSync } = await import("node:fs");
      const out = join(folder, "out");
      writeFileSync(
        program,
        `import { writeFileSync } from "node:fs";
         writeFileSync(${JSON.stringify(out)}, process.argv.slice(2).join(" "));
         process.exit(7);`,
      );
      assert.equal(await runBench(["--socket", "/x", "--json"], program), 7);
      const { readFileSync } = await import("node:fs");
      assert.equal(readFileSync(out, "utf8"), "--socket /x --json");
      await assert.rejects(runBench([], join(folder, "gone.js")), { code: "unsupported" });
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe("figures and words", () => {
  test("for people", () => {
    assert.deepEqual([0, 9.5, 999, 84_100, 2.5e6].map(formatCount), [
      "0",
      "9.5",
      "999",
      "84.1k",
      "2.50M",
    ]);
    assert.deepEqual([0, 59, 61, 3600, 90_061].map(formatDuration), [
      "0s",
      "59s",
      "1m1s",
      "1h",
      "1d1h",
    ]);
    assert.deepEqual([1.26, 42, 1500, 2.5e6].map(formatMicroseconds), [
      "1.3 us",
      "42 us",
      "1.50 ms",
      "2.50 s",
    ]);
  });

  test("shell words and terminal control", () => {
    assert.equal(quoteForShell("/a/b-c.sock"), "/a/b-c.sock");
    assert.equal(quoteForShell("it's"), "'it'\\''s'");
    assert.equal(printable("a\u001b[2J\u009bb"), "a?[2J?b");
    const table = { columns: [{ title: "A" }, { title: "B", wide: true }], rows: [["x\ny", "z"]] };
    assert.equal(renderTable(table, { form: "table", headers: true }), "A\nx?y\n");
  });
});
