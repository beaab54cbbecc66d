// The Debian packages that running, testing and measuring need: one place, a reason each.
//
// - "install": apt-get installs it (root or sudo). Only packages that bring no service.
// - "unpack": where it is not installed, it is fetched and unpacked below .cache/, its `paths` are
//   linked in .cache/bin, and its libraries are installed. For packages that bring a service or a
//   timer, or that would push out another package. `libraries` are those beyond QEMU's on Debian
//   12: what is asked for where the package itself cannot be asked.

export const DEBIAN_PACKAGES = [
  {
    name: "qemu-system-x86",
    how: "install",
    program: "qemu-system-x86_64",
    why: "the virtual machines whose disks we serve",
  },
  {
    name: "qemu-system-common",
    how: "install",
    program: "qemu-storage-daemon",
    why: "qemu-storage-daemon: what the benchmarks are paired with",
  },
  {
    name: "qemu-utils",
    how: "install",
    program: "qemu-img",
    why: "qemu-img and qemu-io, as clients that are not ours",
  },
  {
    name: "qemu-block-extra",
    how: "install",
    why: "QEMU's iSCSI initiator: the classic way to a volume",
  },
  {
    name: "libiscsi-bin",
    how: "install",
    program: "iscsi-test-cu",
    why: "libiscsi's conformance suite, against our targets",
  },
  {
    name: "seabios",
    how: "install",
    why: "the firmware through which a guest boots from its disk",
  },
  {
    name: "libisal2",
    how: "install",
    why: "CRC32C at tens of gigabytes a second, called through koffi",
  },
  {
    name: "e2fsprogs",
    how: "unpack",
    program: "mkfs.ext4",
    paths: ["sbin/mkfs.ext4", "sbin/mke2fs", "sbin/e2fsck", "sbin/fsck.ext4", "sbin/debugfs"],
    libraries: ["libext2fs2", "libss2", "libcom-err2"],
    why: "file systems made and checked by the guest tests; it brings timers, but is mostly there",
  },
  {
    name: "fio",
    how: "unpack",
    program: "fio",
    paths: ["usr/bin/fio"],
    libraries: ["libnbd0", "libpmemblk1"],
    why: "load that is not ours; unpacked, because the package registers a network service",
  },
  {
    name: "etcd-server",
    how: "unpack",
    program: "etcd",
    paths: ["usr/bin/etcd"],
    isStatic: true,
    why: "metadata of clusters, in the tests; unpacked, because installing it starts a service",
  },
  {
    name: "sqlite3",
    how: "install",
    program: "sqlite3",
    why: "a database in the guests, whose transactions the tests cut off",
  },
  {
    name: "busybox-static",
    how: "unpack",
    program: "busybox",
    paths: ["bin/busybox"],
    isStatic: true,
    why: "the guest's user land; unpacked, because installing it removes the package busybox",
  },
];

/** What only a benchmark wants beside those: what we are compared with. */
export const PEER_PACKAGES = [
  {
    name: "tgt",
    how: "unpack",
    program: "tgtd",
    paths: ["usr/sbin/tgtd", "usr/sbin/tgtadm"],
    libraries: ["libaio1", "libibverbs1", "librdmacm1", "libsystemd0"],
    why: "an iSCSI target to compare with; unpacked, because installing it starts a service",
  },
];
