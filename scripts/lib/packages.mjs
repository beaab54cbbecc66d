// The Debian packages that running, testing and measuring need: one place, a reason each.
//
// - "install": apt-get installs it (root or sudo). Only packages that bring no service.
// - "unpack": fetched and unpacked below .cache/, never installed; its libraries are installed.
//   For packages that bring a service, or that would push out another package.

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
    how: "install",
    program: "mkfs.ext4",
    why: "file systems made and checked by the guest tests",
  },
  {
    name: "fio",
    how: "unpack",
    program: "fio",
    path: "usr/bin/fio",
    why: "load that is not ours; unpacked, because the package registers a network service",
  },
  {
    name: "busybox-static",
    how: "unpack",
    program: "busybox",
    path: "bin/busybox",
    isStatic: true,
    why: "the guest's user land; unpacked, because installing it removes the package busybox",
  },
];
