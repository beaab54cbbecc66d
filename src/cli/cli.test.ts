// ringstore as a person and as a script uses it, against a real daemon process over the fake data
// plane: every exit code, every form of output, what goes to which stream.

import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { type DaemonProcess, type Ended, run, Scene } from "../testing/control/daemon-process.ts";

const FAULTS = [
  "attach nospace no_space the filesystem is full",
  "attach unsupported unsupported this kernel cannot",
  "attach hangs hang",
  "attach broken strange the device answers nonsense",
].join("\n");

const scene = new Scene();
let daemon: DaemonProcess;
let url = "";
let tokenFile = "";

before(async () => {
  daemon = scene.daemon(["--listen", "127.0.0.1:0"], { RINGSTORE_FAKE_FAULTS: FAULTS });
  url = String((await (await daemon.ready()).line("api.listening"))["url"]);
  tokenFile = join(scene.data, "api.tokens");
});
after(() => scene.end());

async function done(words: string): Promise<string> {
  const { code, stdout, stderr } = await scene.cli(words);
  assert.equal(code, 0, `${words}: ${stderr}`);
  return stdout;
}

async function fails(words: string | Promise<Ended>, code: number): Promise<string> {
  const ended = await (typeof words === "string" ? scene.cli(words) : words);
  assert.equal(ended.code, code, `${words}: ${ended.stdout}${ended.stderr}`);
  assert.equal(ended.stdout, "", "errors leave stdout empty");
  assert.match(ended.stderr, /^ringstore: /);
  return ended.stderr;
}

