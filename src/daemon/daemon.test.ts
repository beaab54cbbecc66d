// ringstored as a process: start, restart after kill -9, one per directory, clean stop, reload,
// what it refuses to start with, what systemd is told.

import assert from "node:assert/strict";
import { chmodSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { DaemonProcess, type Ended, Scene } from "../testing/control/daemon-process.ts";
import { parseListen } from "./api-listener.ts";
import { groupIdOf } from "./data-directory.ts";

let scene: Scene;
beforeEach(() => {
  scene = new Scene();
});
afterEach(() => scene.end());

async function refusesToStart(daemon: DaemonProcess, code: number): Promise<string> {
  const ended = await daemon.ended();
  assert.equal(ended.code, code, ended.stderr);
  return ended.stderr;
}

function canConnect(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.on("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
}

async function mustDo(ended: Promise<Ended>): Promise<string> {
  const { code, stdout, stderr } = await ended;
  assert.equal(code, 0, stderr);
  return stdout;
}

describe("start", () => {
  test("makes the directory with modes that keep others out", async () => {
    await scene.daemon().ready();
    const mode = (path: string): string =>
      (statSync(join(scene.data, path)).mode & 0o777).toString(8);
    assert.equal(mode("."), "750");
    assert.equal(mode("state"), "700");
    assert.equal(mode("volumes"), "700");
    assert.equal(mode("vhost"), "750");
    assert.equal(mode("ringstored.sock"), "600");
    await mustDo(scene.cli("volume create v --size 1M"));
    await mustDo(scene.cli("volume attach v"));
    assert.equal(mode("vhost/v.sock"), "660");
    assert.equal(mode("state/v.json"), "600");
  });

  test("a second daemon on the directory is refused at once, the first goes on", async () => {
    const first = await scene.daemon().ready();
    const said = await refusesToStart(scene.daemon(), 1);
    assert.match(said, new RegExp(`another ringstored \\(pid ${first.pid}\\) serves this data`));
    assert.match(said, /stop it first, or use another --data directory/);
    await mustDo(scene.cli("status"));
  });

  test("a path too long for a socket is refused with what to do", async () => {
    const long = join(scene.root, "x".repeat(90));
    const said = await refusesToStart(new DaemonProcess(["--data", long]), 1);
    assert.match(said, /the socket path .*ringstored.sock has 1\d\d bytes; Linux allows 107/);
    assert.match(said, /use a shorter --data directory/);
    assert.equal(existsSync(long), false);
  });

  const wrong: readonly (readonly [string, readonly string[], number, RegExp])[] = [
    ["an unknown flag", ["--pol-us", "1"], 2, /Unknown option '--pol-us'.*\n {2}see: ringstored/],
    ["a value out of range", ["--reactors", "0"], 2, /--reactors is 0, but must be a whole number/],
    ["a word for a number", ["--poll-us", "1x"], 2, /--poll-us is "1x", but must be/],
    ["an unknown level", ["--log-level", "loud"], 2, /must be one of debug, info, warn, error/],
    ["a stray word", ["serve"], 2, /Unexpected argument 'serve'/],
    ["a bad address", ["--listen", "8080"], 1, /--listen "8080" is not an address/],
    ["a missing group", ["--socket-group", "nobody-has-this"], 1, /--socket-group: there is no/],
    [
      "a missing token file",
      ["--listen", "127.0.0.1:0", "--token-file", "/nope"],
      1,
      /\/nope: ENOENT/,
    ],
    ["a missing configuration", ["--config", "/nope.yaml"], 2, /cannot read the configuration/],
    ["a data directory that is a file", ["--data", "/etc/passwd"], 1, /\/etc\/passwd/],
  ];
  for (const [what, args, code, message] of wrong) {
    test(`${what} is refused`, async () => {
      assert.match(await refusesToStart(scene.daemon(args), code), message);
    });
  }

  test("a damaged identity is refused by file and field, and kept", async () => {
    await (await scene.daemon().ready()).end();
    const path = join(scene.data, "node.json");
    writeFileSync(path, '{"id":"me"}');
    const said = await refusesToStart(scene.daemon(), 1);
    assert.match(said, /node\.json field id is "me", but must be a UUID/);
    assert.equal(readFileSync(path, "utf8"), '{"id":"me"}');
  });

  test("--help and --version need nothing", async () => {
    const { stdout } = await import("../testing/control/daemon-process.ts").then(({ run }) =>
      run(process.execPath, [
        new URL("../testing/control/fake-daemon.js", import.meta.url).pathname,
        "--help",
      ]),
    );
    assert.match(stdout, /^ringstored - serves volumes/);
    assert.match(stdout, /--reactors N\n/);
    for (const line of stdout.split("\n")) assert.ok(line.length <= 100, line);
  });

  test("a configuration file in YAML; flags go before it", async () => {
    const path = join(scene.root, "c.yaml");
    writeFileSync(path, "# settings\nlogLevel: debug\npollUs: 7\nlisten: 127.0.0.1:0\n");
    const daemon = await scene.daemon(["--config", path, "--log-level", "info"]).ready();
    assert.match(
      String((await daemon.line("api.listening"))["url"]),
      /^http:\/\/127\.0\.0\.1:\d+$/,
    );
    writeFileSync(path, "pollUs: fast\n");
    const said = await refusesToStart(
      new DaemonProcess(["--data", `${scene.data}2`, "--config", path]),
      2,
    );
    assert.match(said, /pollUs in .*c\.yaml is "fast", but must be a whole number/);
  });
});

describe("restart", () => {
  test("after kill -9 the same sockets are served again, memory and file alike", async () => {
    let daemon = await scene.daemon().ready();
    for (const [name, backing] of [
      ["f", "file"],
      ["m", "memory"],
      ["z", "null"],
      ["idle", "file"],
    ]) {
      await mustDo(scene.cli(`volume create ${name} --size 1M --backing ${backing}`));
      if (name !== "idle") await mustDo(scene.cli(`volume attach ${name} --queues 3`));
    }
    const before = await mustDo(scene.cli("volume list -o json"));
    for (let round = 0; round < 3; round++) {
      assert.equal((await daemon.end("SIGKILL")).signal, "SIGKILL");
      assert.equal(await canConnect(join(scene.data, "vhost", "f.sock")), false);
      daemon = await scene.daemon().ready();
      for (const name of ["f", "m", "z"]) {
        assert.equal(await canConnect(join(scene.data, "vhost", `${name}.sock`)), true, name);
      }
      assert.equal(await mustDo(scene.cli("volume list -o json")), before);
    }
    assert.deepEqual(readdirSync(join(scene.data, "vhost")).sort(), ["f.sock", "m.sock", "z.sock"]);
  });

  test("sockets are served before the rest is loaded", async () => {
    let daemon = await scene.daemon().ready();
    await mustDo(scene.cli("volume create v --size 1M"));
    await mustDo(scene.cli("volume attach v"));
    await daemon.end("SIGKILL");
    daemon = await scene.daemon().ready();
    const ready = await daemon.line("daemon.ready");
    const first = await daemon.line("fake.first-attach");
    // Not a bar on speed: that the order is kept shows on any machine.
    assert.ok(Number(first["atMs"]) <= Number(ready["servedMs"]));
    assert.ok(Number(ready["servedMs"]) < Number(ready["readyMs"]) / 1.5, JSON.stringify(ready));
  });

  test("a damaged declaration is named with file and field; others are served", async () => {
    const daemon = await scene.daemon().ready();
    for (const name of ["a", "b"]) {
      await mustDo(scene.cli(`volume create ${name} --size 1M`));
      await mustDo(scene.cli(`volume attach ${name}`));
    }
    await daemon.end("SIGKILL");
    const path = join(scene.data, "state", "a.json");
    const text = readFileSync(path, "utf8");
    writeFileSync(
      path,
      text.replace(/"checksum".*\n/, "").replace('"queueCountMax": 128', '"queueCountMax": 0'),
    );
    const again = await scene.daemon().ready();
    const line = await again.line("state.damaged");
    assert.equal(line["path"], path);
    assert.match(String(line["problem"]), /^field volume\.attachment.* is /);
    assert.equal(await canConnect(join(scene.data, "vhost", "b.sock")), true);
    assert.match(await mustDo(scene.cli("status")), /HEALTH_ERROR[\s\S]*STATE_DAMAGED: .*a\.json/);
    const shown = await scene.cli("volume show a");
    assert.equal(shown.code, 5);
    assert.match(shown.stderr, /a\.json field volume\.attachment/);
    assert.equal((await scene.cli("volume create a --size 1M")).code, 5);
    await again.end();
    writeFileSync(path, text);
    await scene.daemon().ready();
    assert.match(await mustDo(scene.cli("status")), /HEALTH_OK/);
  });

  test("one volume that cannot be served does not keep the others down", async () => {
    let daemon = await scene.daemon().ready();
    for (const name of ["good", "bad"]) {
      await mustDo(scene.cli(`volume create ${name} --size 1M`));
      await mustDo(scene.cli(`volume attach ${name}`));
    }
    await daemon.end("SIGKILL");
    const faults = { RINGSTORE_FAKE_FAULTS: "openVolume bad backing_in_use the file is locked" };
    daemon = await scene.daemon([], faults).ready();
    assert.equal(await canConnect(join(scene.data, "vhost", "good.sock")), true);
    assert.match(await mustDo(scene.cli("status")), /1 UNAVAILABLE/);
    const advice = await mustDo(scene.cli("advise"));
    assert.match(
      advice,
      /BACKING_UNAVAILABLE bad: .*the file is locked\n {4}ringstore volume attach bad/,
    );
    assert.equal((await scene.cli("volume resize bad 2M")).code, 5);
    assert.equal((await scene.cli("volume delete bad")).code, 5);
    assert.equal((await scene.cli("volume detach bad")).code, 0);
  });
});

describe("stop and signals", () => {
  test("SIGTERM and SIGINT: exit 0, sockets closed, attachments stay declared", async () => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      const daemon = await scene.daemon().ready();
      if (signal === "SIGTERM") {
        await mustDo(scene.cli("volume create v --size 1M"));
        await mustDo(scene.cli("volume attach v"));
      }
      const events = scene.cli("events -w");
      await new Promise((resolve) => setTimeout(resolve, 300));
      const ended = await daemon.end(signal);
      assert.deepEqual([ended.code, ended.signal], [0, null]);
      assert.equal(daemon.lines.at(-1)?.msg, "daemon.stopped");
      assert.notEqual((await events).code, 0);
      assert.equal(await canConnect(join(scene.data, "vhost", "v.sock")), false);
      const state = readFileSync(join(scene.data, "state", "v.json"), "utf8");
      assert.match(state, /"attachment": \{/);
    }
  });

  test("a signal at any moment of the start is not lost", async () => {
    // At the very moment of readiness, where listeners were once exchanged and signals lost; and
    // at moments before it.
    for (const moment of ["daemon.ready", "api.listening", 60, 120, 180, 240] as const) {
      for (let round = 0; round < 2; round++) {
        const daemon = scene.daemon();
        if (typeof moment === "string") await daemon.line(moment);
        else await new Promise((resolve) => setTimeout(resolve, moment));
        const ended = await daemon.end("SIGTERM");
        // Before the program runs at all, the signal has its ordinary effect.
        if (ended.signal !== "SIGTERM") assert.deepEqual([ended.code, ended.signal], [0, null]);
      }
    }
  });

  test("asked twice, it does not wait any longer", async () => {
    const daemon = await scene.daemon([], { RINGSTORE_FAKE_FAULTS: "stop  hang" }).ready();
    // Nothing to do with "stop": a data plane that never comes to its end.
    daemon.child.kill("SIGTERM");
    await daemon.line("daemon.stopping");
    const ended = await daemon.end("SIGTERM");
    assert.equal(ended.signal, "SIGKILL");
  });

  test("a defect ends the process by signal, with a stack in the log", async () => {
    const faults = { RINGSTORE_FAKE_FAULTS: "attach v defect the ring is upside down" };
    const daemon = await scene.daemon([], faults).ready();
    await mustDo(scene.cli("volume create v --size 1M"));
    void scene.cli("volume attach v");
    const ended = await daemon.ended();
    assert.equal(ended.signal, "SIGABRT");
    const line = await daemon.line("daemon.defect");
    assert.match(String(line["stack"]), /the ring is upside down\n\s+at /);
  });

  test("SIGHUP: new tokens and log level count, what needs a restart is named", async () => {
    const config = join(scene.root, "c.yaml");
    writeFileSync(config, "logLevel: info\npollUs: 5\n");
    const daemon = await scene.daemon(["--listen", "127.0.0.1:0", "--config", config]).ready();
    const url = String((await daemon.line("api.listening"))["url"]);
    const tokens = join(scene.data, "api.tokens");
    assert.equal((statSync(tokens).mode & 0o777).toString(8), "600");
    const cli = (file: string): Promise<Ended> =>
      scene.cliWords(["--url", url, "--token-file", file, "volume", "list"]);
    assert.equal((await cli(tokens)).code, 0);
    const old = join(scene.root, "old");
    writeFileSync(old, readFileSync(tokens));
    writeFileSync(tokens, `new:${"n".repeat(32)}\n`);
    chmodSync(tokens, 0o644);
    writeFileSync(config, "logLevel: debug\npollUs: 6\n");
    daemon.child.kill("SIGHUP");
    assert.equal((await daemon.line("daemon.reloaded"))["needsRestart"], "pollUs");
    await daemon.line("tokens.readable-by-others");
    assert.equal((await cli(tokens)).code, 0);
    const refused = await cli(old);
    assert.equal(refused.code, 10);
    assert.match(refused.stderr, /no valid bearer token/);
    // A reload that fails leaves everything as it was.
    writeFileSync(tokens, "short\n");
    daemon.child.kill("SIGHUP");
    const failed = await daemon.line("daemon.reload-failed");
    assert.match(String(failed["message"]), /line 1: the token has 5 characters/);
    writeFileSync(old, `new:${"n".repeat(32)}\n`);
    assert.equal((await cli(old)).code, 0);
  });
});

describe("small things", () => {
  test("listen addresses", () => {
    assert.deepEqual(parseListen("127.0.0.1:80"), { host: "127.0.0.1", port: 80 });
    assert.deepEqual(parseListen("[::1]:0"), { host: "::1", port: 0 });
    for (const bad of ["", ":80", "h:", "h:99999", "h:1x", "::1:80", "http://h:80"]) {
      assert.throws(() => parseListen(bad), /is not an address/, bad);
    }
  });

  test("groups by name and number", () => {
    assert.equal(groupIdOf("", "--g"), -1);
    assert.equal(groupIdOf("104", "--g"), 104);
    assert.equal(groupIdOf("root", "--g"), 0);
  });
});
