// A cluster's metadata as it would be after its volumes were created: nodes, disks, volumes with
// their placement, made by the real planner and codecs. For archives and for measurements.

import type { MetaKeys } from "../../meta/index.ts";
import { planPlacement } from "../../meta/placement.ts";
import { encodePage, PAGE_SEGMENTS, type Placement } from "../../meta/placement-page.ts";
import { clusterCodec, diskCodec, nodeCodec, volumeCodec } from "../../meta/record-codec.ts";
import type { DiskRecord, NodeRecord, VolumeRecord } from "../../meta/records.ts";
import type { MetaWrite } from "../../ports/index.ts";

export interface SampleSize {
  readonly nodes: number;
  readonly disksPerNode: number;
  readonly diskBytes: number;
  readonly volumes: number;
  readonly volumeBytes: number;
}

const AT = "2026-01-01T00:00:00.000Z";
const CHANGE = "0123456789abcdef";

export function uuid(kind: number, index: number): string {
  const tail = index.toString(16).padStart(10, "0");
  return `00000000-0000-4000-8000-${kind.toString(16).padStart(2, "0")}${tail}`;
}

export class SampleCluster {
  readonly nodes: readonly NodeRecord[];
  readonly disks: readonly DiskRecord[];
  readonly #keys: MetaKeys;
  readonly #free: Map<number, number>;
  readonly #size: SampleSize;

  constructor(keys: MetaKeys, size: SampleSize) {
    this.#keys = keys;
    this.#size = size;
    this.nodes = Array.from({ length: size.nodes }, (_, index) => ({
      format: 1,
      changeId: CHANGE,
      id: uuid(1, index),
      name: `node${index}`,
      address: `10.0.0.${index + 1}:7700`,
      rack: `rack${index % 3}`,
      phase: "active",
      joinedAt: AT,
      wireFormats: [1, 1],
    }));
    this.disks = Array.from({ length: size.nodes * size.disksPerNode }, (_, index) => ({
      format: 1,
      changeId: CHANGE,
      id: uuid(2, index),
      number: index + 1,
      node: uuid(1, index % size.nodes),
      name: `disk${index}`,
      sizeBytes: size.diskBytes,
      freeBytes: size.diskBytes,
      phase: "active",
      incarnation: 1,
    }));
    this.#free = new Map(this.disks.map((disk) => [disk.number, disk.freeBytes]));
  }

  /** Everything but the volumes. */
  base(): MetaWrite[] {
    const keys = this.#keys;
    const cluster = {
      format: 1,
      changeId: CHANGE,
      id: uuid(9, 0),
      name: "sample",
      generation: 1,
      features: 0,
      createdAt: AT,
    };
    return [
      { key: keys.cluster, value: clusterCodec.encode(cluster) },
      ...this.nodes.map((node) => ({ key: keys.node(node.id), value: nodeCodec.encode(node) })),
      ...this.disks.map((disk) => ({ key: keys.disk(disk.id), value: diskCodec.encode(disk) })),
      ...this.disks.map((disk) => ({
        key: keys.diskNumber(disk.number),
        value: Buffer.from(disk.id),
      })),
    ];
  }

  /** One volume as one transaction: its record, its name, its map. */
  volume(index: number): MetaWrite[] {
    const { volumeBytes } = this.#size;
    const plan = planPlacement(
      { sizeBytes: volumeBytes, replicaCount: 2, localNode: uuid(1, index % this.nodes.length) },
      {
        nodes: this.nodes,
        disks: this.disks.map((disk) => ({ ...disk, freeBytes: this.#free.get(disk.number)! })),
      },
    );
    for (const { number, bytes } of plan.disks) {
      this.#free.set(number, this.#free.get(number)! - bytes);
    }
    const byNumber = new Map(this.disks.map((disk) => [disk.number, disk.id]));
    const id = uuid(3, index);
    const record: VolumeRecord = {
      format: 1,
      changeId: CHANGE,
      id,
      name: `volume${index}`,
      sizeBytes: volumeBytes,
      blockBytes: 512,
      replicaCount: 2,
      phase: "ready",
      createdAt: AT,
      clusterGeneration: 1,
      epoch: 1,
      owner: { node: uuid(1, index % this.nodes.length), incarnation: 1 },
      state: "open",
      members: plan.disks.map((disk) => byNumber.get(disk.number)!),
      out: [],
      membershipVersion: 1,
      attachment: { generation: 1, node: uuid(1, index % this.nodes.length), readOnly: false },
      layers: [0],
    };
    return [
      { key: this.#keys.volumeRecord(id), value: volumeCodec.encode(record) },
      { key: this.#keys.volumeName(record.name), value: Buffer.from(id) },
      ...this.#pages(id, plan.segments),
    ];
  }

  #pages(id: string, segments: readonly (readonly number[])[]): MetaWrite[] {
    const writes: MetaWrite[] = [];
    for (let from = 0; from < segments.length; from += PAGE_SEGMENTS) {
      const part = segments.slice(from, from + PAGE_SEGMENTS);
      const entries: Placement[] = part.map((disks) => ({ disks, layer: 0, flags: 0 }));
      const page = from / PAGE_SEGMENTS;
      const value = encodePage(id, { page, segments: entries, exceptions: [] });
      writes.push({ key: this.#keys.volumeMapPage(id, page), value });
    }
    return writes;
  }
}
