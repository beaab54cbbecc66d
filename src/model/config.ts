// Settings of `ringstored`: one table from which come the flags, the configuration file's keys,
// their checks, the help text, the man page and docs/configuration.md.
//
// A setting comes from, in this order: the flag, the configuration file, the default.

import { RingstoreError } from "../base/error.ts";
import {
  DATA_DIRECTORY_DEFAULT,
  ISCSI_LISTEN_DEFAULT,
  POLL_US_MAX,
  REACTOR_COUNT_MAX,
} from "./limits.ts";
import { quote } from "./volume-rules.ts";

export type LogLevelName = "debug" | "info" | "warn" | "error";

export interface DaemonConfig {
  readonly dataDirectory: string;
  readonly listen: string;
  readonly tokenFile: string;
  readonly tlsCert: string;
  readonly tlsKey: string;
  readonly reactorCount: number;
  readonly pollUs: number;
  readonly trustMemory: boolean;
  readonly scrubMibPerSecond: number;
  readonly repairAfterSeconds: number;
  readonly socketDirectory: string;
  readonly socketGroup: string;
  readonly apiGroup: string;
  readonly allowPaths: readonly string[];
  readonly iscsiListen: string;
  readonly iscsiConnections: number;
  readonly iscsiConnectionsPerAddress: number;
  readonly discoveryChapUser: string;
  readonly discoveryChapSecretFile: string;
  readonly discoveryChapTargetUser: string;
  readonly discoveryChapTargetSecretFile: string;
  readonly volumeMetrics: boolean;
  readonly logLevel: LogLevelName;
}

export type ConfigKey = keyof DaemonConfig;
type ConfigValue = string | number | boolean | readonly string[];

export interface Setting {
  readonly key: ConfigKey;
  readonly flag: string;
  /** "" for a switch. */
  readonly metavar: string;
  readonly kind: "text" | "path" | "integer" | "switch" | "choice" | "paths";
  readonly fallback: ConfigValue;
  readonly description: string;
  readonly choices?: readonly string[];
  readonly minimum?: number;
  readonly maximum?: number;
  /** Taken up by SIGHUP without a restart. */
  readonly reloadable?: boolean;
}

export class ConfigError extends RingstoreError<"invalid_config"> {
  override readonly name: string = "ConfigError";
}

