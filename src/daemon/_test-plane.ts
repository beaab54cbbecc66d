// What the tests of the data plane share: a plane on real reactor threads with a folder of its own,
// and volumes for it.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { AttachmentSpec, Backing, VolumeSpec } from "../ports/data-plane.ts";
import type { LogFields } from "../ports/log.ts";
import type { HeldUnitSpec, ScsiSpec } from "../ports/scsi-plane.ts";
import { createDataPlane, type ReactorDataPlane, type ReactorPlaneOptions } from "./data-plane.ts";
import type { DataPlaneOptions } from "./data-plane-factory.ts";

export const MIB: number = 1024 * 1024;

export interface PlaneOptions
  extends ReactorPlaneOptions,
    Pick<DataPlaneOptions, "portal" | "saveReservations"> {
  readonly reactorCount?: number;
  readonly folder?: string;
}

export class TestPlane {
  readonly folder: string;
  readonly plane: ReactorDataPlane;
  readonly lines: { readonly event: string; readonly fields: LogFields }[];
  readonly defects: unknown[];
  readonly changes: { count: number };

  private constructor(
    folder: string,
    plane: ReactorDataPlane,
    seen: Pick<TestPlane, "lines" | "defects" | "changes">,
  ) {
    this.folder = folder;
    this.plane = plane;
    this.lines = seen.lines;
    this.defects = seen.defects;
    this.changes = seen.changes;
  }

  /** Starts a plane that is stopped, and whose folder is removed, when the test ends. */
  static async start(t: TestContext, options: PlaneOptions = {}): Promise<TestPlane> {
    const lines: TestPlane["lines"] = [];
    const defects: unknown[] = [];
    const changes = { count: 0 };
    const plane = await createDataPlane(
      {
        reactorCount: options.reactorCount ?? 1,
        pollUs: 50,
        trustMemory: false,
        portal: options.portal ?? null,
        ...(options.saveReservations === undefined
          ? {}
          : { saveReservations: options.saveReservations }),
        log: { log: (_level, event, fields = {}) => void lines.push({ event, fields }) },
        changed: () => void (changes.count += 1),
        fatal: (error) => void defects.push(error),
      },
      options,
    );
    const folder = mkdtempSync(join(tmpdir(), "rs-plane-"));
    t.after(async () => {
      await plane.stop();
      rmSync(folder, { recursive: true, force: true });
      assert.deepEqual(defects, []);
    });
    return new TestPlane(folder, plane, { lines, defects, changes });
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  file(name: string, more: Partial<VolumeSpec> = {}): VolumeSpec {
    const path = this.path(`${name}.data`);
    return volume(name, { kind: "file", path, direct: "auto" }, more);
  }

  attachment(spec: VolumeSpec, more: Partial<AttachmentSpec> = {}): AttachmentSpec {
    return {
      volumeId: spec.id,
      socketPath: this.path(`${spec.name}.sock`),
      socketMode: 0o660,
      socketGroupId: -1,
      queueCountMax: 16,
      packedAllowed: true,
      readOnly: false,
      ...more,
    };
  }

  /** Opens (creating) and attaches; returns the socket's path. */
  async serve(spec: VolumeSpec): Promise<string> {
    await this.plane.openVolume(spec, { create: true });
    const attachment = this.attachment(spec);
    await this.plane.attach(attachment);
    return attachment.socketPath;
  }
}

export function volume(name: string, backing: Backing, more: Partial<VolumeSpec> = {}): VolumeSpec {
  return {
    id: randomUUID(),
    name,
    sizeBytes: 16 * MIB,
    blockBytes: 512,
    readOnly: false,
    serial: "test",
    backing,
    ...more,
  };
}

/** Without those of /dev/null: Node opens one when it first starts a process, and keeps it. */
export function descriptorCount(): number {
  return readdirSync("/proc/self/fd").filter((name) => targetOf(name) !== "/dev/null").length;
}

/** "" for the one that lists the folder: it is gone by now. */
function targetOf(name: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${name}`);
  } catch {
    return "";
  }
}

export function threadCount(): number {
  return readdirSync("/proc/self/task").length;
}

export async function until(condition: () => boolean, what: string): Promise<void> {
  for (let attempt = 0; attempt < 1000; attempt++) {
    if (condition()) return;
    await sleep(10);
  }
  assert.fail(`in vain: ${what}`);
}

/** The volume as a unit of controller "k". */
export function unitSpec(socketPath: string, { id }: VolumeSpec, lun: number): ScsiSpec {
  return {
    volumeId: id,
    controller: "k",
    lun,
    socketPath,
    socketMode: 0o660,
    socketGroupId: -1,
    queueCountMax: 4,
    packedAllowed: true,
    readOnly: false,
    naa: `300000000000000${lun.toString(16)}`,
    reservations: null,
    powerWasLost: false,
    listens: true,
  };
}

/** The unit's place, before its volume is there. */
export function placeOf(unit: ScsiSpec, { name, serial }: VolumeSpec): HeldUnitSpec {
  const { reservations: _, powerWasLost: __, ...more } = unit;
  return { ...more, name, serial };
}
