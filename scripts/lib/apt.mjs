// Debian packages, installed or unpacked, without touching any service of the machine.
//
// Invariants:
// - No service is started, enabled or reconfigured. dpkg runs with a PATH on which the programs
//   that maintainer scripts use for that are stand-ins that do nothing; nothing on the machine is
//   changed to get there, and nothing is left behind.
// - No package is removed (--no-remove).
// - A folder below .cache/debian is complete, or it does not exist: it is renamed into place.

import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { CACHE, CACHE_BIN, SetupError, say } from "./project.mjs";
import { capture, run } from "./run.mjs";

const LISTS = "/var/lib/apt/lists";
/** Mirrors drop superseded versions; older lists name files that are gone. */
const LISTS_AGE_DAYS_MAX = 7;
/** Another apt may be at work: a machine that has just booted upgrades itself. */
const LOCK_WAIT_SECONDS = 300;

const SERVICE_PROGRAMS = [
  "deb-systemd-helper",
  "deb-systemd-invoke",
  "invoke-rc.d",
  "service",
  "systemctl",
  "update-rc.d",
];

const UNPACKED = join(CACHE, "debian");

/** Makes every package of the list available; says what it does; throws what a person must do. */
export function ensureDebianPackages(packages) {
  const unpack = packages.filter((entry) => entry.how === "unpack");
  const install = packages.filter((entry) => entry.how === "install");
  const missing = notInstalled(install.map((entry) => entry.name));
  const toUnpack = unpack.filter((entry) => !isAvailable(entry));
  if (missing.length === 0 && toUnpack.length === 0) {
    // The guest's kernel is looked up in the lists when it is fetched for the first time.
    if (hasLists() || existsSync(join(CACHE, "vm"))) return;
  }
  const root = rootCommand();
  if (root !== null && (!hasLists() || listsAgeDays() > LISTS_AGE_DAYS_MAX)) update(root);
  const libraries = new Set();
  if (hasLists()) {
    for (const entry of toUnpack) for (const name of unpackPackage(entry)) libraries.add(name);
  } else {
    // Without lists nothing can be fetched, and its libraries are those that we know of. Once root
    // has run the command, the lists are there, and the next run unpacks.
    for (const entry of toUnpack) for (const name of entry.libraries ?? []) libraries.add(name);
  }
  const wanted = [...missing, ...notInstalled([...libraries])];
  const isBlind = toUnpack.length > 0 && !hasLists();
  if (isBlind && root !== null) {
    throw new SetupError("apt has no lists of packages, and apt-get update failed (above).");
  }
  if (wanted.length > 0 || isBlind) installPackages(wanted, root);
  for (const entry of toUnpack) linkPrograms(entry);
}

function installPackages(names, root) {
  const install = ["&& apt-get install -y --no-install-recommends", ...names];
  const command = ["apt-get update", ...(names.length > 0 ? install : [])].join(" ");
  if (root === null) {
    throw new SetupError(
      "Debian packages are missing, and this user may not install them.\n" +
        `As root, run:\n\n  ${command}\n`,
    );
  }
  say(`Installing Debian packages: ${names.join(" ")}`);
  const arguments_ = ["install", "-y", "--no-install-recommends", "--no-remove", ...names];
  if (aptGet(root, arguments_) === 0) return;
  // The lists may name versions that the mirror no longer has.
  update(root);
  if (aptGet(root, arguments_) === 0) return;
  throw new SetupError(
    `apt-get could not install ${names.join(" ")}; its words are above.\n` +
      `When that is mended, run this again, or as root:\n\n  ${command}\n`,
  );
}

function update(root) {
  say("Fetching the lists of Debian packages.");
  if (aptGet(root, ["update"]) !== 0)
    say("apt-get update failed; going on with the lists at hand.");
}

