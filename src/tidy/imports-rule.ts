// Rule: imports follow the table in rooms.ts.
//
// Invariant: type imports count like any other; a room that knows another's types knows the room.

import { dirname, join } from "node:path/posix";
import { findImports, type ModuleImport } from "./modules.ts";
import { type Finding, isTestPath, type Project, type SourceFile } from "./project.ts";
import { allowsImport, findRoom, type Room, TEST_IMPORTS, TEST_PACKAGES } from "./rooms.ts";

export function checkImports(project: Project): Finding[] {
  const findings: Finding[] = [];
  for (const file of project.sources) {
    const room = findRoom(file.room);
    if (room === undefined) {
      const message =
        file.room === ""
          ? "is in no room: move it into a folder of src/"
          : `room "${file.room}" is not in src/tidy/rooms.ts: declare what it is for there`;
      findings.push({ path: file.path, line: 0, message });
      continue;
    }
    for (const one of findImports(file.lexed.code)) {
      const message = judge(file, room, one);
      if (message !== null) findings.push({ path: file.path, line: one.line, message });
    }
  }
  return findings;
}

function judge(file: SourceFile, room: Room, one: ModuleImport): string | null {
  const { specifier } = one;
  if (specifier.startsWith(".")) {
    return judgeFile(file, room, resolveImport(file.path, specifier), specifier);
  }
  if (specifier.startsWith("node:")) {
    if (file.isTest || room.setting === "node") return null;
    return room.setting === "pure"
      ? `${room.name}/ runs in the simulator, without "${specifier}": take a port`
      : `${room.name}/ runs in a browser too, without "${specifier}": have it handed in`;
  }
  const packageName = specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");
  if (packageName === "koffi" && room.name !== "sys") {
    return "only sys/ loads koffi: add a plain function there and call that";
  }
  if (room.packages.includes(packageName)) return null;
  if (file.isTest && TEST_PACKAGES.includes(packageName)) return null;
  return (
    `${room.name}/ may not import the package "${packageName}": ` +
    `${listOr(room.packages, "it has no packages")}; write it here, or move this to a room that may`
  );
}

function judgeFile(file: SourceFile, room: Room, target: string, specifier: string): string | null {
  const [top, targetRoom, ...rest] = target.split("/");
  const fileName = rest.join("/");
  if (top !== "src" || targetRoom === undefined || fileName === "") {
    return `"${specifier}" leads out of src/: read such a file at run time, or move it into a room`;
  }
  if (isTestPath(target) && !file.isTest) {
    return `"${specifier}" is for tests: move what is shared into a file of its own`;
  }
  if (targetRoom === file.room) return null;
  if (rest[rest.length - 1]?.startsWith("_")) {
    return `"${specifier}" is private to ${targetRoom}/: import what its index.ts exports`;
  }
  if (allowsImport(room.imports, targetRoom, fileName)) return null;
  if (file.isTest && allowsImport(TEST_IMPORTS, targetRoom, fileName)) return null;
  if (targetRoom === "testing")
    return "testing/ is imported only by tests: name this file *.test.ts";
  const rule = listOr(room.imports, "it imports nothing");
  return (
    `${room.name}/ may not import ${targetRoom}/ (${rule}): ` +
    "take it as a port from whoever wires you, or move the shared part down"
  );
}

function listOr(names: readonly string[], none: string): string {
  return names.length === 0 ? none : `only ${names.join(", ")}`;
}

/** The project path that a relative import of a file names. */
export function resolveImport(path: string, specifier: string): string {
  return join(dirname(path), specifier);
}
