// Devices of a target process: the real ones of local/, behind a wrapper that can hold requests
// back, and planted bugs that tests of the tests must find. None of this is ever in a daemon.

import { assert, OP_DISCARD, OP_READ, type RequestTable, TWO_32 } from "../base/index.ts";
import {
  FileDevice,
  type LocalDeviceOptions,
  MemoryDevice,
  NullDevice,
  type Workspace,
} from "../local/index.ts";
import type { BlockDevice, BlockDeviceInfo, Memory } from "../ports/index.ts";
import type { Reactor } from "../reactor/index.ts";
import * as sys from "../sys/index.ts";
import { type OwnedDisk, SyncDisk, UringDisk } from "../uring/index.ts";
import { MemoryTable } from "../vhost-user/memory-table.ts";
import type { PlantedBug, TargetBacking } from "./target-protocol.ts";

const SYNC_DISK_CAPACITY = 4096;
const LEAKED_REGIONS_MIN = 3;

export interface LocalDevice extends BlockDevice {
  setCapacity(bytes: number): void;
  close(): void;
}

export interface OpenBacking {
  readonly device: LocalDevice;
  resize(bytes: number): void;
  close(): void;
}

export interface BackingOptions {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  readonly serial: string;
}

export interface BackingModules {
  readonly reactor: Reactor;
  readonly workspace: Workspace;
}

/** Opens what stands behind a volume. */
export function openBacking(
  backing: TargetBacking,
  options: BackingOptions,
  modules: BackingModules,
): OpenBacking {
  const { sizeBytes: capacityBytes, blockBytes, readOnly, serial } = options;
  const geometry = {
    capacityBytes,
    blockBytes,
    readOnly,
    serial,
    physicalBlockBytes: 4096,
    optimalIoBytes: 65536,
    canDiscard: true,
  };
  if (backing.kind === "file") return openFile(backing, geometry, modules);
  const device =
    backing.kind === "null"
      ? new NullDevice(geometry, { requests: modules.reactor.requests })
      : new MemoryDevice(geometry, { workspace: modules.workspace });
  return {
    device,
    resize: (bytes) => device.setCapacity(bytes),
    close: () => device.close(),
  };
}

function openFile(
  backing: TargetBacking & { readonly kind: "file" },
  geometry: LocalDeviceOptions,
  modules: BackingModules,
): OpenBacking {
  const direct = backing.direct === true;
  const flags = sys.O_RDWR | sys.O_CREAT | (direct ? sys.O_DIRECT : 0);
  const fd = sys.check(sys.open(backing.path, flags, 0o600), "open", backing.path);
  sys.check(sys.ftruncate(fd, geometry.capacityBytes), "ftruncate", backing.path);
  const alignment = direct ? 512 : 1;
  const shape = {
    capacityBytes: geometry.capacityBytes,
    memoryAlignmentBytes: alignment,
    offsetAlignmentBytes: alignment,
  };
  const { reactor, workspace } = modules;
  const onTmpfs = sys.fileSystemType(fd) === sys.TMPFS_MAGIC;
  const disk: OwnedDisk = onTmpfs
    ? new SyncDisk({ ring: reactor.ring, scheduler: reactor }, fd, shape, SYNC_DISK_CAPACITY)
    : new UringDisk(reactor.ring, fd, shape);
  const device = new FileDevice({ ...geometry, kind: "file" }, { workspace, disk });
  disk.setHandler(device);
  return {
    device,
    resize(bytes: number): void {
      sys.check(sys.ftruncate(fd, bytes), "ftruncate", backing.path);
      disk.setCapacity(bytes);
      device.setCapacity(bytes);
    },
    close(): void {
      device.close();
      disk.detach();
      sys.close(fd);
    },
  };
}

/** A device that can be told to keep what it is given for a while. */
export class HeldDevice implements BlockDevice {
  readonly plantedBug: PlantedBug | null;
  private readonly inner: BlockDevice;
  private readonly requests: RequestTable;
  private readonly memory: Memory;
  private readonly slots: number[] = [];
  private held = false;

  constructor(
    inner: BlockDevice,
    plantedBug: PlantedBug | null,
    modules: { readonly requests: RequestTable; readonly memory: Memory },
  ) {
    this.inner = inner;
    this.plantedBug = plantedBug;
    this.requests = modules.requests;
    this.memory = modules.memory;
  }

  get info(): BlockDeviceInfo {
    return this.inner.info;
  }

  get inflightCount(): number {
    return this.inner.inflightCount + this.slots.length;
  }

  get heldCount(): number {
    return this.slots.length;
  }

  setHeld(held: boolean): void {
    this.held = held;
    if (held) return;
    for (const slot of this.slots.splice(0)) this.inner.submit(slot);
  }

  submit(slot: number): void {
    this.check(slot);
    const op = this.requests.op[slot];
    if (this.plantedBug === "swallow-discard" && op === OP_DISCARD) return;
    if (this.plantedBug === "overrun" && op === OP_READ) this.overrun(slot);
    if (this.held) this.slots.push(slot);
    else this.inner.submit(slot);
  }

  /** What a front end must have checked, whatever the guest did meanwhile. */
  private check(slot: number): void {
    const { requests } = this;
    const { capacityBytes, blockBytes } = this.inner.info;
    const offsetBytes = requests.offsetBytes[slot] as number;
    const lengthBytes = requests.lengthBytes[slot] as number;
    assert(offsetBytes >= 0, "a request before the disk");
    assert(offsetBytes + lengthBytes <= capacityBytes, "a request beyond the disk");
    assert(offsetBytes % blockBytes === 0, "a request of half a block");
    assert(lengthBytes % blockBytes === 0, "a request of half a block");
    let sum = 0;
    const count = requests.segmentCount[slot] as number;
    for (let index = 0; index < count; index++) sum += requests.segmentBytes(slot, index);
    assert(count === 0 || sum === lengthBytes, "segments that do not add up");
  }

  private overrun(slot: number): void {
    const { requests } = this;
    const last = (requests.segmentCount[slot] as number) - 1;
    if (last < 1) return;
    const end = requests.segmentAddress(slot, last) + requests.segmentBytes(slot, last);
    if (end % TWO_32 === 0) return;
    // By system call: behind a region there may be nothing, and this bug shall not end us.
    this.memory.copyFaultable(end, requests.segmentAddress(slot, 0), 1);
  }
}

/** A memory table that forgets a region at the end: the bug "leak-region". */
export class LeakingTable extends MemoryTable {
  override clear(): ReturnType<MemoryTable["clear"]> {
    const regions = super.clear();
    return regions.length < LEAKED_REGIONS_MIN ? regions : regions.slice(1);
  }
}
