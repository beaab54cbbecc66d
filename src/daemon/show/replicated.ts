// The second half of `npm start`: a volume with two copies on three nodes, a guest on it, and a
// node that dies under load.
//
//   1. three nodes (nodes.ts), the volume `vm1` with two copies, attached on node1
//   2. a guest writes and verifies all the time; the node with the other copy is killed
//   3. the guest goes on; the node comes back; what it missed is brought to it
//   4. the guest reads the whole volume; then it is attached on the other node, and another guest
//      reads the whole of the other copy: the same bytes
//
// Can be run again at once: everything that is there is used as it is.

import { setTimeout as sleep } from "node:timers/promises";
import { formatBytes, MIB } from "../../base/index.ts";
import type { ClusterBackingView, VolumeCopy } from "../../model/cluster-types.ts";
import { bootGuest, type Guest } from "../../vm/index.ts";
import type { ShowCluster, ShowNode } from "./nodes.ts";

const VOLUME = "vm1";
/** Of the verified writes: at most so much of the volume, over and over. */
const LOAD_MIB_MAX = 64;
const WITHOUT_MS = 4000;
const SOON_MS = 120_000;
const POLL_MS = 200;
const HASH_TIMEOUT_MS = 300_000;
const LOAD_TIMEOUT_MS = 600_000;

type Say = (text: string) => void;

interface Shown {
  readonly backing: ClusterBackingView;
}

/** A guest's verified writes, one run after the other until it is told to stop. */
function startLoad(guest: Guest, sizeMib: number): Promise<unknown> {
  const loadMib = Math.min(sizeMib, LOAD_MIB_MAX);
  const fio =
    `fio --name=verified --filename=/dev/vda --rw=randwrite --bs=4k --size=${loadMib}M ` +
    "--direct=1 --ioengine=libaio --iodepth=16 --verify=crc32c --verify_backlog=256 " +
    "--verify_fatal=1 --time_based --runtime=3 --minimal --eta=never";
  return guest.must(`until [ -e /tmp/stop ]; do ${fio} >/dev/null || exit 1; done`, {
    timeoutMs: LOAD_TIMEOUT_MS,
  });
}

async function hashInGuest(guest: Guest, sizeMib: number): Promise<string> {
  await guest.must("sync; echo 3 >/proc/sys/vm/drop_caches");
  const text = await guest.must(`dd if=/dev/vda bs=1M count=${sizeMib} 2>/dev/null | sha256sum`, {
    timeoutMs: HASH_TIMEOUT_MS,
  });
  return text.slice(0, 64);
}

export class ReplicatedShow {
  private readonly cluster: ShowCluster;
  private readonly say: Say;
  private sizeMib: number;

  /** `sizeMib`: of the volume, unless it is there and has one. */
  constructor(cluster: ShowCluster, sizeMib: number, say: Say) {
    this.cluster = cluster;
    this.sizeMib = sizeMib;
    this.say = say;
  }

  private get first(): ShowNode {
    return this.cluster.nodes[0] as ShowNode;
  }

  private async copies(at: ShowNode): Promise<readonly VolumeCopy[]> {
    const { backing } = (await this.cluster.tool(at, ["volume", "show", VOLUME])) as Shown;
    return backing.copies;
  }

  private async ensureVolume(): Promise<void> {
    const { volumes } = (await this.cluster.tool(this.first, ["volume", "list"])) as {
      readonly volumes: readonly { readonly name: string; readonly sizeBytes: number }[];
    };
    const present = volumes.find(({ name }) => name === VOLUME);
    if (present !== undefined) {
      this.sizeMib = present.sizeBytes / MIB;
      return;
    }
    const size = ["--size", `${this.sizeMib}M`, "--replicas", "2"];
    await this.cluster.tool(this.first, ["volume", "create", VOLUME, ...size]);
  }

  private async attach(at: ShowNode): Promise<string> {
    const words = ["volume", "attach", VOLUME];
    const { socket } = (await this.cluster.tool(at, words)) as { readonly socket: string };
    return socket;
  }