/** Runs apt-get as root, with stand-ins for whatever could touch a service. */
function aptGet(root, args) {
  const folder = mkdtempSync(join(tmpdir(), "ringstore-apt-"));
  try {
    chmodSync(folder, 0o755);
    for (const name of SERVICE_PROGRAMS) {
      writeFileSync(join(folder, name), "#!/bin/sh\nexit 0\n", { mode: 0o755 });
    }
    const settings = [
      `DPkg::Path=${folder}:/usr/sbin:/usr/bin:/sbin:/bin`,
      `DPkg::Lock::Timeout=${LOCK_WAIT_SECONDS}`,
      "Dpkg::Use-Pty=0",
      // What the machine's owner changed in a package's files stays as it is.
      "Dpkg::Options::=--force-confdef",
      "Dpkg::Options::=--force-confold",
    ].flatMap((setting) => ["-o", setting]);
    const environment = [
      "DEBIAN_FRONTEND=noninteractive",
      // needrestart would restart the services that use an upgraded library.
      "NEEDRESTART_SUSPEND=1",
      // What a script that calls invoke-rc.d by its full path is told: single user, start nothing.
      "RUNLEVEL=1",
    ];
    const [command, ...rest] = [...root, "env", ...environment, "apt-get", ...settings, ...args];
    return run(command, rest);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** How to be root: directly, by a sudo that asks nothing, or (null) not at all. */
function rootCommand() {
  if (process.getuid() === 0) return [];
  return capture("sudo", ["-n", "true"]) === null ? null : ["sudo", "-n"];
}

function notInstalled(names) {
  if (names.length === 0) return [];
  // dpkg-query fails for names it has never seen, and still prints the others.
  const format = "$" + "{Package} $" + "{db:Status-Status}\n";
  const printed = capture("sh", [
    "-c",
    'dpkg-query -W -f "$0" "$@" 2>/dev/null; true',
    format,
    ...names,
  ]);
  if (printed === null) throw new SetupError("dpkg-query cannot be run: is this Debian?");
  const installed = new Set(
    printed
      .split("\n")
      .filter((line) => line.endsWith(" installed"))
      .map((line) => line.split(" ")[0]),
  );
  return names.filter((name) => !installed.has(name));
}

function hasLists() {
  try {
    return readdirSync(LISTS).some((name) => /_Packages(?:\.\w+)?$/.test(name));
  } catch {
    return false;
  }
}

function listsAgeDays() {
  const updated = ["", "partial"].map((name) => {
    try {
      return statSync(join(LISTS, name)).mtimeMs;
    } catch {
      return 0;
    }
  });
  return (Date.now() - Math.max(...updated)) / 86_400_000;
}

function isAvailable(entry) {
  if (notInstalled([entry.name]).length === 0) return true;
  return entry.paths.every((path) => existsSync(join(CACHE_BIN, basename(path))));
}

function folderOf(entry) {
  return join(UNPACKED, entry.name);
}

/** Fetches and unpacks a package; returns the libraries that it needs installed. */
function unpackPackage(entry) {
  say(`Unpacking ${entry.name} into .cache/: ${entry.why}`);
  mkdirSync(UNPACKED, { recursive: true });
  const work = mkdtempSync(join(UNPACKED, `.${entry.name}-`));
  try {
    // Root reads and writes this folder, and apt's own user may not: it would warn of that.
    const asRoot = process.getuid() === 0 ? ["-o", "APT::Sandbox::User=root"] : [];
    if (run("apt-get", [...asRoot, "download", entry.name], { cwd: work }) !== 0) {
      throw new SetupError(
        `apt-get could not download ${entry.name}; its words are above.\n` +
          "If the lists are old, run as root: apt-get update",
      );
    }
    const archive = readdirSync(work).find((name) => name.endsWith(".deb"));
    if (archive === undefined) throw new SetupError(`apt-get downloaded no ${entry.name}.`);
    const tree = join(work, "tree");
    if (run("dpkg-deb", ["-x", join(work, archive), tree]) !== 0) {
      throw new SetupError(`dpkg-deb could not unpack ${archive}; its words are above.`);
    }
    const depends = capture("dpkg-deb", ["-f", join(work, archive), "Depends"]) ?? "";
    rmSync(folderOf(entry), { recursive: true, force: true });
    renameSync(tree, folderOf(entry));
    return entry.isStatic === true ? [] : libraryNames(depends);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** `libc6 (>= 2.34), libaio1 | libaio1t64, python3, libx-perl` -> `["libc6", "libaio1"]`. */
function libraryNames(depends) {
  return depends
    .split(",")
    .map((part) => part.trim().split(/[\s(|]/)[0])
    .filter((name) => /^(?:lib|zlib)/.test(name) && !name.endsWith("-perl"));
}

function linkPrograms(entry) {
  mkdirSync(CACHE_BIN, { recursive: true });
  for (const path of entry.paths) {
    const link = join(CACHE_BIN, basename(path));
    rmSync(link, { force: true });
    symlinkSync(join("..", "debian", entry.name, path), link);
  }
}