export const SETTINGS: readonly Setting[] = [
  {
    key: "dataDirectory",
    flag: "data",
    metavar: "DIR",
    kind: "path",
    fallback: DATA_DIRECTORY_DEFAULT,
    description: "where volumes, declared state and sockets live; made when missing",
  },
  {
    key: "listen",
    flag: "listen",
    metavar: "HOST:PORT",
    kind: "text",
    fallback: "",
    description:
      "serve the REST API on this TCP address too, to callers with a token; " +
      "without --tls-cert in the clear: keep it on 127.0.0.1 then",
  },
  {
    key: "tokenFile",
    flag: "token-file",
    metavar: "FILE",
    kind: "path",
    fallback: "",
    description:
      "bearer tokens for --listen, one `name:token` per line; default DIR/api.tokens, " +
      "made with one token when missing; read again on SIGHUP",
    reloadable: true,
  },
  {
    key: "tlsCert",
    flag: "tls-cert",
    metavar: "FILE",
    kind: "path",
    fallback: "",
    description: "certificate (PEM, with its chain) of --listen, which speaks HTTPS then",
  },
  {
    key: "tlsKey",
    flag: "tls-key",
    metavar: "FILE",
    kind: "path",
    fallback: "",
    description: "key (PEM) of that certificate; readable by the daemon's user alone",
  },
  {
    key: "reactorCount",
    flag: "reactors",
    metavar: "N",
    kind: "integer",
    fallback: 1,
    minimum: 1,
    maximum: REACTOR_COUNT_MAX,
    description: "threads that serve volumes; each volume belongs to one",
  },
  {
    key: "pollUs",
    flag: "poll-us",
    metavar: "US",
    kind: "integer",
    fallback: 50,
    minimum: 0,
    maximum: POLL_US_MAX,
    description: "the longest a reactor polls for more work before it sleeps, in microseconds",
  },
  {
    key: "trustMemory",
    flag: "trust-memory",
    metavar: "",
    kind: "switch",
    fallback: false,
    description:
      "use guest memory directly even where the front-end could truncate it: faster for memory " +
      "that cannot be sealed, but a front-end that truncates it ends the daemon (SIGBUS)",
  },
  {
    key: "scrubMibPerSecond",
    flag: "scrub-mib-per-second",
    metavar: "N",
    kind: "integer",
    fallback: 8,
    minimum: 0,
    maximum: 65536,
    description:
      "how fast each disk of the store is read and verified in the background, in MiB per " +
      "second; a round is followed by a pause of six hours; 0 = never",
  },
  {
    key: "repairAfterSeconds",
    flag: "repair-after-seconds",
    metavar: "N",
    kind: "integer",
    fallback: 1800,
    minimum: 0,
    maximum: 31_536_000,
    description:
      "copies on a disk or a node of the cluster that has been gone for so long, in seconds, are " +
      "made anew elsewhere; the same on all nodes; 0 = never",
  },
  {
    key: "socketDirectory",
    flag: "socket-dir",
    metavar: "DIR",
    kind: "path",
    fallback: "",
    description: "where vhost-user sockets appear; default DIR/vhost of the data directory",
  },
  {
    key: "socketGroup",
    flag: "socket-group",
    metavar: "GROUP",
    kind: "text",
    fallback: "",
    description: "group (name or number) that may use the vhost-user sockets, e.g. kvm",
  },
  {
    key: "apiGroup",
    flag: "api-group",
    metavar: "GROUP",
    kind: "text",
    fallback: "",
    description:
      "group (name or number) that may use the API's unix socket; its members can do all " +
      "that the daemon can; default: only the daemon's own user",
  },
  {
    key: "allowPaths",
    flag: "allow-path",
    metavar: "DIR",
    kind: "paths",
    fallback: [],
    description:
      "directory whose files callers over TCP may name as backing; may be given more than once; " +
      "callers on the unix socket may name any",
  },
  {
    key: "iscsiListen",
    flag: "iscsi-listen",
    metavar: "HOST:PORT",
    kind: "text",
    fallback: ISCSI_LISTEN_DEFAULT,
    description:
      "where initiators reach volumes that are attached with --classic: an IP address of this " +
      "node; nothing listens before there is one; with N reactors N ports from this one on; port " +
      '0 takes free ones; "" = never',
  },
  {
    key: "iscsiConnections",
    flag: "iscsi-connections",
    metavar: "N",
    kind: "integer",
    fallback: 256,
    minimum: 1,
    maximum: 4096,
    description: "iSCSI connections of a reactor at once; more are hung up on",
  },
  {
    key: "iscsiConnectionsPerAddress",
    flag: "iscsi-connections-per-address",
    metavar: "N",
    kind: "integer",
    fallback: 256,
    minimum: 1,
    maximum: 4096,
    description: "the same from one address; lower it where initiators come over a network",
  },
  {
    key: "discoveryChapUser",
    flag: "discovery-chap-user",
    metavar: "NAME",
    kind: "text",
    fallback: "",
    description:
      "who asks a portal for its list of targets must prove himself as NAME (CHAP); " +
      "default: nobody has to",
  },
  {
    key: "discoveryChapSecretFile",
    flag: "discovery-chap-secret-file",
    metavar: "FILE",
    kind: "path",
    fallback: "",
    description:
      "with --discovery-chap-user: the file that holds the secret, 12 to 64 characters; " +
      "read at the start",
  },
  {
    key: "discoveryChapTargetUser",
    flag: "discovery-chap-target-user",
    metavar: "NAME",
    kind: "text",
    fallback: "",
    description:
      "with --discovery-chap-user: what the portal proves itself as to initiators that ask for it",
  },
  {
    key: "discoveryChapTargetSecretFile",
    flag: "discovery-chap-target-secret-file",
    metavar: "FILE",
    kind: "path",
    fallback: "",
    description:
      "with --discovery-chap-target-user: the file that holds that secret, another one; " +
      "read at the start",
  },
  {
    key: "volumeMetrics",
    flag: "no-volume-metrics",
    metavar: "",
    kind: "switch",
    fallback: true,
    description: "leave the series per volume out of the Prometheus metrics",
  },
  {
    key: "logLevel",
    flag: "log-level",
    metavar: "LEVEL",
    kind: "choice",
    choices: ["debug", "info", "warn", "error"],
    fallback: "info",
    description: "the least that is logged: debug, info, warn or error",
    reloadable: true,
  },
];