describe("the life of a volume in words", () => {
  test("create, list, show, attach, resize, detach, delete", async () => {
    assert.match(
      await done("volume create db1 --size 64M"),
      /^volume db1 created: 64 MiB, backing file\n$/,
    );
    assert.match(
      await done("volume list"),
      /^NAME +SIZE +STATE +BACKING +HEALTH\ndb1 +64 MiB +detached +file +ok\n$/,
    );
    assert.match(
      await done("volume show db1"),
      /^name +db1\nstate +detached\nsize +64 MiB \(67108864 bytes\)/,
    );
    const attached = await done("volume attach db1");
    const socket = join(scene.data, "vhost", "db1.sock");
    assert.ok(attached.startsWith(`socket  ${socket}\n`));
    assert.ok(
      attached.includes(`    -chardev socket,id=ringstore-db1,path=${socket},reconnect=1 \\\n`),
    );
    assert.ok(attached.includes(`path=${socket},reconnect-ms=1000`));
    assert.ok(attached.includes("<disk type='vhostuser' device='disk'>"));
    assert.match(await done("volume resize db1 128M"), /^volume db1 has 128 MiB\n$/);
    assert.match(await done("volume detach db1"), /^volume db1 detached\n$/);
    assert.match(await done("volume detach db1"), /^volume db1 was not attached\n$/);
    assert.match(
      await done("volume delete db1 --dry-run"),
      /^volume db1 would be deleted: \/.*\.img\n$/,
    );
    assert.match(await done("volume delete db1 --yes"), /^volume db1 deleted: \/.*\.img\n$/);
    assert.equal(await done("volume list --no-headers"), "");
  });

  test("attach -o json is for programs: the socket and argument lists for execve", async () => {
    await done("volume create j1 --size 1M --backing null");
    const reply = JSON.parse(await done("volume attach j1 -o json --vm-memory 512M")) as {
      socket: string;
      qemu: Record<string, string[]>;
      libvirtXml: string;
    };
    assert.equal(reply.socket, join(scene.data, "vhost", "j1.sock"));
    assert.ok(existsSync(reply.socket));
    assert.ok(
      reply.qemu["7.2"]?.includes("memory-backend-memfd,id=ringstore-mem,size=512M,share=on"),
    );
    assert.match(reply.qemu["9.2"]?.join(" ") ?? "", /reconnect-ms=1000/);
    assert.match(reply.libvirtXml, /^<disk/);
    const again = await scene.cli("volume attach j1 --json");
    assert.equal(JSON.parse(again.stdout).changed, false);
    assert.equal(again.stderr, "volume j1 was attached already\n");
    assert.match(
      await done("volume attach j1 --qemu 7.2"),
      /^-object memory\S+ -machine \S+ -chardev \S+ -device \S+\n$/,
    );
    assert.match(await done("volume attach j1 --libvirt-xml"), /^<disk[\s\S]*<\/disk>\n$/);
  });

  test("attach --classic: the URL, QEMU and libvirt; the secret is on no screen", async () => {
    const secret = "correct-horse-battery";
    writeFileSync(join(scene.root, "vm1.secret"), secret);
    await done("volume create c1 --size 1M --backing null");
    const attach = "volume attach c1 --classic --chap-user vm1 --chap-secret-file vm1.secret";
    const printed = await done(`--curl ${attach}`);
    assert.ok(printed.includes('"secret":"$CHAP_SECRET"'), printed);
    assert.ok(!printed.includes(secret));
    const shown = await done(`${attach} --initiator iqn.2026-01.com.example:h1`);
    const [, target = ""] = /^target {2}(\S+)$/m.exec(shown) ?? [];
    assert.match(target, /^iqn\.2024-01\.io\.ringstore:c1\.[0-9a-f]{12}$/);
    assert.ok(shown.startsWith(`url     iscsi://127.0.0.1:3260/${target}/0\n`), shown);
    const file = join(scene.root, "vm1.secret");
    assert.ok(shown.includes(`-object secret,id=ringstore-c1-chap,file=${file} \\\n`), shown);
    assert.ok(shown.includes(`portal=127.0.0.1:3260,target=${target},lun=0,user=vm1`));
    assert.ok(shown.includes(`<source protocol='iscsi' name='${target}/0'>`));
    const reply = JSON.parse(await done(`${attach} -o json`)) as Record<string, unknown>;
    assert.equal(reply["socket"], null);
    assert.equal(reply["changed"], false);
    const list = await done("volume list -o wide");
    assert.ok(list.includes(`iscsi://127.0.0.1:3260/${target}/0`), list);
    const show = await done("volume show c1");
    assert.match(show, /^chap +vm1$/m);
    assert.match(show, /^initiators +iqn\.2026-01\.com\.example:h1$/m);
    const seen = [shown, list, show, JSON.stringify(reply), daemon.stderr].join("\n");
    assert.ok(!seen.includes(secret), "no secret anywhere");
    assert.match(await done("volume detach c1"), /detached/);
  });

  test("attach --classic with a proof of the target: both names are shown, no secret is", async () => {
    const secrets = { own: "correct-horse-battery", target: "target-horse-staple" };
    writeFileSync(join(scene.root, "own.secret"), secrets.own);
    writeFileSync(join(scene.root, "target.secret"), `${secrets.target}\n`);
    await done("volume create c2 --size 1M --backing null");
    const own = "volume attach c2 --classic --chap-user vm1 --chap-secret-file own.secret";
    const attach = `${own} --chap-target-user db-1 --chap-target-secret-file target.secret`;
    const printed = await done(`--curl ${attach}`);
    const proof = '"user":"vm1","secret":"$CHAP_SECRET",';
    assert.ok(
      printed.includes(`${proof}"target":{"user":"db-1","secret":"$CHAP_TARGET_SECRET"}`),
      printed,
    );
    const same = await scene.cli(
      `${own} --chap-target-user d --chap-target-secret-file own.secret`,
    );
    assert.equal(same.code, 2);
    assert.match(same.stderr, /the target \("d"\) have the same CHAP secret\n {2}give the target/);
    const shown = await done(attach);
    assert.match(shown, /^proof {3}as db-1, to initiators that ask: open-iscsi .*, not QEMU$/m);
    assert.ok(shown.includes("lun=0,user=vm1,password-secret="), "QEMU logs in one way");
    const show = await done("volume show c2");
    assert.match(show, /^chap +vm1$/m);
    assert.match(show, /^target chap +db-1$/m);
    const json = await done("volume show c2 -o json");
    assert.equal(JSON.parse(json).attachment.classic.chapTargetUser, "db-1");
    const fewer = await scene.cli(own);
    assert.match(fewer.stderr, /volume c2 is attached with CHAP name db-1 of the target/);
    const seen = [printed, same.stderr, shown, show, json, fewer.stderr, daemon.stderr].join();
    for (const secret of Object.values(secrets)) assert.ok(!seen.includes(secret));
    assert.match(await done("volume detach c2"), /detached/);
    assert.doesNotMatch(await done("volume show c2"), /chap/);
  });

  test("a path is made absolute here, and is served, not copied or deleted", async () => {
    writeFileSync(join(scene.root, "theirs.img"), Buffer.alloc(2 << 20));
    assert.match(
      await done("volume create p1 --path theirs.img"),
      /2 MiB, backing \/.*theirs\.img\n$/,
    );
    await done("volume delete p1 -y");
    assert.ok(existsSync(join(scene.root, "theirs.img")));
  });
});

