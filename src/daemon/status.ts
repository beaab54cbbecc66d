// What is wrong, and what to type: the items of `ringstore status` and the commands of
// `ringstore advise`. Quiet when there is nothing.

import { formatBytes } from "../base/units.ts";
import type { ClusterView } from "../model/cluster-types.ts";
import type { Advice, HealthSummary, Severity, StatusItem } from "../model/types.ts";
import { diskHealthOf } from "./disk-entry.ts";
import type { DiskHost } from "./disk-host.ts";
import { healthOf } from "./volume-entry.ts";
import type { VolumeHost } from "./volume-host.ts";

export interface FilesystemSpace {
  readonly totalBytes: number;
  readonly availableBytes: number;
}

const SPACE_WARN_SHARE = 0.05;
const SPACE_ERROR_SHARE = 0.01;

export function statusItems(
  host: VolumeHost,
  space: FilesystemSpace,
  listenWarning: string | null,
): readonly StatusItem[] {
  const items: StatusItem[] = [];
  const stats = host.statsById();
  for (const file of host.damaged.values()) {
    items.push({
      code: "STATE_DAMAGED",
      severity: "error",
      message: `${file.path} ${file.problem}`,
      volume: null,
      disk: null,
    });
  }
  items.push(...diskItems(host.modules.disks));
  for (const entry of host.entries.values()) {
    const { id, name } = entry.declared;
    for (const item of healthOf(entry, stats.get(id))) {
      items.push({ ...item, volume: name, disk: null });
    }
  }
  const low = lowSpace(host.options.paths.root, space);
  if (low !== null) items.push(low);
  if (listenWarning !== null) {
    items.push({
      code: "API_WITHOUT_TLS",
      severity: "warn",
      message: listenWarning,
      volume: null,
      disk: null,
    });
  }
  return items;
}

function diskItems(disks: DiskHost): readonly StatusItem[] {
  const items: StatusItem[] = [];
  for (const { path, problem } of disks.damaged.values()) {
    const message = `${path} ${problem}`;
    items.push({ code: "STATE_DAMAGED", severity: "error", message, volume: null, disk: null });
  }
  const stats = disks.statsById();
  for (const entry of disks.entries.values()) {
    const { id, name } = entry.declared;
    const about = { volume: null, disk: name };
    for (const item of diskHealthOf(entry, stats.get(id))) items.push({ ...item, ...about });
    const errorCount = entry.lastCheck?.errorCount ?? 0;
    if (errorCount === 0) continue;
    const message = `the last check of disk ${name} found ${errorCount} errors`;
    items.push({ code: "DISK_CHECK_FAILED", severity: "error", message, ...about });
  }
  return items;
}

/** What is wrong with the cluster as a whole. */
export function clusterItems(cluster: ClusterView | null): readonly StatusItem[] {
  return (cluster?.health ?? []).map((item) => ({ ...item, volume: null, disk: null }));
}

function lowSpace(root: string, space: FilesystemSpace): StatusItem | null {
  const share = space.totalBytes === 0 ? 1 : space.availableBytes / space.totalBytes;
  if (share >= SPACE_WARN_SHARE) return null;
  const severity: Severity = share < SPACE_ERROR_SHARE ? "error" : "warn";
  const message = `${formatBytes(space.availableBytes)} left on the filesystem of ${root}`;
  return { code: "LOW_SPACE", severity, message, volume: null, disk: null };
}

export function summaryOf(items: readonly StatusItem[]): HealthSummary {
  if (items.some((item) => item.severity === "error")) return "error";
  return items.length > 0 ? "warn" : "ok";
}

export function adviceFor(
  items: readonly StatusItem[],
  root: string,
  cluster: ClusterView | null,
): readonly Advice[] {
  const ofCluster = new Set(cluster?.health.map(({ code }) => code));
  return items.map((item) => {
    const isOfCluster = item.volume === null && item.disk === null && ofCluster.has(item.code);
    if (!isOfCluster) return { ...item, command: commandFor(item, root) };
    const isLost = item.code === "META_EMPTY" || item.code === "META_ROLLED_BACK";
    const recover = "ringstore cluster recover --from-disks --dry-run";
    return { ...item, command: isLost ? recover : "ringstore cluster show" };
  });
}

function commandFor(item: StatusItem, root: string): string | null {
  switch (item.code) {
    case "BACKING_UNAVAILABLE":
    case "NOT_SERVED":
      // Attaching again tries at once and says what is in the way.
      return `ringstore volume attach ${item.volume}`;
    case "CREATE_UNFINISHED":
    case "REMOVAL_UNFINISHED":
      return `ringstore volume delete ${item.volume}`;
    case "DISK_UNAVAILABLE":
      return `ringstore volume show ${item.volume}`;
    case "DISK_CORRUPTION":
      return `ringstore disk check ${item.disk}`;
    case "DISK_FORMAT_FAILED":
      return `ringstore disk remove ${item.disk}`;
    case "LOW_SPACE":
      return `du -h ${root}/volumes`;
    default:
      if (item.disk !== null) return `ringstore disk show ${item.disk}`;
      return item.volume === null ? null : `ringstore volume show ${item.volume}`;
  }
}
