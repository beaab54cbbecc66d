// Turns etcd's authentication on, as its administrator would with etcdctl: a user with the role
// "root" (api/etcdserverpb/rpc.proto, service Auth). Ringstore itself never administers etcd.

import { EtcdConnection, type EtcdOptions } from "../../meta/etcd-connection.ts";
import { EMPTY_REQUEST, HEADER_ONLY } from "../../meta/etcd-messages.ts";
import { method } from "../../meta/etcd-services.ts";
import { type MessageType, message, text } from "../../meta/protobuf.ts";

interface TwoWords {
  first: string;
  second: string;
}

/** AuthUserAddRequest (name, password), AuthUserGrantRoleRequest (user, role), AuthRoleAddRequest. */
const TWO_WORDS: MessageType<TwoWords> = message("TwoWords", { first: text(1), second: text(2) });

export async function enableEtcdAuth(
  options: EtcdOptions,
  user: { readonly name: string; readonly password: string },
): Promise<void> {
  const connection = new EtcdConnection(options);
  const ask = (name: string, first: string, second: string): Promise<unknown> => {
    const path = `/etcdserverpb.Auth/${name}`;
    return connection.unary(
      method(path, TWO_WORDS, HEADER_ONLY),
      { first, second },
      { isWrite: true },
    );
  };
  try {
    await ask("RoleAdd", "root", "");
    // etcd wants its root user to be there; we work as another one with the same role.
    for (const name of new Set(["root", user.name])) {
      await ask("UserAdd", name, user.password);
      await ask("UserGrantRole", name, "root");
    }
    const enable = method("/etcdserverpb.Auth/AuthEnable", EMPTY_REQUEST, HEADER_ONLY);
    await connection.unary(enable, {}, { isWrite: true });
  } finally {
    connection.close();
  }
}