describe("forms of output", () => {
  before(async () => {
    await done("volume create form --size 1M --block-size 4096 --serial S-1 --read-only");
  });

  test("json, yaml, name, wide", async () => {
    const json = JSON.parse(await done("volume show form -o json")) as Record<string, unknown>;
    assert.equal(json["serial"], "S-1");
    assert.equal(json["blockBytes"], 4096);
    assert.equal(await done("--json volume show form"), await done("volume show form -o json"));
    assert.match(
      await done("volume show form -o yaml"),
      /^id: \S+\nname: form\nsizeBytes: 1048576\n/,
    );
    assert.equal(await done("volume show form -o name"), "form\n");
    assert.match(await done("volume list -o wide"), /read-only +S-1/);
    assert.match(await fails("volume list -o xml", 2), /--output "xml" is not one of its choices/);
  });

  test("status is short and quiet; rates appear with I/O", async () => {
    const status = await done("status");
    assert.ok(status.split("\n").length <= 16);
    assert.match(status, /^ringstored \S+ {2}HEALTH_OK {2}up /);
    assert.doesNotMatch(status, /!/);
    const advise = await scene.cli("advise");
    assert.deepEqual([advise.code, advise.stdout, advise.stderr], [0, "", "nothing needs doing\n"]);
  });

  test("top prints one table into a pipe, more when asked", async () => {
    await done("volume create top1 --size 1M --backing null");
    await done("volume attach top1");
    const once = await done("volume top top1 --interval 0.1");
    assert.match(once, /^NAME +READ\/S[^\n]*\ntop1 +0 +0 B\/s/);
    const twice = await done("volume top top1 --interval 0.1 -n 2 --no-headers");
    assert.equal(twice.split("\n").length, 3);
    const [rates] = JSON.parse(await done("volume top top1 --interval 0.1 -o json")).volumes;
    assert.equal(rates.name, "top1");
    assert.match(await fails("volume top form", 5), /volume form is not attached/);
  });

  test("events: so far, and live as JSON lines", async () => {
    assert.match(await done("events"), /volume\.created +form +1 MiB\n/);
    const cli = fileURLToPath(new URL("./main.js", import.meta.url));
    const { spawn } = await import("node:child_process");
    const child = spawn(process.execPath, [
      cli,
      "--data",
      scene.data,
      "events",
      "-w",
      "-o",
      "json",
    ]);
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (more: string) => void (text += more));
    await done("volume create live --size 1M");
    for (let tries = 0; !text.includes('"live"'); tries++) {
      assert.ok(tries < 3000, text);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    child.kill("SIGINT");
    for (const line of text.trim().split("\n")) assert.ok(JSON.parse(line).seq > 0);
  });

  test("version, api get", async () => {
    assert.match(await done("version"), /^ringstore \S+\nringstored \S+ \(API v1, Node v\d+/);
    assert.match(await done("--version"), /^\d+\.\d+\.\d+\n$/);
    assert.equal(JSON.parse(await done("api get /v1/version")).apiVersion, 1);
    assert.match(await done("api get /metrics"), /^# HELP ringstore_build_info/);
    const away = await scene.cliWords(["--data", "/nowhere", "version"]);
    assert.equal(away.code, 0);
    assert.match(away.stderr, /cannot connect to \/nowhere\/ringstored\.sock: ENOENT/);
  });

  test("--curl prints what would be sent, and it works", async () => {
    const printed = await done("--curl volume create curl1 --size 1M");
    assert.match(
      printed,
      /^curl -sS -X POST --unix-socket \S+ -H 'content-type: application\/json' -d /,
    );
    assert.equal((await scene.cli("volume show curl1")).code, 3, "nothing was sent");
    const ended = await run("sh", ["-c", "command -v curl"]);
    if (ended.code !== 0) return;
    await run("sh", ["-c", printed]);
    assert.equal((await scene.cli("volume show curl1")).code, 0);
    const words = ["--url", url, "--token-file", tokenFile, "--curl", "volume", "list"];
    const overTcp = await run("sh", ["-c", (await scene.cliWords(words)).stdout]);
    assert.match(overTcp.stdout, /"curl1"/);
  });
});

describe("exit codes", () => {
  const usage: readonly (readonly [string, RegExp])[] = [
    ["", /^Usage: ringstore/],
    ["frobnicate", /unknown command 'frobnicate'\n {2}see: ringstore --help/],
    ["volume", /^Usage: ringstore volume/],
    ["volume create", /missing required argument 'name'\n {2}see: ringstore volume create --help/],
    ["volume create a --siz 1G", /unknown option '--siz'\n\(Did you mean --size\?\)/],
    ["volume create a --size", /option '--size <SIZE>' argument missing/],
    ["volume create a --size 1X", /--size: "1X" is not a size\n {2}use a number with an optional/],
    ["volume create a --size 20", /a volume of 20 bytes is too small\n {2}use at least 1 MiB/],
    ["volume create A --size 1G", /"A" is not a volume name\n {2}use 1 to 63 lower-case/],
    ["volume create a", /--size is missing/],
    ["volume create a --size 1G --block-size 520", /--block-size "520" is not one of its choices/],
    ["volume create a --size 1G extra", /too many arguments/],
    [
      "volume create a --size 1G --backing memory --path /x",
      /path does not go with backing memory/,
    ],
    ["volume resize a big", /size: "big" is not a size/],
    ["volume attach a --queues 129", /--queues "129" is out of range\n {2}use 1 to 128/],
    ["volume attach a --queues x", /--queues "x" is out of range/],
    ["volume attach a --initiator iqn.2026-01.b:c", /--initiator needs --classic/],
    ["volume attach a --classic --queues 2", /--queues does not go with --classic/],
    ["volume attach a --classic --chap-user b", /--chap-user and --chap-secret-file are given/],
    ["volume attach a --chap-target-user b", /--chap-target-user needs --classic/],
    [
      "volume attach a --classic --chap-target-user b --chap-target-secret-file f",
      /--chap-target-user needs --chap-user\n {2}a target proves itself to initiators that have/,
    ],
    [
      "volume attach a --classic --chap-user b --chap-secret-file /dev/null --chap-target-user c",
      /--chap-target-user and --chap-target-secret-file are given together/,
    ],
    [
      "volume attach a --classic --chap-user b --chap-secret-file - --chap-target-user c" +
        " --chap-target-secret-file -",
      /both secrets cannot be read from standard input/,
    ],
    ["volume attach a --classic --initiator h1", /"h1" is not the name of an iSCSI initiator/],
    [
      "volume attach a --classic --chap-user b --chap-secret-file none",
      /cannot read the CHAP secret from none: ENOENT/,
    ],
    ["volume show ..", /"\.\." is not a volume name/],
    ["--timeout 0 status", /--timeout "0" is out of range/],
    ["--url http://x status", /--data and --url name two daemons/],
    ["api get v1/status", /is not a path of the API/],
    ["events -w -o yaml", /-o yaml does not go with --watch/],
    ["completion tcsh", /there is no completion for "tcsh"/],
    ["man volume frobnicate", /there is no page "volume frobnicate"/],
  ];
  for (const [words, message] of usage) {
    test(`2: ${words || "nothing"}`, async () => {
      const ended = await scene.cli(words);
      assert.equal(ended.code, 2, ended.stderr);
      assert.equal(ended.stdout, "");
      assert.match(ended.stderr, message);
    });
  }

  test("0: help, on stdout", async () => {
    for (const words of ["--help", "volume --help", "volume create --help", "help volume attach"]) {
      assert.match(await done(words), /^Usage: ringstore/);
    }
    assert.match(
      await done("volume attach --help"),
      /--queues <N>[\s\S]*--data <DIR>[\s\S]*Examples:/,
    );
    assert.match(await done("--help"), /Exit codes:\n {3}0 {2}done\n/);
  });

  test("3: not found", async () => {
    assert.match(
      await fails("volume show nope", 3),
      /volume "nope" does not exist\n {2}see: ringstore volume list/,
    );
    await fails("volume delete nope", 3);
    await fails("volume create a --path /no/such/file", 3);
  });

  test("4: unsupported", async () => {
    assert.match(await fails("api get /v1/nothing", 4), /there is no GET "\/v1\/nothing"/);
    await done("volume create unsupported --size 1M");
    assert.match(await fails("volume attach unsupported", 4), /this kernel cannot/);
  });

  test("5: wrong state", async () => {
    await done("volume create busy --size 1M");
    await fails("volume create busy --size 1M", 5);
    await done("volume attach busy");
    assert.match(
      await fails("volume delete busy", 5),
      /volume busy is attached\n {2}detach it first: ringstore volume detach busy/,
    );
    assert.match(
      await fails("volume attach busy --queues 2", 5),
      /attached with queueCountMax 128, not 2/,
    );
  });

  test("1: the device failed", async () => {
    await done("volume create broken --size 1M");
    assert.match(await fails("volume attach broken", 1), /cannot attach volume broken: the device/);
  });

  test("10: refused: no token, a wrong one, a path over TCP, no space", async () => {
    assert.match(
      await fails(scene.cliWords(["--url", url, "status"]), 10),
      /no valid bearer token/,
    );
    const path = ["--url", url, "--token-file", tokenFile, "volume", "create", "x", "--path"];
    assert.match(
      await fails(scene.cliWords([...path, "/etc/passwd"]), 10),
      /may not name the path/,
    );
    await done("volume create nospace --size 1M");
    assert.match(await fails("volume attach nospace", 10), /the filesystem is full/);
  });

  test("20: nobody there", async () => {
    const away = scene.cliWords(["--data", "/nowhere", "status"]);
    assert.match(
      await fails(away, 20),
      /to \/nowhere\/ringstored\.sock: ENOENT\n {2}start the daemon: ringstored --data \/nowhere/,
    );
    await fails(scene.cliWords(["--url", "http://127.0.0.1:1", "status"]), 20);
  });

  test("21: no answer in time", async () => {
    await done("volume create hangs --size 1M");
    const said = await fails("--timeout 0.5 volume attach hangs", 21);
    assert.match(said, /did not answer within 0\.5 s\n {2}the operation may still finish/);
  });

  const nonsense: readonly (readonly [string, string, string])[] = [
    ["a web page", "<html>hello</html>", "text/html"],
    ["other JSON", '{"hello":1}', "application/json"],
    ["nothing", "", "application/json"],
  ];
  for (const [what, body, type] of nonsense) {
    test(`22: ${what}`, async () => {
      const server = createServer((_, response) => {
        response.writeHead(200, { "content-type": type }).end(body);
      });
      await fails(
        withServer(server, (address) => scene.cliWords(["--url", address, "status"])),
        22,
      );
    });
  }

  test("22: what is no HTTP at all", async () => {
    const server = createTcpServer((socket) => socket.end("SSH-2.0-OpenSSH\r\n")) as Server;
    const asked = withServer(server, (address) => scene.cliWords(["--url", address, "status"]));
    assert.match(await fails(asked, 22), /does not speak HTTP/);
  });
});

async function withServer(
  server: Server,
  use: (address: string) => Promise<Ended>,
): Promise<Ended> {
  await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve));
  try {
    return await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.close();
  }
}

