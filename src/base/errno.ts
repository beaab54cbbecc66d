// Linux error numbers. On the data path a result is a small integer: >= 0 is bytes or success,
// < 0 is a negated errno. It becomes an Error object only at the edge (errnoName).

export const EPERM = 1;
export const ENOENT = 2;
export const EINTR = 4;
export const EIO = 5;
export const EBADF = 9;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EFAULT = 14;
export const EBUSY = 16;
export const EEXIST = 17;
export const ENODEV = 19;
export const EINVAL = 22;
export const EMFILE = 24;
export const EFBIG = 27;
export const ENOSPC = 28;
export const EROFS = 30;
export const EPIPE = 32;
export const ERANGE = 34;
export const ENOSYS = 38;
export const EPROTO = 71;
export const EBADMSG = 74;
export const EILSEQ = 84;
export const EMSGSIZE = 90;
export const EADDRINUSE = 98;
export const EOPNOTSUPP = 95;
export const ENOBUFS = 105;
export const ECONNRESET = 104;
export const ETIME = 62;
export const ENOTCONN = 107;
export const ETIMEDOUT = 110;
export const ECONNREFUSED = 111;
export const ESTALE = 116;
export const ECANCELED = 125;
export const ENXIO = 6;
export const ENOTDIR = 20;
export const EISDIR = 21;
export const ETXTBSY = 26;
export const ENAMETOOLONG = 36;
export const ELOOP = 40;
export const EDQUOT = 122;

const NAMES = new Map<number, string>([
  [EPERM, "EPERM"],
  [ENOENT, "ENOENT"],
  [EINTR, "EINTR"],
  [EIO, "EIO"],
  [EBADF, "EBADF"],
  [EAGAIN, "EAGAIN"],
  [ENOMEM, "ENOMEM"],
  [EACCES, "EACCES"],
  [EFAULT, "EFAULT"],
  [EBUSY, "EBUSY"],
  [EEXIST, "EEXIST"],
  [ENODEV, "ENODEV"],
  [EINVAL, "EINVAL"],
  [EMFILE, "EMFILE"],
  [EFBIG, "EFBIG"],
  [ENOSPC, "ENOSPC"],
  [EROFS, "EROFS"],
  [EPIPE, "EPIPE"],
  [ERANGE, "ERANGE"],
  [ENOSYS, "ENOSYS"],
  [EPROTO, "EPROTO"],
  [EBADMSG, "EBADMSG"],
  [EILSEQ, "EILSEQ"],
  [EMSGSIZE, "EMSGSIZE"],
  [EADDRINUSE, "EADDRINUSE"],
  [EOPNOTSUPP, "EOPNOTSUPP"],
  [ENOBUFS, "ENOBUFS"],
  [ECONNRESET, "ECONNRESET"],
  [ETIME, "ETIME"],
  [ENOTCONN, "ENOTCONN"],
  [ETIMEDOUT, "ETIMEDOUT"],
  [ECONNREFUSED, "ECONNREFUSED"],
  [ESTALE, "ESTALE"],
  [ECANCELED, "ECANCELED"],
  [ENXIO, "ENXIO"],
  [ENOTDIR, "ENOTDIR"],
  [EISDIR, "EISDIR"],
  [ETXTBSY, "ETXTBSY"],
  [ENAMETOOLONG, "ENAMETOOLONG"],
  [ELOOP, "ELOOP"],
  [EDQUOT, "EDQUOT"],
]);

/** `-28` or `28` -> `"ENOSPC"`; an unlisted number -> `"errno 77"`. */
export function errnoName(result: number): string {
  const errno = Math.abs(result);
  return NAMES.get(errno) ?? `errno ${errno}`;
}