export const CONFIG_DEFAULTS: DaemonConfig = Object.fromEntries(
  SETTINGS.map((setting) => [setting.key, setting.fallback]),
) as unknown as DaemonConfig;

export function settingOf(key: string): Setting | undefined {
  return SETTINGS.find((setting) => setting.key === key);
}

/** `source` says where it came from: `--poll-us` or `pollUs in /etc/ringstore.yaml`. */
export function checkSetting(setting: Setting, value: unknown, source: string): ConfigValue {
  switch (setting.kind) {
    case "switch":
      if (typeof value === "boolean") return value;
      return refuse(source, value, "must be true or false");
    case "integer": {
      const { minimum = 0, maximum = Number.MAX_SAFE_INTEGER } = setting;
      if (Number.isInteger(value) && Number(value) >= minimum && Number(value) <= maximum) {
        return Number(value);
      }
      return refuse(source, value, `must be a whole number from ${minimum} to ${maximum}`);
    }
    case "choice":
      if (setting.choices?.includes(value as string)) return value as string;
      return refuse(source, value, `must be one of ${setting.choices?.join(", ")}`);
    case "paths":
      if (Array.isArray(value) && value.every((item) => typeof item === "string" && item !== "")) {
        return value as readonly string[];
      }
      return refuse(source, value, "must be a list of directories");
    default:
      if (typeof value === "string" && !value.includes("\0")) return value;
      return refuse(source, value, "must be text");
  }
}

/** Text of a flag to the value its setting wants. */
export function parseSettingText(setting: Setting, text: string): unknown {
  if (setting.kind === "integer") return /^\d{1,9}$/.test(text) ? Number(text) : text;
  return text;
}

/** The parsed contents of a configuration file. */
export function checkConfigFile(contents: unknown, path: string): Partial<DaemonConfig> {
  // An empty YAML file is null.
  if (contents === null || contents === undefined) return {};
  if (typeof contents !== "object" || Array.isArray(contents)) {
    throw new ConfigError("invalid_config", `${path} does not hold settings`, {
      advice: "write one `key: value` per line",
    });
  }
  const checked: Partial<Record<ConfigKey, ConfigValue>> = {};
  for (const [key, value] of Object.entries(contents)) {
    const setting = settingOf(key);
    if (setting === undefined) {
      const known = SETTINGS.map((one) => one.key).join(", ");
      throw new ConfigError("invalid_config", `${path}: ${quote(key)} is not a setting`, {
        advice: `the settings are ${known}`,
      });
    }
    checked[setting.key] = checkSetting(setting, value, `${setting.key} in ${path}`);
  }
  return checked as Partial<DaemonConfig>;
}

function refuse(source: string, value: unknown, demand: string): never {
  const shown = typeof value === "string" ? quote(value) : JSON.stringify(value);
  throw new ConfigError("invalid_config", `${source} is ${shown}, but ${demand}`);
}
