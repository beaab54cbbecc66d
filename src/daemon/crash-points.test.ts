// The daemon is killed before each single step of each operation, and started again. Whatever the
// point: nothing is orphaned, nothing that was answered is lost, nothing that was not promised is
// half there, and everything declared attached is served.

import assert from "node:assert/strict";
import { existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import type { Caller } from "../api/control-plane.ts";
import type { ClassicSpec } from "../ports/classic-plane.ts";
import type { ScsiSpec } from "../ports/scsi-plane.ts";
import { readDiskFile } from "../testing/control/fake-disk-file.ts";
import { HostFixture } from "../testing/control/host-fixture.ts";
import { socketPathOf } from "./data-directory.ts";
import { createDisk } from "./disk-operations.ts";
import { attachVolume, detachVolume } from "./volume-attach.ts";
import { createVolume, removeVolume, resizeVolume } from "./volume-operations.ts";

const MIB = 1024 * 1024;
const CALLER: Caller = { transport: "unix", name: "local" };
const DO_IT = { dryRun: false };

type Operation = (fixture: HostFixture) => Promise<unknown>;

interface Scenario {
  readonly name: string;
  readonly prepare: readonly Operation[];
  readonly operation: Operation;
  /** Sizes the volume may have afterwards; null = it may be gone. */
  readonly sizes: readonly (number | null)[];
  /** What it must be when the operation was answered. */
  readonly answered: number | null;
  /** May it be attached afterwards, and must it be when answered? */
  readonly attached: { readonly mayBe: readonly boolean[]; readonly answered: boolean };
}

const initDisk: Operation = async (fixture) => {
  const { disks } = fixture;
  const request = { path: join(fixture.root, "disk"), sizeBytes: 64 * MIB };
  const options = { ...DO_IT, allowPaths: [], usedFiles: [] };
  await createDisk(disks, request, CALLER, options);
  await fixture.settleDisks();
};
const createStored: Operation = ({ host }) =>
  createVolume(host, { name: "v", sizeBytes: MIB, backing: "store" }, CALLER, DO_IT);
const createFile: Operation = ({ host }) =>
  createVolume(host, { name: "v", sizeBytes: MIB }, CALLER, DO_IT);
const createMemory: Operation = ({ host }) =>
  createVolume(host, { name: "v", sizeBytes: MIB, backing: "memory" }, CALLER, DO_IT);
const createOverPath: Operation = (fixture) => {
  const path = join(fixture.root, "theirs.img");
  if (!existsSync(path)) writeFileSync(path, Buffer.alloc(MIB));
  return createVolume(fixture.host, { name: "v", path }, CALLER, DO_IT);
};
const attach: Operation = ({ host }) => attachVolume(host, "v", {});
const SECRET = "correct-horse-battery";
const TARGET_SECRET = "target-horse-battery";
const PROOF = { user: "vm1", secret: SECRET };
const MUTUAL = { ...PROOF, target: { user: "db", secret: TARGET_SECRET } };
const attachClassic: Operation = ({ host }) =>
  attachVolume(host, "v", { classic: { chap: PROOF } });
const attachMutual: Operation = ({ host }) =>
  attachVolume(host, "v", { classic: { chap: MUTUAL } });
const attachUnit: Operation = ({ host }) =>
  attachVolume(host, "v", { scsi: { controller: "k", lun: 3 } });
const detach: Operation = ({ host }) => detachVolume(host, "v");
const remove: Operation = ({ host }) => removeVolume(host, "v", DO_IT);
const resizeTo =
  (sizeBytes: number): Operation =>
  ({ host }) =>
    resizeVolume(host, "v", { sizeBytes, allowDataLoss: true }, DO_IT);

const NOT_ATTACHED = { mayBe: [false], answered: false } as const;
const STAYS_ATTACHED = { mayBe: [true], answered: true } as const;

const SCENARIOS: readonly Scenario[] = [
  {
    name: "create file",
    prepare: [],
    operation: createFile,
    sizes: [null, MIB],
    answered: MIB,
    attached: NOT_ATTACHED,
  },
  {
    name: "create memory",
    prepare: [],
    operation: createMemory,
    sizes: [null, MIB],
    answered: MIB,
    attached: NOT_ATTACHED,
  },
  {
    name: "create over a path",
    prepare: [],
    operation: createOverPath,
    sizes: [null, MIB],
    answered: MIB,
    attached: NOT_ATTACHED,
  },
  {
    name: "attach file",
    prepare: [createFile],
    operation: attach,
    sizes: [MIB],
    answered: MIB,
    attached: { mayBe: [false, true], answered: true },
  },
  {
    name: "attach memory",
    prepare: [createMemory],
    operation: attach,
    sizes: [MIB],
    answered: MIB,
    attached: { mayBe: [false, true], answered: true },
  },
  {
    name: "detach",
    prepare: [createFile, attach],
    operation: detach,
    sizes: [MIB],
    answered: MIB,
    attached: { mayBe: [false, true], answered: false },
  },
  {
    name: "attach as a target",
    prepare: [createFile],
    operation: attachClassic,
    sizes: [MIB],
    answered: MIB,
    attached: { mayBe: [false, true], answered: true },
  },
  {
    name: "attach as a target that proves itself",
    prepare: [createFile],
    operation: attachMutual,
    sizes: [MIB],
    answered: MIB,
    attached: { mayBe: [false, true], answered: true },
  },
  {
    name: "detach a target that proves itself",
    prepare: [createFile, attachMutual],
    operation: detach,
    sizes: [MIB],
    answered: MIB,
    attached: { mayBe: [false, true], answered: false },
  },
  {
    name: "detach a target",
    prepare: [createFile, attachClassic],
    operation: detach,
    sizes: [MIB],
    answered: MIB,
    attached: { mayBe: [false, true], answered: false },
  },
  {
    name: "attach as a unit",
    prepare: [createFile],
    operation: attachUnit,
    sizes: [MIB],
    answered: MIB,
    attached: { mayBe: [false, true], answered: true },
  },
  {
    name: "detach a unit",
    prepare: [createFile, attachUnit],
    operation: detach,
    sizes: [MIB],
    answered: MIB,
    attached: { mayBe: [false, true], answered: false },
  },
  {
    name: "delete after secrets that were left behind",
    prepare: [
      createFile,
      ({ host }) =>
        host.modules.classic.saveSecrets(host.find("v").declared.id, {
          secret: SECRET,
          targetSecret: TARGET_SECRET,
        }),
    ],
    operation: remove,
    sizes: [null, MIB],
    answered: null,
    attached: NOT_ATTACHED,
  },
  {
    name: "grow detached",
    prepare: [createFile],
    operation: resizeTo(2 * MIB),
    sizes: [MIB, 2 * MIB],
    answered: 2 * MIB,
    attached: NOT_ATTACHED,
  },
  {
    name: "grow attached",
    prepare: [createFile, attach],
    operation: resizeTo(2 * MIB),
    sizes: [MIB, 2 * MIB],
    answered: 2 * MIB,
    attached: STAYS_ATTACHED,
  },
  {
    name: "shrink attached",
    prepare: [createFile, resizeTo(4 * MIB), attach],
    operation: resizeTo(MIB),
    sizes: [MIB, 4 * MIB],
    answered: MIB,
    attached: STAYS_ATTACHED,
  },
  {
    name: "shrink detached",
    prepare: [createFile, resizeTo(4 * MIB)],
    operation: resizeTo(MIB),
    sizes: [MIB, 4 * MIB],
    answered: MIB,
    attached: NOT_ATTACHED,
  },
  {
    name: "grow attached memory",
    prepare: [createMemory, attach],
    operation: resizeTo(2 * MIB),
    sizes: [MIB, 2 * MIB],
    answered: 2 * MIB,
    attached: STAYS_ATTACHED,
  },
  {
    name: "delete file",
    prepare: [createFile],
    operation: remove,
    sizes: [null, MIB],
    answered: null,
    attached: NOT_ATTACHED,
  },
  {
    name: "delete memory",
    prepare: [createMemory],
    operation: remove,
    sizes: [null, MIB],
    answered: null,
    attached: NOT_ATTACHED,
  },
  {
    name: "create in the store",
    prepare: [initDisk],
    operation: createStored,
    sizes: [null, MIB],
    answered: MIB,
    attached: NOT_ATTACHED,
  },
  {
    name: "attach in the store",
    prepare: [initDisk, createStored],
    operation: attach,
    sizes: [MIB],
    answered: MIB,
    attached: { mayBe: [false, true], answered: true },
  },
  {
    name: "grow attached in the store",
    prepare: [initDisk, createStored, attach],
    operation: resizeTo(2 * MIB),
    sizes: [MIB, 2 * MIB],
    answered: 2 * MIB,
    attached: STAYS_ATTACHED,
  },
  {
    name: "delete in the store",
    prepare: [initDisk, createStored],
    operation: remove,
    sizes: [null, MIB],
    answered: null,
    attached: NOT_ATTACHED,
  },
  {
    name: "delete over a path",
    prepare: [createOverPath],
    operation: remove,
    sizes: [null, MIB],
    answered: null,
    attached: NOT_ATTACHED,
  },
];

/** Runs the scenario, killed before step `stopBefore` of its operation. */
async function runKilled(
  scenario: Scenario,
  stopBefore: number,
): Promise<{ readonly answered: boolean; readonly steps: readonly string[] }> {
  const first = new HostFixture();
  const later: HostFixture[] = [];
  const startAgain = async (): Promise<HostFixture> => {
    const next = new HostFixture(first.root);
    later.push(next);
    await next.recover();
    return next;
  };
  try {
    for (const operation of scenario.prepare) await operation(first);
    const stepsBefore = first.steps.taken.length;
    first.steps.stopBefore = stepsBefore + stopBefore;
    const stopped = new Promise<false>((resolve) => {
      first.steps.stopped = () => resolve(false);
    });
    const answered = await Promise.race([
      scenario.operation(first).then(() => true as const),
      stopped,
    ]);
    const steps = first.steps.taken.slice(stepsBefore);
    first.kill();
    const second = await startAgain();
    checkRecovered(scenario, second, answered);
    second.kill();
    // A second start finds nothing left to do: recovery was whole, and is repeatable.
    const third = await startAgain();
    checkRecovered(scenario, third, answered);
    const serving = [...third.host.entries.values()].filter((entry) => entry.serving).length;
    const writes = third.steps.taken.filter((step) => step === "rename" || step === "remove");
    // Of every disk, how often it was opened is declared.
    const openings = [...third.disks.entries.values()].map(() => "rename");
    assert.deepEqual(writes, openings, "nothing is left to be finished");
    assert.ok(serving <= 1);
    return { answered, steps };
  } finally {
    for (const fixture of later) fixture.kill();
    first.remove();
  }
}

function checkRecovered(scenario: Scenario, fixture: HostFixture, answered: boolean): void {
  assert.deepEqual(fixture.defects, []);
  const { host } = fixture;
  assert.deepEqual([...host.damaged], []);
  const entry = host.entries.get("v");
  const sizeBytes = entry?.declared.sizeBytes ?? null;
  const allowed = answered ? [scenario.answered] : scenario.sizes;
  assert.ok(allowed.includes(sizeBytes), `size ${sizeBytes} is none of ${allowed}`);
  assert.deepEqual(fixture.stateFiles(), entry === undefined ? [] : ["v.json"]);
  const isManagedFile =
    entry?.declared.backing.kind === "file" && entry.declared.backing.path === null;
  assert.deepEqual(
    fixture.dataFiles(),
    isManagedFile ? [`${entry.declared.id}.img`] : [],
    "data files",
  );
  if (scenario.name.endsWith("over a path")) {
    assert.ok(existsSync(join(fixture.root, "theirs.img")), "a file of theirs is never removed");
  }
  for (const disk of fixture.disks.entries.values()) {
    assert.equal(disk.state, "ready");
    const onDisk = entry === undefined ? {} : { [entry.declared.id]: sizeBytes };
    assert.deepEqual(readDiskFile(disk.declared.path)?.volumes, onDisk, "what the disk holds");
  }
  if (entry === undefined) {
    assert.deepEqual(readdirSync(fixture.paths.iscsiDirectory), [], "no secret of nobody");
    return;
  }
  assert.equal(entry.declared.phase, "ready");
  assert.equal(entry.declared.resizeToBytes, null);
  assert.equal(entry.problem, null);
  const isAttached = entry.declared.attachment !== null;
  const mayBe = answered ? [scenario.attached.answered] : scenario.attached.mayBe;
  assert.ok(mayBe.includes(isAttached), `attached ${isAttached} is none of ${mayBe}`);
  assert.equal(entry.serving, isAttached, "declared attached is served");
  const { classic, scsi } = entry.declared.attachment ?? {};
  const controllers = isAttached && scsi !== undefined ? ["k"] : [];
  assert.deepEqual([...fixture.dataPlane.controllers], controllers);
  if (scsi !== undefined) {
    const served = fixture.dataPlane.open.get(entry.declared.id)?.attachment;
    assert.equal((served as ScsiSpec).lun, 3);
  } else if (classic !== undefined) {
    const served = fixture.dataPlane.open.get(entry.declared.id)?.attachment;
    const { chap } = served as ClassicSpec;
    const target = classic.chapTargetUser === undefined ? null : MUTUAL.target;
    assert.deepEqual(chap, { ...PROOF, target }, "served with its secrets");
  } else if (isAttached) {
    assert.ok(statSync(socketPathOf(fixture.paths, "v")).isSocket());
  }
  if (isManagedFile) {
    const path = join(fixture.paths.volumeDirectory, `${entry.declared.id}.img`);
    assert.equal(statSync(path).size, sizeBytes, "the file has the declared size");
  }
  const open = fixture.dataPlane.open.get(entry.declared.id);
  if (open !== undefined) assert.equal(open.sizeBytes, sizeBytes, "served with the declared size");
}

describe("killed before each step", () => {
  test("disk init", async () => {
    for (let step = 0, isDone = false; !isDone; step++) {
      const first = new HostFixture();
      first.steps.stopBefore = step;
      const stopped = new Promise<boolean>((resolve) => {
        first.steps.stopped = () => resolve(false);
      });
      isDone = await Promise.race([initDisk(first).then(() => true), stopped]);
      first.kill();
      const second = new HostFixture(first.root);
      await second.recover();
      assert.deepEqual(second.defects, []);
      const states = [...second.disks.entries.values()].map((disk) => disk.state);
      if (isDone) assert.deepEqual(states, ["ready"]);
      assert.ok(states.every((state) => state === "ready"));
      // The file has its name when it is a disk, and no other is left.
      const files = readdirSync(first.root).filter((name) => name !== "data");
      assert.deepEqual(files, states.length === 0 ? [] : ["disk"], `killed before step ${step}`);
      assert.deepEqual(
        readdirSync(second.paths.diskDirectory).filter((name) => !name.startsWith(".")),
        states.length === 0 ? [] : ["disk.json"],
      );
      second.kill();
      first.remove();
    }
  });

  for (const scenario of SCENARIOS) {
    test(scenario.name, async () => {
      const whole = await runKilled(scenario, Number.POSITIVE_INFINITY);
      assert.equal(whole.answered, true);
      assert.ok(whole.steps.length >= 5, "an operation has steps to be killed at");
      for (let step = 0; step < whole.steps.length; step++) {
        try {
          const { answered } = await runKilled(scenario, step);
          assert.equal(answered, false);
        } catch (error) {
          const at = `${scenario.name}, killed before step ${step} (${whole.steps[step]})`;
          throw new Error(`${at}: ${(error as Error).message}`, { cause: error });
        }
      }
    });
  }
});
