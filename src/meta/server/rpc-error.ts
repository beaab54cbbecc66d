// Refusals in etcd's own words (api/v3rpc/rpctypes/error.go): clients tell them apart by status and
// text, and so that ours need not know whom they talk to.

import { status } from "@grpc/grpc-js";

export class RpcError extends Error {
  override readonly name = "RpcError";
  readonly code: status;
  readonly details: string;

  constructor(code: status, details: string) {
    super(details);
    this.code = code;
    this.details = details;
  }
}

export const emptyKey = (): RpcError =>
  new RpcError(status.INVALID_ARGUMENT, "etcdserver: key is not provided");
export const tooManyOperations = (): RpcError =>
  new RpcError(status.INVALID_ARGUMENT, "etcdserver: too many operations in txn request");
export const duplicateKey = (): RpcError =>
  new RpcError(status.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request");
export const requestTooLarge = (): RpcError =>
  new RpcError(status.INVALID_ARGUMENT, "etcdserver: request is too large");
export const noSpace = (): RpcError =>
  new RpcError(status.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded");
export const compacted = (): RpcError =>
  new RpcError(status.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted");
export const futureRevision = (): RpcError =>
  new RpcError(status.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision");
export const leaseNotFound = (): RpcError =>
  new RpcError(status.NOT_FOUND, "etcdserver: requested lease not found");
export const leaseExists = (): RpcError =>
  new RpcError(status.FAILED_PRECONDITION, "etcdserver: lease already exists");
export const leaseTooLong = (): RpcError =>
  new RpcError(status.OUT_OF_RANGE, "etcdserver: too large lease TTL");
export const invalidToken = (): RpcError =>
  new RpcError(status.UNAUTHENTICATED, "etcdserver: invalid auth token");
export const noUser = (): RpcError =>
  new RpcError(status.INVALID_ARGUMENT, "etcdserver: user name is empty");
export const wrongPassword = (): RpcError =>
  new RpcError(
    status.INVALID_ARGUMENT,
    "etcdserver: authentication failed, invalid user ID or password",
  );
/** Ours: etcd has no such limit. */
export const answerTooLarge = (limitBytes: number): RpcError =>
  new RpcError(
    status.RESOURCE_EXHAUSTED,
    `etcdserver: the answer exceeds ${limitBytes} bytes: ask with a limit`,
  );
/** Ours: etcd could do it. */
export const notServed = (what: string): RpcError =>
  new RpcError(status.INVALID_ARGUMENT, `etcdserver: the embedded server does not serve ${what}`);
