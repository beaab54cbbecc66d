// Limits and defaults of the control plane, in one place. Plain numbers and strings: imported by
// the daemon's start path and the CLI, which must not pay for loading a schema library.

/** A DNS label: it becomes a file name, a socket name, a QEMU id and a metric label. */
export const VOLUME_NAME_PATTERN = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";
export const VOLUME_NAME_LENGTH_MAX = 63;

/** Below this a size is nearly always a forgotten unit (`--size 20` meaning 20G). */
export const VOLUME_SIZE_MIN_BYTES: number = 1024 * 1024;
/** 1 PiB: sizes and offsets stay exact JS numbers with room for arithmetic on them. */
export const VOLUME_SIZE_MAX_BYTES: number = 2 ** 50;
/** Declared volumes of one daemon. Everything listed fits one reply of a few MiB. */
export const VOLUME_COUNT_MAX = 4096;

/** Disks of one node. */
export const DISK_COUNT_MAX = 64;
/** The block of the store: volumes in it are whole blocks, whatever block their guests see. */
export const STORE_BLOCK_BYTES = 4096;
/** Findings of a check that are kept to be shown; all are counted. */
export const DISK_FINDINGS_MAX = 100;

/** Copies of a volume: a segment of a placement page has room for so many. */
export const REPLICA_COUNT_MAX = 3;
/** Servers of one metadata store that are tried in turn. */
export const METADATA_ENDPOINT_COUNT_MAX = 16;
/** Nodes listed in one reply. */
export const NODE_COUNT_MAX = 1024;
/** `HOST:PORT`, with a host name as long as the DNS allows, or a URL of that. */
export const ADDRESS_LENGTH_MAX = 300;
/** With the certificate of the metadata's authority in it. */
export const CLUSTER_TOKEN_LENGTH_MAX = 32_768;

export const BLOCK_BYTES_CHOICES = [512, 4096] as const;
export const BLOCK_BYTES_DEFAULT = 512;

/** What GET_ID can carry (virtio 1.2, section 5.2.6). */
export const SERIAL_LENGTH_MAX = 20;
export const SERIAL_PATTERN = "^[!-~]{1,20}$";

/** virtqueues a front-end may use, and what the printed QEMU command line asks for. */
export const QUEUE_COUNT_MAX = 128;
export const QUEUE_COUNT_HINT = 4;

/** Logical unit numbers of a virtio-scsi controller: 0 to this. */
export const LUN_MAX = 255;

/** Of initiators and targets (RFC 7143 section 4.2.7.1). */
export const ISCSI_NAME_LENGTH_MAX = 223;
/** What initiators, and targets, prove themselves as with CHAP. */
export const CHAP_USER_PATTERN = "^[!-~]{1,64}$";
/** Stands in printed command lines where the caller's own file of the secret belongs. */
export const CHAP_SECRET_FILE = "CHAP-SECRET-FILE";
/** Initiators that one volume lets in by name. */
export const INITIATOR_COUNT_MAX = 64;
/** RFC 7143 section 9.2.1 wants 96 bits at least. */
export const CHAP_SECRET_LENGTH_MIN = 12;
export const CHAP_SECRET_LENGTH_MAX = 64;
/** The port that IANA has given to iSCSI targets. */
export const ISCSI_LISTEN_DEFAULT = "127.0.0.1:3260";

/** sun_path is 108 bytes with its final NUL (unix(7)). */
export const UNIX_PATH_MAX_BYTES = 107;
export const PATH_LENGTH_MAX = 4095;

/** Modes that let a guest's QEMU, in the socket group, connect and nobody else. */
export const SOCKET_DIRECTORY_MODE = 0o750;
export const SOCKET_MODE = 0o660;

export const REACTOR_COUNT_MAX = 64;
export const POLL_US_MAX = 10_000;

/** Mutating calls that may wait for one volume or disk; the next is answered `…_busy`. */
export const WAITER_MAX = 16;

export const REQUEST_BODY_MAX_BYTES: number = 64 * 1024;
export const EVENT_HISTORY_MAX = 1024;
export const EVENT_STREAM_MAX = 32;

export const DATA_DIRECTORY_DEFAULT = "/var/lib/ringstore";
export const API_SOCKET_NAME = "ringstored.sock";
export const API_VERSION = 1;
