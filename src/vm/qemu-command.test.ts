// The command line QEMU is started with, for the versions that differ.

import assert from "node:assert/strict";
import { test } from "node:test";
import { KERNEL_LINE_BYTES_MAX, kernelLine } from "./kernel-line.ts";
import {
  diskArguments,
  diskBackend,
  type MachineOptions,
  machineArguments,
  optionText,
  type QemuVersion,
  type VhostUserBlkDisk,
} from "./qemu-command.ts";

const V72: QemuVersion = { major: 7, minor: 2, text: "7.2.22" };
const V92: QemuVersion = { major: 9, minor: 2, text: "9.2.0" };
const DISK: VhostUserBlkDisk = { kind: "vhost-user-blk", socket: "/run/a,b.sock" };

const MACHINE: MachineOptions = {
  accelerator: "tcg",
  memoryMiB: 256,
  spareKiB: 0,
  cpuCount: 2,
  memorySlots: undefined,
  hotplugPortCount: 0,
  allowReboot: false,
  qmpSocket: "/run/qmp",
  agentSocket: "/run/agent",
  incoming: false,
};

test("a vhost-user disk is described for the QEMU at hand", () => {
  assert.deepEqual(diskArguments(DISK, 0, V72), [
    "-chardev",
    "socket,id=disk0-backend,path=/run/a,,b.sock,reconnect=1",
    "-device",
    "vhost-user-blk-pci,chardev=disk0-backend,id=disk0",
  ]);
  assert.match(diskArguments(DISK, 0, V92)[1]!, /,reconnect-ms=1000$/);
  assert.match(diskArguments(DISK, 0, { ...V92, minor: 1 })[1]!, /,reconnect=1$/);
  assert.doesNotMatch(diskArguments({ ...DISK, reconnect: false }, 0, V72)[1]!, /reconnect/);
  const full = diskArguments(
    { ...DISK, id: "db", queueCount: 4, queueSize: 256, packed: true, bootIndex: 0 },
    3,
    V72,
  );
  assert.equal(
    full[3],
    "vhost-user-blk-pci,chardev=db-backend,id=db,bootindex=0,num-queues=4,queue-size=256,packed=on",
  );
});

test("a SCSI controller has QEMU's other spellings, and does not connect again unless asked", () => {
  const controller = { kind: "vhost-user-scsi", socket: "/run/c.sock" } as const;
  const args = diskArguments({ ...controller, id: "c", queueCount: 2, queueSize: 256 }, 0, V92);
  assert.equal(args[1], "socket,id=c-backend,path=/run/c.sock");
  const device = "vhost-user-scsi-pci,chardev=c-backend,id=c,num_queues=2,virtqueue_size=256";
  assert.equal(args[3], device);
  const again = diskArguments({ ...controller, reconnect: true }, 0, V92);
  assert.match(again[1]!, /,reconnect-ms=1000$/);
});

test("plugging uses the same description, typed", () => {
  assert.deepEqual(diskBackend(DISK, "x", V92), {
    command: "chardev-add",
    args: {
      id: "x-backend",
      backend: {
        type: "socket",
        data: {
          addr: { type: "unix", data: { path: "/run/a,b.sock" } },
          server: false,
          "reconnect-ms": 1000,
        },
      },
    },
  });
});

test("impossible options are refused by name", () => {
  const refused = { code: "option" };
  assert.throws(() => diskArguments({ ...DISK, id: "a,b" }, 0, V72), refused);
  assert.throws(() => machineArguments({ ...MACHINE, memoryMiB: 64 }), refused);
  assert.throws(() => machineArguments({ ...MACHINE, cpuCount: 0 }), refused);
  assert.throws(() => machineArguments({ ...MACHINE, hotplugPortCount: 99 }), refused);
  assert.throws(() => kernelLine({ allowReboot: false, script: "x".repeat(2000) }), {
    code: "option",
    message: new RegExp(`${KERNEL_LINE_BYTES_MAX} bytes`),
  });
});

test("memory is a shared memfd whatever else is asked for", () => {
  for (const accelerator of ["kvm", "tcg"] as const) {
    const args = machineArguments({ ...MACHINE, accelerator, hotplugPortCount: 2 });
    assert.ok(args.includes("memory-backend-memfd,id=ram,size=262144K,share=on"));
    assert.ok(args.includes("q35,memory-backend=ram"));
    assert.ok(args.includes("pcie-root-port,id=port1,chassis=2,slot=2"));
    assert.ok(args.includes("-no-reboot"));
  }
  const odd = machineArguments({ ...MACHINE, spareKiB: 8 });
  assert.ok(odd.includes("memory-backend-memfd,id=ram,size=262152K,share=on"));
  assert.ok(odd.includes("262152K"));
  const slots = machineArguments({ ...MACHINE, memorySlots: { count: 4, maxMiB: 1024 } });
  assert.ok(slots.includes("262144K,slots=4,maxmem=1024M"));
});

test("option values may hold commas", () => {
  assert.equal(optionText("x", { a: "1,2", b: true, c: false, d: 5 }), "x,a=1,,2,b=on,c=off,d=5");
});
