// The keys of a cluster's metadata. Everything hangs below one root, so that one etcd can hold
// several clusters and other people's keys. docs/metadata.md has the table with what each holds.
//
//   <root>cluster                  the cluster record: written last by init, read by everybody
//   <root>node/<node>              a node
//   <root>live/<node>              on a lease: the node's daemon was alive a moment ago; a hint
//   <root>disk/<disk>              a disk
//   <root>disk-number/<number>     which disk has the number that placement pages use
//   <root>volume/<volume>/record   a volume: who owns it, and which replicas count
//   <root>volume/<volume>/map/<page>   which disks hold its segments, 1024 to a page
//   <root>volume/<volume>/copy/<disk>  the disk has its replica, of the size that is told
//   <root>volume/<volume>/reservations   persistent reservations of a volume that is a target
//   <root>volume-name/<name>       which volume has the name
//   <root>leader                   on a lease: who plans
//   <root>recovery/<node>/<disk>   on a lease: what a disk knows, while there is no cluster record
//
// Ids are UUIDs, numbers are written in hexadecimal of fixed width, so that keys sort as they
// count.

import { assert } from "../base/index.ts";
import { MetaError } from "./errors.ts";

const ROOT_PATTERN = /^[a-z0-9]([a-z0-9/.-]{0,100}[a-z0-9])?\/$/;
const ID_PATTERN = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const NUMBER_DIGITS = 4;
/** 16 TiB to a page: more than any volume has. */
export const MAP_PAGES_MAX = 0x10000;
/** Disk numbers are 16 bits; 0 is no disk. */
export const DISK_NUMBER_MAX = 0xffff;

export const META_ROOT_DEFAULT = "ringstore/";

export class MetaKeys {
  readonly root: string;

  constructor(root: string = META_ROOT_DEFAULT) {
    if (!ROOT_PATTERN.test(root)) {
      const message = `"${root}" cannot be the root of the metadata: it is like "ringstore/".`;
      throw new MetaError("refused", message);
    }
    this.root = root;
  }

  get cluster(): string {
    return `${this.root}cluster`;
  }

  get leader(): string {
    return `${this.root}leader`;
  }

  get nodes(): string {
    return `${this.root}node/`;
  }

  node(nodeId: string): string {
    return this.nodes + checked(nodeId);
  }

  get liveNodes(): string {
    return `${this.root}live/`;
  }

  liveNode(nodeId: string): string {
    return this.liveNodes + checked(nodeId);
  }

  get disks(): string {
    return `${this.root}disk/`;
  }

  disk(diskId: string): string {
    return this.disks + checked(diskId);
  }

  get diskNumbers(): string {
    return `${this.root}disk-number/`;
  }

  diskNumber(number: number): string {
    assert(number > 0 && number <= DISK_NUMBER_MAX, "a disk number has 16 bits and is not 0");
    return this.diskNumbers + hexadecimal(number);
  }

  get recoveryReports(): string {
    return `${this.root}recovery/`;
  }

  /** null: of the node itself. */
  recoveryReport(nodeId: string, diskId: string | null): string {
    return `${this.recoveryReports}${checked(nodeId)}/${diskId === null ? "" : checked(diskId)}`;
  }

  get volumes(): string {
    return `${this.root}volume/`;
  }

  /** All of one volume: what its owner and its members watch. */
  volume(volumeId: string): string {
    return `${this.volumes}${checked(volumeId)}/`;
  }

  volumeRecord(volumeId: string): string {
    return `${this.volume(volumeId)}record`;
  }

  volumeMap(volumeId: string): string {
    return `${this.volume(volumeId)}map/`;
  }

  volumeMapPage(volumeId: string, page: number): string {
    assert(page >= 0 && page < MAP_PAGES_MAX, "a page of the map has 16 bits");
    return this.volumeMap(volumeId) + hexadecimal(page);
  }

  volumeCopies(volumeId: string): string {
    return `${this.volume(volumeId)}copy/`;
  }

  volumeCopy(volumeId: string, diskId: string): string {
    return this.volumeCopies(volumeId) + checked(diskId);
  }

  volumeReservations(volumeId: string): string {
    return `${this.volume(volumeId)}reservations`;
  }

  volumeName(name: string): string {
    assert(name !== "" && !name.includes("/"), "a volume's name is checked before");
    return `${this.root}volume-name/${name}`;
  }
}

function checked(id: string): string {
  assert(ID_PATTERN.test(id), "ids in keys are UUIDs, in lower case");
  return id;
}

function hexadecimal(number: number): string {
  return number.toString(16).padStart(NUMBER_DIGITS, "0");
}
