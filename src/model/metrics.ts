// Every Prometheus series of the daemon: name, kind, labels, help. The exporter writes from this
// table and docs/metrics.md is generated from it, so that neither can name what does not exist.
// Base units (seconds, bytes), `_total` on counters.

export type MetricKind = "counter" | "gauge" | "histogram";

export interface Metric {
  readonly name: string;
  readonly kind: MetricKind;
  readonly labels: readonly string[];
  readonly help: string;
  /** One series per volume: left out with `--no-volume-metrics`. */
  readonly perVolume: boolean;
}

function daemon(name: string, kind: MetricKind, labels: readonly string[], help: string): Metric {
  return { name: `ringstore_${name}`, kind, labels, help, perVolume: false };
}

function volume(name: string, kind: MetricKind, labels: readonly string[], help: string): Metric {
  return {
    name: `ringstore_volume_${name}`,
    kind,
    labels: ["volume", ...labels],
    help,
    perVolume: true,
  };
}

function disk(name: string, kind: MetricKind, labels: readonly string[], help: string): Metric {
  return daemon(`disk_${name}`, kind, ["disk", ...labels], help);
}

export const METRICS: readonly Metric[] = [
  daemon("build_info", "gauge", ["version"], "Always 1; the version is a label."),
  daemon("start_time_seconds", "gauge", [], "When the daemon started, in Unix time."),
  daemon("process_resident_bytes", "gauge", [], "Resident memory of the daemon."),
  daemon("process_heap_used_bytes", "gauge", [], "JavaScript heap in use, main thread."),
  daemon("process_cpu_seconds_total", "counter", ["mode"], "CPU time of the daemon, all threads."),
  daemon("process_open_descriptors", "gauge", [], "Open file descriptors of the daemon."),
  daemon("data_filesystem_size_bytes", "gauge", [], "Size of the data directory's filesystem."),
  daemon("data_filesystem_available_bytes", "gauge", [], "Space left on that filesystem."),
  daemon("volumes", "gauge", ["state"], "Declared volumes by state."),
  daemon("health_items", "gauge", ["code", "severity"], "Problems that status shows, by code."),
  daemon("api_requests_total", "counter", ["method", "route", "status"], "Answered API requests."),
  daemon("reactor_volumes", "gauge", ["reactor"], "Volumes that the reactor serves."),
  daemon("reactor_loops_total", "counter", ["reactor"], "Turns of the reactor's loop."),
  daemon("reactor_sleeps_total", "counter", ["reactor"], "Times the reactor went to sleep."),
  daemon("reactor_enters_total", "counter", ["reactor"], "Calls of io_uring_enter."),
  daemon("reactor_busy_seconds_total", "counter", ["reactor"], "Time spent on work."),
  daemon("reactor_poll_seconds_total", "counter", ["reactor"], "Time spent polling in vain."),
  daemon("disks", "gauge", ["state"], "Disks of the store by state."),
  disk("size_bytes", "gauge", [], "Size of the disk's file or device."),
  disk("data_bytes", "gauge", [], "Space for data: the disk without journals and tables."),
  disk("used_bytes", "gauge", [], "Space that volumes take up."),
  disk("free_bytes", "gauge", [], "Space that can be written."),
  disk("quarantined_bytes", "gauge", [], "Space freed, and not to be used again yet."),
  disk("ring_bytes", "gauge", [], "Size of the ring journal."),
  disk("ring_used_bytes", "gauge", [], "What of the ring is not written back yet."),
  disk("bad_blocks", "gauge", [], "Blocks whose checksum does not match."),
  disk("uncertain_writes", "gauge", [], "Unanswered writes found at the last opening."),
  disk("scrub_position_bytes", "gauge", [], "How far the scrub has come in its round."),
  disk("store_total", "counter", ["counter"], "What the store counts, by name of the counter."),
  daemon("iscsi_sessions", "gauge", ["reactor"], "iSCSI sessions that are logged in."),
  daemon("iscsi_connections_total", "counter", ["reactor"], "iSCSI connections taken."),
  daemon(
    "iscsi_connections_refused_total",
    "counter",
    ["reactor"],
    "iSCSI connections hung up on at once: too many.",
  ),
  daemon("iscsi_logins_total", "counter", ["reactor"], "iSCSI logins that succeeded."),
  daemon("iscsi_logins_refused_total", "counter", ["reactor"], "iSCSI logins that were refused."),
  daemon(
    "iscsi_reinstatements_total",
    "counter",
    ["reactor"],
    "iSCSI sessions ended because their initiator logged in again.",
  ),
  daemon("rebuilds", "gauge", ["stage"], "Copies that this node's volumes bring up to date."),
  daemon("rebuild_moved_bytes_total", "counter", [], "Bytes copied to bring copies up to date."),
  daemon("rebuild_limit_bytes_per_second", "gauge", ["mode"], "What rebuilds may copy, together."),
  volume("size_bytes", "gauge", [], "Size of the volume."),
  volume("attached", "gauge", [], "1 when the volume is declared attached."),
  volume("connected", "gauge", [], "1 when a front-end has started rings, or one is logged in."),
  volume("sessions", "gauge", [], "Sessions open on the volume's socket, or with its target."),
  volume("operations_total", "counter", ["op"], "Completed requests: read, write, flush, discard."),
  volume("bytes_total", "counter", ["op"], "Bytes read and written."),
  volume("errors_total", "counter", [], "Requests completed with an error."),
  volume(
    "scsi_commands_total",
    "counter",
    [],
    "SCSI commands of initiators, and of guests by virtio-scsi.",
  ),
  volume("ring_errors_total", "counter", [], "Queues stopped because of what the guest put there."),
  volume(
    "late_wakeups_total",
    "counter",
    ["of"],
    "Wake-ups that a guest's machine lost, of the volume or of the guest, and made up for.",
  ),
  volume("inflight_requests", "gauge", [], "Requests taken from the rings and not yet completed."),
  volume("latency_seconds", "histogram", ["op"], "From taking a request to completing it."),
];

const BY_NAME = new Map(METRICS.map((metric) => [metric.name, metric]));

export function metricOf(name: string): Metric {
  const metric = BY_NAME.get(name);
  if (metric === undefined) throw new Error(`no metric is called ${name}: see model/metrics.ts`);
  return metric;
}

/** docs/metrics.md. */
export function metricsPage(): string {
  const row = ({ name, kind, labels, help }: Metric): string => {
    const quoted = labels.map((label) => `\`${label}\``).join(" ");
    return `| \`${name}\` | ${kind} | ${quoted} | ${help} |`;
  };
  const section = (perVolume: boolean): string =>
    [
      "| name | kind | labels | meaning |",
      "| --- | --- | --- | --- |",
      ...METRICS.filter((metric) => metric.perVolume === perVolume).map(row),
    ].join("\n");
  return `# Metrics

Served in the Prometheus text format at \`/metrics\` and \`/v1/metrics\`, on the API's unix socket
and, with a token, on \`--listen\`. Counters start at zero with each start of the daemon. This page
is generated from \`src/model/metrics.ts\`.

## Daemon

${section(false)}

## Volumes

Only attached volumes have the series of their I/O. \`--no-volume-metrics\` leaves this section out.

${section(true)}
`;
}
