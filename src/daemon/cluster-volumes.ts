// The cluster's volumes as DaemonControl sees them, beside those that are on this node alone.

import type { AttachResult, RequestOptions } from "../api/control-plane.ts";
import type { VolumeRecord } from "../meta/records.ts";
import { ApiError } from "../model/errors.ts";
import type {
  DeleteReply,
  DetachReply,
  StatusItem,
  Volume,
  VolumeAttach,
  VolumeCreate,
  VolumeResize,
} from "../model/types.ts";
import { quote } from "../model/volume-rules.ts";
import { createClusterVolume, removeClusterVolume } from "./cluster-create.ts";
import { volumeItems } from "./cluster-health.ts";
import { resizeClusterVolume } from "./cluster-resize.ts";
import type { ClusterRuntime } from "./cluster-runtime.ts";
import type { DiskUser } from "./disk-host.ts";

export class ClusterVolumes {
  readonly #runtime: ClusterRuntime;

  constructor(runtime: ClusterRuntime) {
    this.#runtime = runtime;
  }

  list(): readonly Volume[] {
    const { context, views } = this.#runtime;
    const sight = views.sight();
    return [...context.inventory.volumes.values()].map(({ record }) => views.volume(record, sight));
  }

  has(name: string): boolean {
    return this.#runtime.context.inventory.volumeByName(name) !== null;
  }

  /** Also told when it cannot be known whether there is one. */
  find(name: string): VolumeRecord {
    const { inventory, link } = this.#runtime.context;
    const known = inventory.volumeByName(name);
    if (known !== null) return known.record;
    if (inventory.revision === 0) {
      const where = link.endpoints.join(", ");
      const message = `volume ${quote(name)}: the cluster's metadata at ${where} does not answer`;
      throw new ApiError("metadata_unavailable", message, {
        advice: "see: ringstore cluster show",
      });
    }
    throw new ApiError("volume_not_found", `volume ${quote(name)} does not exist`, {
      advice: "see: ringstore volume list",
    });
  }

  show(name: string): Volume {
    return this.#runtime.views.volume(this.find(name));
  }

  async create(request: VolumeCreate, options: RequestOptions): Promise<Volume> {
    const { context, views } = this.#runtime;
    return views.volume(await createClusterVolume(context, request, options));
  }

  async resize(name: string, request: VolumeResize, options: RequestOptions): Promise<Volume> {
    const { context, views } = this.#runtime;
    const record = await resizeClusterVolume(context, this.find(name), request, options);
    return views.volume(record);
  }

  async attach(name: string, request: VolumeAttach): Promise<AttachResult> {
    return await this.#runtime.attaching.attach(this.find(name), request);
  }

  async detach(name: string): Promise<DetachReply> {
    return await this.#runtime.attaching.detach(this.find(name));
  }

  async remove(name: string, options: RequestOptions): Promise<DeleteReply> {
    return await removeClusterVolume(this.#runtime.context, this.find(name), options);
  }

  items(): readonly StatusItem[] {
    const { context, views } = this.#runtime;
    return volumeItems(context, views);
  }

  /** Ids and names of those that are served here. */
  served(): readonly (readonly [id: string, name: string])[] {
    return [...this.#runtime.context.served.values()]
      .filter(({ serving }) => serving)
      .map(({ id, name }) => [id, name]);
  }

  /** With a copy on the disk, one that is about to be, or one that is being deleted. */
  usersOf(diskId: string): readonly DiskUser[] {
    const { inventory, host } = this.#runtime.context;
    const isReady = host.modules.disks.isReady(diskId);
    return [...inventory.volumes.values()]
      .filter(
        ({ record }) =>
          record.members.includes(diskId) ||
          (isReady && inventory.copy(record.id, diskId) !== null),
      )
      .map(({ record }) => ({ name: record.name, active: true }));
  }

  /** Operations under way. */
  isBusy(): boolean {
    return [...this.#runtime.context.served.values()].some(({ busy }) => busy);
  }
}
