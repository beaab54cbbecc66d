// The commands on a cluster as a person and as a script use them: the real program, over a unix
// socket, against a control plane that is made up.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { ClusterInit } from "../model/cluster-types.ts";
import { type Ended, run } from "../testing/control/daemon-process.ts";
import {
  CLUSTER_TOKEN,
  type FakeClusterApi,
  serveFakeCluster,
} from "../testing/control/fake-cluster.ts";

const CLI = fileURLToPath(new URL("./main.js", import.meta.url));
const GIB = 2 ** 30;
const INIT = "cluster init prod --address 10.0.0.1:7400 --metadata 10.0.0.1:2379";
const JOIN = "cluster join --address 10.0.0.1:7400 --cluster-token-file";

let folder = "";
let tokenFile = "";
let api: FakeClusterApi;

before(() => {
  folder = mkdtempSync(join(tmpdir(), "ringstore-"));
  tokenFile = join(folder, "token");
  writeFileSync(tokenFile, `${CLUSTER_TOKEN}\n`);
});
after(() => rmSync(folder, { recursive: true }));
beforeEach(async () => {
  api = await serveFakeCluster(folder);
});
afterEach(async () => {
  await api.server.close();
});

/** Words as one string; quote nothing. */
async function cli(words: string, input = ""): Promise<Ended> {
  const all = [CLI, "--data", folder, ...words.split(" ").filter(Boolean)];
  return await run(process.execPath, all, { input });
}

async function done(words: string, input = ""): Promise<string> {
  const { code, stdout, stderr } = await cli(words, input);
  assert.equal(code, 0, `${words}: ${stderr}`);
  return stdout;
}

async function fails(words: string, code: number, input = ""): Promise<string> {
  const ended = await cli(words, input);
  assert.equal(ended.code, code, `${words}: ${ended.stdout}${ended.stderr}`);
  assert.equal(ended.stdout, "", "errors leave stdout empty");
  return ended.stderr;
}

