// Exports that nothing in the tree uses, and that stay all the same. Each has its reason; an entry
// that has become needless is itself a finding.

export interface AllowedExport {
  readonly path: string;
  /** "*" for a file that is a specification's table, complete whether or not we use it all. */
  readonly name: string;
  readonly why: string;
}

export const ALLOWED_EXPORTS: readonly AllowedExport[] = [
  {
    path: "src/uring/layouts.ts",
    name: "*",
    why: "the kernel's io_uring interface; features and operations are listed by their number",
  },
  {
    path: "src/iscsi/layouts.ts",
    name: "*",
    why: "PDUs, opcodes and status codes of RFC 7143, whether or not this side sends them",
  },
];
