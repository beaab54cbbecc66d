// Where everything of one daemon lives, and whether it can live there.
//
//   DATA/                 0750   lock, node.json, api.tokens
//   DATA/ringstored.sock  0600   the REST API
//   DATA/state/           0700   NAME.json: declared volumes (state-store.ts)
//   DATA/disks/           0700   NAME.json: declared disks of the store
//   DATA/attached/        0700   NAME.json: attached volumes of the cluster
//   DATA/iscsi/           0700   ID.json: reservations, ID.chap*: secrets (classic-keeper.ts)
//   DATA/cluster.*        0600   of which cluster it is a node (cluster-file.ts)
//   DATA/volumes/         0700   ID.img: managed data files
//   DATA/vhost/           0750   NAME.sock: vhost-user sockets, for the socket group;
//                                NAME.scsi.sock: those of virtio-scsi controllers
//
// Invariant: every socket path fits sun_path. The API's socket is checked at start; a volume whose
// name makes its path too long is refused when it is created.

import { chmodSync, chownSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { RingstoreError } from "../base/error.ts";
import { API_SOCKET_NAME, SOCKET_DIRECTORY_MODE, UNIX_PATH_MAX_BYTES } from "../model/limits.ts";

export class StartError extends RingstoreError<"cannot_start"> {
  override readonly name: string = "StartError";
}

function fail(message: string, advice: string, cause?: unknown): never {
  throw new StartError(
    "cannot_start",
    message,
    cause === undefined ? { advice } : { advice, cause },
  );
}

export interface DataDirectory {
  readonly root: string;
  readonly lockPath: string;
  readonly nodePath: string;
  readonly tokenPath: string;
  readonly apiSocket: string;
  readonly stateDirectory: string;
  readonly diskDirectory: string;
  readonly attachedDirectory: string;
  readonly iscsiDirectory: string;
  readonly volumeDirectory: string;
  readonly socketDirectory: string;
}

/** `socketDirectory` "" = in the data directory. Throws StartError when a path is too long. */
export function layOutDataDirectory(dataPath: string, socketPath: string): DataDirectory {
  const root = resolve(dataPath);
  const socketDirectory = socketPath === "" ? join(root, "vhost") : resolve(socketPath);
  const paths: DataDirectory = {
    root,
    lockPath: join(root, "lock"),
    nodePath: join(root, "node.json"),
    tokenPath: join(root, "api.tokens"),
    apiSocket: join(root, API_SOCKET_NAME),
    stateDirectory: join(root, "state"),
    diskDirectory: join(root, "disks"),
    attachedDirectory: join(root, "attached"),
    iscsiDirectory: join(root, "iscsi"),
    volumeDirectory: join(root, "volumes"),
    socketDirectory,
  };
  for (const socket of [paths.apiSocket, socketPathOf(paths, "a")]) {
    const bytes = Buffer.byteLength(socket);
    if (bytes <= UNIX_PATH_MAX_BYTES) continue;
    fail(
      `the socket path ${socket} has ${bytes} bytes; Linux allows ${UNIX_PATH_MAX_BYTES}`,
      "use a shorter --data directory, or a short --socket-dir for the vhost-user sockets",
    );
  }
  return paths;
}

export function socketPathOf(paths: DataDirectory, name: string): string {
  return join(paths.socketDirectory, `${name}.sock`);
}

/** No volume's socket is called so: names have no dots. */
export function controllerSocketOf(paths: DataDirectory, controller: string): string {
  return join(paths.socketDirectory, `${controller}.scsi.sock`);
}

/** The longest volume name whose socket path still fits. */
export function nameBytesMax(paths: DataDirectory): number {
  return UNIX_PATH_MAX_BYTES - Buffer.byteLength(socketPathOf(paths, ""));
}

export function volumeFileOf(paths: DataDirectory, id: string): string {
  return join(paths.volumeDirectory, `${id}.img`);
}

/** Makes the directories that are missing. `socketGroupId` -1 = leave the group alone. */
export function makeDataDirectory(paths: DataDirectory, socketGroupId: number): void {
  const madeRoot = makeDirectory(paths.root, 0o750);
  if (madeRoot && socketGroupId >= 0) setGroup(paths.root, socketGroupId);
  makeDirectory(paths.stateDirectory, 0o700);
  makeDirectory(paths.diskDirectory, 0o700);
  makeDirectory(paths.attachedDirectory, 0o700);
  makeDirectory(paths.iscsiDirectory, 0o700);
  makeDirectory(paths.volumeDirectory, 0o700);
  makeDirectory(paths.socketDirectory, SOCKET_DIRECTORY_MODE);
  if (socketGroupId >= 0) setGroup(paths.socketDirectory, socketGroupId);
}

function makeDirectory(path: string, mode: number): boolean {
  try {
    if (mkdirSync(path, { recursive: true, mode }) !== undefined) {
      chmodSync(path, mode);
      return true;
    }
    if (statSync(path).isDirectory()) return false;
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? String(error);
    fail(`cannot make the directory ${path}: ${reason}`, "choose another --data directory", error);
  }
  return fail(`${path} is not a directory`, "choose another --data directory");
}

function setGroup(path: string, groupId: number): void {
  const { uid, gid } = statSync(path);
  if (gid === groupId) return;
  try {
    chownSync(path, uid, groupId);
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? String(error);
    const advice = "run the daemon as root or as a member of that group";
    fail(`cannot give ${path} to group ${groupId}: ${reason}`, advice, error);
  }
}

/** Group name or number to its number; "" = -1. Read from /etc/group, as files(5) has it. */
export function groupIdOf(group: string, option: string, file = "/etc/group"): number {
  if (group === "") return -1;
  if (/^\d{1,9}$/.test(group)) return Number(group);
  for (const line of readFileSync(file, "utf8").split("\n")) {
    const fields = line.split(":");
    if (fields[0] === group) return Number(fields[2]);
  }
  return fail(`${option}: there is no group ${JSON.stringify(group)}`, "see /etc/group");
}
