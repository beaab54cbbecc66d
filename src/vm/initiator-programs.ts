// What a guest needs to reach disks over a network as a Linux host does: Debian's open-iscsi over
// the kernel's own initiator, and multipath-tools above two ways to one disk. For guests that ask:
// with their libraries they are 12 MB that every other guest's boot does without.
//
// multipathd hears of disks from udev and takes their identifiers from it, so there is a udevd,
// with as few rules as will do: Debian's for device-mapper, and one that asks a disk who it is.

import type { GuestProgram } from "./initramfs.ts";

function sbin(program: string, debianPackage: string, ...configuration: string[]): GuestProgram {
  return { program, debianPackage, paths: [`/sbin/${program}`], configuration };
}

export const OPEN_ISCSI: readonly GuestProgram[] = [
  sbin("iscsid", "open-iscsi", "/etc/iscsi/iscsid.conf"),
  sbin("iscsiadm", "open-iscsi"),
];

export const ISCSI_MODULES: readonly string[] = ["virtio_net", "sd_mod", "iscsi_tcp"];

const RULES = "/lib/udev/rules.d";
/** How it checks paths, and how it ranks them: the kernel is asked, or the disk itself. */
const PLUGINS = ["checktur", "prioconst", "priosysfs", "prioalua"].map(
  (name) => `/lib/multipath/lib${name}.so`,
);

export const MULTIPATH: readonly GuestProgram[] = [
  {
    ...sbin("multipathd", "multipath-tools", `${RULES}/56-dm-mpath.rules`, ...PLUGINS),
    // glibc's, for the end of a thread.
    loads: ["libgcc_s.so.1"],
  },
  sbin("dmsetup", "dmsetup", `${RULES}/55-dm.rules`, `${RULES}/95-dm-notify.rules`),
  { program: "scsi_id", debianPackage: "udev", paths: ["/lib/udev/scsi_id"] },
  // One program that is told by its name what it is.
  { program: "udevadm", debianPackage: "udev", paths: ["/bin/udevadm", "/sbin/systemd-udevd"] },
];

/**
 * Of the usual kernel: the cloud kernel has no ALUA, which hosts have between their paths and the
 * map. What the cloud kernel has built in is a module there.
 */
export const MULTIPATH_MODULES: readonly string[] = [
  "scsi_dh_alua",
  "dm_multipath",
  "dm_service_time",
  "crc32c_generic",
  "ext4",
];

/** The line of Debian's 60-persistent-storage.rules that counts here. */
export const MULTIPATH_FILES: Readonly<Record<string, { content: string }>> = {
  [`${RULES}/60-disks.rules`]: {
    content:
      'SUBSYSTEM=="block", KERNEL=="sd*[!0-9]", ' +
      'IMPORT{program}="scsi_id --export --whitelisted -d $devnode", ENV{ID_BUS}="scsi"\n',
  },
};
