// A disk that can fail with EIO, for a disk file of a daemon: an ext4 file system of its own on a loop
// device, which is shut down. From then on the kernel answers everything that is asked of a file there
// with EIO, whoever has it open, as it does for a device that has died.
//
// Needs root, loop devices and mkfs.ext4. Invariant: nothing stays mounted after the cleanup.

import { rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../../base/index.ts";
import * as sys from "../../sys/index.ts";
import type { Cleanup } from "../soak/cleanup.ts";
import { formatImage, mountImage, runs } from "../soak/loop-mount.ts";
import { diskFolder } from "../soak/places.ts";

const SYS_IOCTL = process.arch === "arm64" ? 29 : 16;
const EXT4_IOC_SHUTDOWN = 0x8004587d;
/** What its journal holds in memory is lost, as with a device that answers no more. */
const SHUTDOWN_NO_LOG_FLUSH = 2;
/** For the file system's own tables and journal. */
const OVERHEAD_BYTES: number = 48 * MIB;
/** A killed process lets go of its files when the kernel has ended its I/O. */
const LET_GO_MS = 10_000;
const POLL_MS = 20;

export class FailingDisk {
  /** Where the disk's file lies. */
  readonly folder: string;
  private readonly image: string;
  private readonly sizeBytes: number;

  private constructor(folder: string, image: string, sizeBytes: number) {
    this.folder = folder;
    this.image = image;
    this.sizeBytes = sizeBytes;
  }

  /** Room for a disk of that size; null = no loop device can be mounted here. */
  static make(cleanup: Cleanup, diskBytes: number): FailingDisk | null {
    const folder = diskFolder(cleanup);
    const image = `${folder}.image`;
    const disk = new FailingDisk(folder, image, diskBytes + OVERHEAD_BYTES);
    cleanup.after(() => {
      runs("umount", "--lazy", folder);
      rmSync(image, { force: true });
    });
    return disk.format() && disk.mount() ? disk : null;
  }

  private format(): boolean {
    rmSync(this.image, { force: true });
    return formatImage(this.image, this.sizeBytes);
  }

  private mount(): boolean {
    return mountImage(this.image, this.folder);
  }

  /** Everything fails with EIO from now on. */
  fail(): void {
    const fd = sys.check(sys.open(this.folder, sys.O_RDONLY), "open");
    const memory = new sys.SystemMemory();
    const arena = memory.allocate(4096);
    try {
      arena.u32[0] = SHUTDOWN_NO_LOG_FLUSH;
      const result = sys.syscall6(SYS_IOCTL, fd, EXT4_IOC_SHUTDOWN, arena.address, 0, 0, 0);
      if (Number(result) !== 0) throw new Error(`${this.folder} cannot be shut down`);
    } finally {
      memory.free(arena);
      sys.close(fd);
    }
  }

  /** The same disk, well again: with all that was durable. Whoever had its file open has let go. */
  async revive(): Promise<void> {
    await this.unmount();
    if (!this.mount()) throw new Error(`${this.image} cannot be mounted again`);
  }

  /** Another disk in its place, empty. */
  async replace(): Promise<void> {
    await this.unmount();
    if (!this.format() || !this.mount()) throw new Error(`no new disk at ${this.folder}`);
  }

  private async unmount(): Promise<void> {
    const deadline = Date.now() + LET_GO_MS;
    while (!runs("umount", this.folder)) {
      if (Date.now() > deadline) throw new Error(`${this.folder} is still in use`);
      await sleep(POLL_MS);
    }
  }
}