describe("habits", () => {
  test("the environment names the daemon; words go before it", async () => {
    const names = (ended: Ended): string => ended.stdout;
    const byData = await scene.cliWords(["volume", "list"], { RINGSTORE_DATA: scene.data });
    assert.equal(byData.code, 0);
    const environment = { RINGSTORE_URL: url, RINGSTORE_TOKEN_FILE: tokenFile };
    const byUrl = await scene.cliWords(["volume", "list"], environment);
    assert.equal(names(byUrl), names(byData));
    const both = await scene.cliWords(["--data", "/nowhere", "status"], environment);
    assert.equal(both.code, 20);
  });

  test("a pipe that is closed early is no error", async () => {
    const cli = fileURLToPath(new URL("./main.js", import.meta.url));
    const program = `"${process.execPath}" "${cli}" --data "${scene.data}"`;
    const command = `${program} api get /v1/openapi.json | head -1; echo "\${PIPESTATUS[0]}"`;
    const { stdout, stderr } = await run("bash", ["-c", command]);
    assert.match(stdout, /\n0\n$/, stderr);
    assert.equal(stderr, "");
  });

  test("on a terminal it asks before data is lost; no means nothing was done", async () => {
    await done("volume create asked --size 1M");
    const cli = fileURLToPath(new URL("./main.js", import.meta.url));
    const ask = (answer: string): Promise<Ended> =>
      run(
        "script",
        [
          "-qec",
          `"${process.execPath}" "${cli}" --data "${scene.data}" volume delete asked`,
          "/dev/null",
        ],
        { input: `${answer}\n` },
      );
    const no = await ask("n");
    assert.match(no.stdout, /Delete volume asked and its data\? \[y\/N\]/);
    assert.match(no.stdout, /nothing was done/);
    assert.equal(no.code, 1);
    assert.equal((await scene.cli("volume show asked")).code, 0);
    assert.equal((await ask("yes")).code, 0);
    assert.equal((await scene.cli("volume show asked")).code, 3);
  });

  test("a name from elsewhere does not steer the terminal", async () => {
    const { stderr } = await scene.cliWords(["--data", scene.data, "volume", "show", "\u001b[2J"]);
    assert.ok(!stderr.includes("\u001b"));
  });

  test("every mutating call of this test is in the daemon's log with its caller", () => {
    const calls = daemon.lines.filter((line) => line.msg === "api.call");
    assert.ok(calls.length > 10);
    assert.ok(calls.every((line) => line["caller"] !== undefined && line["status"] !== undefined));
    assert.ok(!daemon.stderr.includes(readFileSync(tokenFile, "utf8").split(":")[2] ?? "?"));
  });
});