  private async boot(socket: string): Promise<Guest> {
    const queueCount = 2;
    return await bootGuest({
      log: () => undefined,
      cpuCount: queueCount,
      disks: [{ kind: "vhost-user-blk", socket, queueCount }],
    });
  }

  async run(): Promise<void> {
    const { say, first } = this;
    await this.ensureVolume();
    const { sizeMib } = this;
    const socket = await this.attach(first);
    const copies = await this.copies(first);
    const where = copies.map(({ node, disk }) => `${node} (${disk})`).join(" and ");
    say(
      `Volume ${VOLUME}, ${sizeMib} MiB, has copies on ${where}; it is attached on ${first.name}.`,
    );
    const otherCopy = copies.find(({ node }) => node !== first.name) as VolumeCopy;
    const other = this.cluster.nodeNamed(otherCopy.node);
    await this.until(first, otherCopy.node, "in-sync");
    const guest = await this.boot(socket);
    let hash: string;
    try {
      await guest.must(`dd if=/dev/urandom of=/dev/vda bs=1M count=${sizeMib} 2>/dev/null; sync`, {
        timeoutMs: HASH_TIMEOUT_MS,
      });
      await this.loseNode(guest, other);
      hash = await hashInGuest(guest, sizeMib);
      await guest.shutdown();
    } finally {
      await guest.kill();
    }
    await this.compare(other, hash);
  }

  private async loseNode(guest: Guest, other: ShowNode): Promise<void> {
    const { say, first } = this;
    const load = startLoad(guest, this.sizeMib);
    load.catch(() => undefined);
    await sleep(POLL_MS * 10);
    say(`A guest writes and verifies. ${other.name} is killed.`);
    await this.cluster.kill(other);
    await this.until(first, other.name, "out");
    say(`Its copy is out; the guest goes on with the one on ${first.name}.`);
    await sleep(WITHOUT_MS);
    await this.cluster.restart(other);
    say(`${other.name} is back.`);
    await this.until(first, other.name, "in-sync");
    say("Its copy is in sync again.");
    await guest.must("touch /tmp/stop");
    await load;
    say("The guest has seen no error and no wrong byte.");
  }

  /** Waits, and shows a resync that is under way. */
  private async until(at: ShowNode, node: string, state: VolumeCopy["state"]): Promise<void> {
    const deadline = Date.now() + SOON_MS;
    let told = "";
    for (;;) {
      const copy = (await this.copies(at)).find((one) => one.node === node);
      if (copy?.state === state) return;
      const { resync = null } = copy ?? {};
      if (resync !== null && resync.totalBytes > 0) {
        const percent = Math.floor((100 * resync.doneBytes) / resync.totalBytes);
        const line = `Resync of ${node}: ${percent} % of ${formatBytes(resync.totalBytes)}`;
        if (line !== told) this.say(line);
        told = line;
      }
      if (Date.now() > deadline) throw new Error(`the copy on ${node} is ${copy?.state}`);
      await sleep(POLL_MS);
    }
  }

  private async compare(other: ShowNode, hash: string): Promise<void> {
    const { say, first, sizeMib } = this;
    await this.cluster.tool(first, ["volume", "detach", VOLUME]);
    const socket = await this.attach(other);
    const guest = await this.boot(socket);
    let there: string;
    try {
      there = await hashInGuest(guest, sizeMib);
      await guest.shutdown();
    } finally {
      await guest.kill();
    }
    say("");
    say(`Read in the guest on ${first.name}   ${sizeMib} MiB   sha256 ${hash.slice(0, 16)}…`);
    say(`Read in a guest on ${other.name}    ${sizeMib} MiB   sha256 ${there.slice(0, 16)}…`);
    if (there !== hash) throw new Error("the two copies differ");
    say("The same bytes.");
    await this.cluster.tool(other, ["volume", "detach", VOLUME]);
    await this.attach(first);
  }
}