describe("cluster", () => {
  test("init: every server of the metadata is told, a dry run makes nothing", async () => {
    const words = `${INIT} --metadata http://10.0.0.2:2379 --node-name host-9 --rack a`;
    assert.equal(
      await done(`${words} --dry-run`),
      "cluster prod would be made, this node is host-9\n",
    );
    assert.equal(api.plane.cluster.view, null);
    assert.equal(await done(words), "cluster prod made, this node is host-9\n");
    assert.deepEqual(api.plane.cluster.asked.at(-1), {
      name: "prod",
      address: "10.0.0.1:7400",
      metadata: ["10.0.0.1:2379", "http://10.0.0.2:2379"],
      nodeName: "host-9",
      rack: "a",
    });
    assert.match(await fails(INIT, 5), /^ringstore: this daemon is in cluster prod\n/);
  });

  test("join: the token comes from a file or from standard input", async () => {
    assert.equal(
      await done(`${JOIN} ${tokenFile} --dry-run`),
      "node host-1 would join cluster prod\n",
    );
    assert.equal(
      await done(`${JOIN} -`, `${CLUSTER_TOKEN}\n`),
      "node host-1 joined cluster prod\n",
    );
    assert.deepEqual(api.plane.cluster.asked.at(-1), {
      address: "10.0.0.1:7400",
      token: CLUSTER_TOKEN,
    });
    assert.ok(!api.log.join("\n").includes(CLUSTER_TOKEN));
  });

  const usage: readonly (readonly [string, RegExp])[] = [
    ["cluster init prod --metadata a:1", /--address is missing\n {2}give HOST:PORT/],
    ["cluster init prod --address a:1", /--metadata is missing\n {2}give the address of etcd/],
    ["cluster init --address a:1", /missing required argument 'name'/],
    ["cluster init Prod --address a:1 --metadata a:1", /"Prod" is not a cluster name/],
    ["cluster init p --address a --metadata a:1", /--address "a" is not an address/],
    ["cluster init p --address 0.0.0.0:1 --metadata a:1", /no address that another machine can/],
    ["cluster init p --address a:1 --metadata a:1 --metadata b", /--metadata "b" is not an addr/],
    ["cluster init p --address a:1 --metadata a:1 --rack R", /"R" is not a rack name/],
    ["cluster join --address a:1", /--cluster-token-file is missing/],
    ["cluster join --cluster-token-file /no/file", /--address is missing/],
    ["cluster join --address a:1 --cluster-token-file /no/file", /"\/no\/file": ENOENT/],
    ["cluster join --address a --cluster-token-file -", /--address "a" is not an address/],
    ["cluster join --address a:1 --cluster-token-file -", /the cluster's token is missing/],
    ["node show Host", /"Host" is not a node name/],
    ["node remove", /missing required argument 'name'/],
    ["volume create a --size 1G --replicas 4", /--replicas "4" is out of range\n {2}use 1 to 3/],
    ["volume create a --size 1G --replicas 0", /--replicas "0" is out of range/],
    ["volume create a --size 1G --replicas 2 --disk d", /--replicas does not go with --disk/],
    ["volume create a --size 1G --replicas 2 --path x", /--replicas does not go with --path/],
  ];
  for (const [words, message] of usage) {
    test(`2: ${words}`, async () => {
      assert.match(await fails(words, 2), message);
      assert.deepEqual(api.plane.cluster.asked, []);
    });
  }

  test("a token that is wrong is refused and not repeated", async () => {
    const wrong = `${CLUSTER_TOKEN}-not`;
    const two = `${CLUSTER_TOKEN}\n${CLUSTER_TOKEN}`;
    assert.ok(!(await fails(`${JOIN} -`, 10, wrong)).includes(CLUSTER_TOKEN));
    assert.ok(!(await fails(`${JOIN} -`, 2, two)).includes(CLUSTER_TOKEN));
  });

  test("--curl keeps the token to itself, and what it prints works", async () => {
    const printed = await done(`--curl ${JOIN} ${tokenFile}`);
    assert.match(printed, /^curl .* -d @- .*<<EOF\n.*"token":"\$CLUSTER_TOKEN".*\nEOF\n$/);
    assert.ok(!printed.includes(CLUSTER_TOKEN));
    assert.deepEqual(api.plane.cluster.asked, []);
    if ((await run("sh", ["-c", "command -v curl"])).code !== 0) return;
    await run("sh", ["-c", printed], { env: { CLUSTER_TOKEN } });
    assert.equal(api.plane.cluster.view?.name, "prod");
  });

  test("token prints it, and nothing else", async () => {
    assert.match(await fails("cluster token", 5), /this daemon is in no cluster/);
    await done(INIT);
    const { stdout, stderr } = await cli("cluster token");
    assert.deepEqual([stdout, stderr], [`${CLUSTER_TOKEN}\n`, ""]);
    assert.deepEqual(JSON.parse(await done("cluster token -o json")), { token: CLUSTER_TOKEN });
  });

  test("show, in every form; status has a line of it", async () => {
    const none = await cli("cluster show");
    assert.deepEqual([none.code, none.stdout], [0, ""]);
    assert.match(none.stderr, /in no cluster: ringstore cluster init, or cluster join/);
    assert.equal(await done("cluster show -o json"), "null\n");
    assert.doesNotMatch(await done("status"), /cluster/);
    await done(INIT);
    assert.match(
      await done("cluster show"),
      /^name +prod\n[\s\S]*metadata +10.0.0.1:2379\nnodes +2 of 3 alive\nvolumes +1, 1 with a copy/,
    );
    assert.match(await done("cluster show"), /can lose +0 nodes\nwarn +NODE_MISSING: host-3 does/);
    assert.equal(JSON.parse(await done("cluster show -o json")).liveNodeCount, 2);
    assert.match(await done("cluster show -o yaml"), /^id: \S+\nname: prod\n/);
    assert.equal(await done("cluster show -o name"), "prod\n");
    assert.match(
      await done("status"),
      /\n {2}cluster {2}prod: 2 of 3 nodes, 1 volume, 1 DEGRADED, can lose 0 nodes\n/,
    );
  });

  test("metadata that is away is said in capitals", async () => {
    await done(INIT);
    const view = api.plane.cluster.view;
    assert.ok(view !== null);
    api.plane.cluster.view = { ...view, metadata: { ...view.metadata, reachable: false } };
    assert.match(await done("status"), /metadata NOT REACHABLE\n/);
    assert.match(await done("cluster show"), /metadata +10.0.0.1:2379 \(not reachable\)\n/);
  });
});

describe("nodes", () => {
  beforeEach(async () => {
    await done(INIT);
  });

  test("list, show", async () => {
    const list = await done("node list");
    assert.match(list, /^NAME +STATE +ADDRESS +DISKS +SIZE +FREE +COPIES +OWNS +LINK\n/);
    assert.match(
      list,
      /\nhost-1 +alive +10.0.0.1:7400 +1 +100 GiB +60 GiB +1 +1 +this node\nhost-2 .* up\n/,
    );
    assert.match(list, /\nhost-3 +missing .* dialling\n/);
    assert.match(await done("node list -o wide"), /\nhost-2 .* up +b +2026-01-02T/);
    assert.equal(await done("node list -o name"), "host-1\nhost-2\nhost-3\n");
    assert.match(
      await done("node show host-1"),
      /^name +host-1\nstate +alive\n[\s\S]*\nowns +db1\ncopies of +db1\ndisk +nvme0, 60 GiB of 100/,
    );
    assert.equal(JSON.parse(await done("node show host-2 --json")).rack, "b");
    assert.match(await fails("node show host-4", 3), /the cluster has no node host-4/);
  });

  test("remove: one that is gone", async () => {
    assert.match(await fails("node remove host-2", 5), /node host-2 is alive/);
    const place = "db1: host-3 nvme0 -> nowhere: no other node has a disk with 1 GiB free";
    const told = `1 volume with a copy less: db1\n  ${place}\n`;
    assert.equal(
      await done("node remove host-3 --dry-run"),
      `node host-3 would be removed: ${told}`,
    );
    assert.equal(await done("node remove host-3"), `node host-3 removed: ${told}`);
    await fails("node remove host-3", 3);
  });

  test("remove asks on a terminal, naming what loses a copy", async () => {
    const command = `"${process.execPath}" "${CLI}" --data "${folder}" node remove host-3`;
    const no = await run("script", ["-qec", command, "/dev/null"], { input: "n\n" });
    assert.match(no.stdout, /volumes that lose a copy: db1/);
    assert.match(no.stdout, /Forget node host-3 and its copies for good\? \[y\/N\]/);
    assert.equal(no.code, 1);
    assert.equal(api.plane.cluster.nodes.length, 3);
  });

  test("drain: where copies would go; off they are; called off; refused without a place", async () => {
    const to = "\n  db1: host-2 nvme0 -> host-3 nvme0\n";
    assert.equal(await done("node drain host-2 --dry-run"), `node host-2 would lose 1 copy${to}`);
    assert.equal(api.plane.cluster.nodes[1]?.phase, "active");
    const going = `node host-2 is being emptied: 1 copy to move${to}`;
    assert.equal(await done("node drain host-2 --no-wait"), going);
    assert.match(await done("node list"), /\nhost-2 +alive, draining /);
    assert.equal(await done("node drain host-2"), "node host-2 is empty\n");
    const kept = "node host-2 keeps what is on it: 1 copy\n";
    assert.equal(await done("node drain host-2 --cancel"), kept);
    assert.match(await done("node show host-2"), /\nstate +alive\n/);
    assert.match(await fails("node drain host-3", 10), /no place for copies of db1/);
    assert.match(
      await done("disk drain nvme0 --no-wait"),
      /^disk nvme0 is being emptied: 1 copy to move\n/,
    );
  });

  test("rebuild list", async () => {
    const none = await cli("rebuild list");
    assert.match(none.stderr, /bring no copy up to date/);
    const why = { reason: "missing", stage: "copying" } as const;
    const about = { volume: "db1", node: "host-3", disk: "nvme0", ...why };
    const done4 = { doneBytes: 4 * GIB, totalBytes: 10 * GIB, isTotalKnown: true };
    const more = { ...done4, isTotalKnown: false };
    api.plane.cluster.work = [
      { ...about, ...done4, bytesPerSecond: GIB / 8, secondsLeft: 48 },
      { ...about, volume: "db2", ...more, bytesPerSecond: 0, secondsLeft: null },
    ];
    assert.match(
      await done("rebuild list --no-headers"),
      /^db1 +host-3 +nvme0 +missing +copying +4 GiB +10 GiB +40% +128 MiB\/s +48s\ndb2 .* >= 10 GiB +- .* -\n$/,
    );
    assert.equal(await done("rebuild list -o name"), "db1\ndb2\n");
  });

  test("rebuild limit: shown, set, refused", async () => {
    assert.equal(await done("rebuild limit"), "rebuild limit: auto, now at most 16 MiB/s\n");
    assert.equal(await done("rebuild limit 200M"), "rebuild limit: 200 MiB/s\n");
    assert.equal(await done("rebuild limit"), "rebuild limit: 200 MiB/s\n");
    assert.match(await fails("rebuild limit 1K", 2), /a rate of "1K" cannot be.*\n.*64K to 1T/);
    assert.match(await fails("rebuild limit fast", 2), /the rate: "fast" is not a size/);
    assert.equal(api.plane.cluster.limit.bytesPerSecond, 200 * 1_048_576);
    assert.match(await done("rebuild limit auto"), /^rebuild limit: auto/);
    assert.equal(api.plane.cluster.limit.bytesPerSecond, null);
  });
});

describe("volumes of the cluster", () => {
  test("create says where the copies go", async () => {
    assert.equal(
      await done("volume create db1 --size 1G --replicas 2 --dry-run"),
      "volume db1 would be created: 1 GiB, 2 copies: host-1/nvme0, host-2/nvme0\n",
    );
    assert.equal(api.plane.volumes.size, 0);
    await done("volume create db1 --size 1G --replicas 2");
    assert.match(await done("volume list --no-headers"), /^db1 +1 GiB +detached +2 copies +ok\n$/);
    assert.match(await done("volume list -o wide"), / host-1\/nvme0, host-2\/nvme0 /);
    assert.match(await done("volume delete db1"), /^volume db1 deleted: 2 copies\n$/);
  });

  test("list and show tell of every copy, the owner, and who has it", async () => {
    const volume = api.plane.volumeOf({ name: "db1", sizeBytes: GIB, replicas: 3 }, [
      {},
      { state: "resyncing", resync: { doneBytes: 4 * GIB, totalBytes: 10 * GIB } },
      { state: "out", reason: "missing", since: "2026-01-02T03:04:05.678Z" },
    ]);
    const backing = { ...volume.backing, owner: "host-2", attachedTo: "host-2" };
    api.plane.volumes.set("db1", { ...volume, backing: backing as typeof volume.backing });
    assert.match(
      await done("volume list --no-headers"),
      /^db1 +1 GiB +on host-2 +3 copies, 1 resyncing, 1 out +ok\n$/,
    );
    const shown = await done("volume show db1");
    assert.match(shown, /\nstate +on host-2\n/);
    assert.match(shown, /\nowner +host-2, epoch 4\nattached to +host-2\n/);
    assert.match(shown, /\ncopy +host-1\/nvme0: in-sync\n/);
    assert.match(shown, /\ncopy +host-2\/nvme0: resyncing 40% \(4 GiB of 10 GiB\)\n/);
    assert.match(shown, /\ncopy +host-3\/nvme0: out since 2026-01-02T03:04:05.678Z: missing\n/);
  });

  test("attach takes a volume from another node only with --take-over", async () => {
    const volume = api.plane.volumeOf({ name: "db1", sizeBytes: GIB, replicas: 2 });
    const backing = { ...volume.backing, attachedTo: "host-2" };
    api.plane.volumes.set("db1", { ...volume, backing: backing as typeof volume.backing });
    assert.match(await fails("volume attach db1", 5), /node host-2 has volume db1/);
    assert.match(await done("volume attach db1 --take-over"), /^socket {2}\/run\/db1.sock\n/);
    assert.deepEqual(api.plane.attachRequest, { takeOver: true });
    const command = `"${process.execPath}" "${CLI}" --data "${folder}" volume attach db1 --take-over`;
    api.plane.attachRequest = null;
    const no = await run("script", ["-qec", command, "/dev/null"], { input: "n\n" });
    assert.match(no.stdout, /Take volume db1 from node host-2\? A guest there loses the disk\./);
    assert.equal(no.code, 1);
    assert.equal(api.plane.attachRequest, null);
  });
});

describe("moves", () => {
  test("a volume is handed over, or it is said why not", async () => {
    await done(INIT);
    assert.equal(await done("volume hand-over db1 host-2"), "volume db1 is on node host-2\n");
    const same = await done("volume hand-over db1 host-1");
    assert.equal(same, "volume db1 was already on node host-1\n");
    assert.match(await fails("volume hand-over db1 host-3", 5), /serves a guest/);
  });

  test("a node is put aside and taken back; what moves and what stays is told", async () => {
    await done(INIT);
    const words = "node maintenance on host-1";
    const would = await done(`${words} --dry-run`);
    assert.match(
      would,
      /^node host-1 would be in maintenance\nvolume db1 would be on node host-2\n/,
    );
    assert.doesNotMatch(await done("node list"), /maintenance/);
    assert.match(await done(words), /\nvolume db2 stays there: its guest runs there\n$/);
    assert.match(await done("node list"), /host-1 +alive, maintenance/);
    assert.equal(await done("node maintenance off host-1"), "node host-1 is active\n");
    assert.match(await fails("node maintenance maybe host-1", 2), /neither on nor off/);
  });
});

describe("the metadata as a whole", () => {
  test("export and import: paths are made absolute for the daemon; a dry run asks for nothing", async () => {
    await done(INIT);
    const archive = join(process.cwd(), "archive");
    assert.match(
      await done("cluster export archive"),
      new RegExp(`revision 77, saved to ${archive}`),
    );
    assert.match(await done("cluster import archive --dry-run"), /generation 3, can be put back/);
    assert.equal(api.plane.cluster.asked.length, 1);
    assert.match(await done("cluster import archive"), /generation 3, put back/);
    assert.deepEqual(api.plane.cluster.asked.at(-1), { path: archive });
  });

  test("recover: what is made, from which copy, and what is lost", async () => {
    await done(INIT);
    assert.match(await fails("cluster recover", 2), /--from-disks is missing/);
    const shown = await done("cluster recover --from-disks --dry-run");
    assert.match(shown, /^cluster prod would be made again, generation 4\n/);
    assert.match(shown, /db1, 1 GiB, 2 of 3 copies: from host-2\/nvme0, resynced to host-1/);
    assert.match(shown, /was attached on host-1\n {10}lost: its name\n/);
    assert.match(shown, /copies missing of {2}db1\n {2}lost {4}attachments\n$/);
    assert.equal(api.plane.cluster.asked.length, 1);
    await done("cluster recover --from-disks --partial");
    assert.deepEqual(api.plane.cluster.asked.at(-1), { partial: true });
  });

  test("access to the metadata: files are the daemon's, the password is in no output", async () => {
    const secret = join(folder, "password");
    writeFileSync(secret, "hunter2\n");
    const access = `--metadata-ca ca.pem --metadata-user u --metadata-password-file ${secret}`;
    const printed = await done(`--curl ${INIT} ${access}`);
    assert.match(printed, /"metadataPassword":"\$METADATA_PASSWORD"/);
    assert.ok(!printed.includes("hunter2"));
    const out = await done(`${INIT} ${access} -o json`);
    assert.ok(!`${out}${api.log.join("")}`.includes("hunter2"));
    const { metadataCa, metadataPassword } = api.plane.cluster.asked.at(-1) as ClusterInit;
    assert.deepEqual([metadataCa, metadataPassword], [join(process.cwd(), "ca.pem"), "hunter2"]);
    assert.match(await fails(`${INIT} --metadata-user u`, 2), /a user of the metadata without/);
    assert.match(await fails(`${INIT} --metadata-cert c`, 2), /and its key go together/);
  });
});
