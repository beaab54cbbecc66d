// The pieces of the API that need no server: tokens and what hypervisors are told.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Volume } from "../model/types.ts";
import { attachReply } from "./guest-config.ts";
import { callerOf, parseTokens } from "./tokens.ts";

const TOKEN = "0123456789abcdef";

describe("tokens", () => {
  test("names, comments, a token alone", () => {
    const text = `# comment\n\nci: ${TOKEN}a\n  ${TOKEN}b  \nops.1:${TOKEN}:with:colons\n`;
    const tokens = parseTokens(text, "f");
    const whose = (token: string): string | null => callerOf(`Bearer ${token}`, tokens);
    assert.equal(whose(`${TOKEN}a`), "ci");
    assert.equal(whose(`${TOKEN}b`), "default");
    assert.equal(whose(`${TOKEN}:with:colons`), "ops.1");
    assert.equal(whose(TOKEN), null);
    assert.equal(callerOf(`bearer  ${TOKEN}a`, tokens), "ci");
    for (const header of [undefined, "", "Bearer", "Bearer ", `Basic ${TOKEN}a`, `${TOKEN}a`]) {
      assert.equal(callerOf(header, tokens), null);
    }
  });

  const bad: readonly (readonly [string, string, RegExp])[] = [
    ["nothing", "# only a comment\n", /^f holds no token$/],
    ["a short one", "a:short", /^f line 1: the token has 5 characters, which can be guessed/],
    ["a bad name", `\na b:${TOKEN}`, /^f line 2: the token's name is not a name/],
    ["a space inside", `a:${TOKEN} ${TOKEN}`, /^f line 1: the token is not printable/],
    ["too many", `a:${TOKEN}\n`.repeat(65), /^f holds 65 tokens/],
  ];
  for (const [what, text, message] of bad) {
    test(`${what} is refused, and the token is not repeated`, () => {
      assert.throws(
        () => parseTokens(text, "f"),
        (error: Error) => message.test(error.message) && !error.message.includes(TOKEN),
      );
    });
  }
});

function attached(socket: string, queueCountMax = 128): Volume {
  return {
    id: "i",
    name: "7db",
    sizeBytes: 1 << 20,
    blockBytes: 512,
    readOnly: false,
    serial: "s",
    backing: { kind: "null" },
    createdAt: "2026-01-01T00:00:00.000Z",
    state: "attached",
    attachment: {
      generation: 2,
      socket,
      queueCountMax,
      packedAllowed: true,
      readOnly: false,
      attachedAt: "2026-01-01T00:00:00.000Z",
      sessionCount: 0,
    },
    health: [],
  };
}

describe("what hypervisors are told", () => {
  test("QEMU: shared memory, reconnect in the unit of each version, an id that is legal", () => {
    const { qemu, qemuDevice } = attachReply(attached("/d/7db.sock"), true, 1536 * 1024 ** 2);
    assert.deepEqual(qemu["7.2"], [
      "-object",
      "memory-backend-memfd,id=ringstore-mem,size=1536M,share=on",
      "-machine",
      "memory-backend=ringstore-mem",
      "-chardev",
      "socket,id=ringstore-7db,path=/d/7db.sock,reconnect=1",
      "-device",
      "vhost-user-blk-pci,id=ringstore-7db-disk,chardev=ringstore-7db,num-queues=4",
    ]);
    assert.equal(qemu["9.2"][5], "socket,id=ringstore-7db,path=/d/7db.sock,reconnect-ms=1000");
    assert.deepEqual(qemuDevice["9.2"], qemu["9.2"].slice(4));
  });

  test("never more queues than the attachment allows", () => {
    const { qemu, libvirtXml } = attachReply(attached("/s", 2), true);
    assert.match(String(qemu["7.2"][7]), /num-queues=2$/);
    assert.match(libvirtXml, /queues='2'/);
  });

  test("paths are escaped for each reader", () => {
    const { qemu, libvirtXml } = attachReply(attached("/d/a,b&'c.sock"), true);
    assert.match(String(qemu["7.2"][5]), /path=\/d\/a,,b&'c\.sock,/);
    assert.match(libvirtXml, /path='\/d\/a,b&amp;&apos;c\.sock'/);
  });

  test("an iSCSI target: QEMU's own initiator, names as long as QEMU takes, no secret", () => {
    const target = "iqn.2024-01.io.ringstore:7db.0123456789ab";
    const classic = {
      target,
      lun: 0,
      portal: "[fe80::1]:3260",
      url: `iscsi://[fe80::1]:3260/${target}/0`,
      chapUser: "a,b",
      chapTargetUser: null,
      initiators: ["iqn.2026-01.test:h1"],
    };
    const volume = attached("");
    const { attachment } = volume;
    if (attachment === null) assert.fail();
    const served = { ...volume, attachment: { ...attachment, socket: null, classic } };
    const reply = attachReply(served, true);
    assert.equal(reply.socket, null);
    assert.deepEqual(reply.classic, classic);
    assert.deepEqual(reply.qemu["7.2"], [
      "-object",
      "secret,id=ringstore-7db-chap,file=CHAP-SECRET-FILE",
      "-blockdev",
      "driver=iscsi,node-name=ringstore-7db,transport=tcp,portal=[fe80::1]:3260," +
        `target=${target},lun=0,user=a,,b,password-secret=ringstore-7db-chap,` +
        "initiator-name=iqn.2026-01.test:h1,cache.direct=on",
      "-device",
      "virtio-blk-pci,id=ringstore-7db-disk,drive=ringstore-7db,write-cache=on",
    ]);
    assert.match(reply.libvirtXml, /<host name='fe80::1' port='3260'\/>/);
    assert.match(reply.libvirtXml, /<auth username='a,b'>/);
    const long = attachReply({ ...served, name: "x".repeat(63) }, true);
    assert.match(String(long.qemu["7.2"][3]), /node-name=ringstore-0123456789ab,/);
  });

  test("libvirt: the disk and the memory it needs", () => {
    const { libvirtXml, libvirtMemoryXml } = attachReply(attached("/s"), false);
    assert.match(libvirtXml, /^<disk type='vhostuser' device='disk'>/);
    assert.match(libvirtXml, /<reconnect enabled='yes' timeout='1'\/>/);
    assert.match(libvirtMemoryXml, /<source type='memfd'\/>\n {2}<access mode='shared'\/>/);
  });
});
