// Shell completion from the command table: which words may follow, options with their choices,
// names of volumes, disks and nodes asked from the daemon, files where a path is meant.

import { ClientError } from "../client/index.ts";
import type { CommandRun, CommandSpec, CommandTable, OptionSpec } from "./command-spec.ts";

export const completion: CommandRun = async (context, { arguments: [shell = ""] }) => {
  const write = WRITERS[shell];
  if (write === undefined) {
    throw new ClientError("usage", `there is no completion for ${JSON.stringify(shell)}`, {
      advice: `use ${Object.keys(WRITERS).join(", ")}`,
    });
  }
  context.streams.out(write(context.table));
  return null;
};

const WRITERS: Readonly<Record<string, (table: CommandTable) => string>> = {
  bash: writeBash,
  zsh: writeZsh,
  fish: writeFish,
};

/** What lists the names that an argument can be. */
const NAMES = {
  volume: "ringstore volume list -o name 2>/dev/null",
  disk: "ringstore disk list -o name 2>/dev/null",
  node: "ringstore node list -o name 2>/dev/null",
} as const;
const NAMED = ["volume", "disk", "node"] as const;

/** Words that may follow a sequence of command words: `""` -> volume, status ... */
function childrenOf(table: CommandTable): Map<string, string[]> {
  const children = new Map<string, string[]>();
  for (const { path } of [...table.groups, ...table.commands]) {
    const parent = path.slice(0, -1).join(" ");
    const list = children.get(parent) ?? [];
    list.push(path[path.length - 1] as string);
    children.set(parent, list);
  }
  return children;
}

function flagsOf(options: readonly OptionSpec[]): string[] {
  return options.flatMap((option) => [
    `--${option.long}`,
    ...(option.short === undefined ? [] : [`-${option.short}`]),
  ]);
}

function allOptions(table: CommandTable): OptionSpec[] {
  const byName = new Map<string, OptionSpec>();
  for (const option of [
    ...table.globalOptions,
    ...table.commands.flatMap((command) => command.options),
  ]) {
    byName.set(option.long, option);
  }
  return [...byName.values()];
}

function completesName(command: CommandSpec, kind: (typeof NAMED)[number]): boolean {
  return command.arguments[0]?.completes === kind;
}

function nameCases(table: CommandTable): string {
  return NAMED.map((kind) => {
    const commands = table.commands.filter((command) => completesName(command, kind));
    const paths = commands.map((command) => `"${command.path.join(" ")}"`).join("|");
    return `    ${paths}) words="$(${NAMES[kind]})" ;;`;
  }).join("\n");
}

function writeBash(table: CommandTable): string {
  const wordCases = [...childrenOf(table)]
    .map(([parent, words]) => `    "${parent}") words="${words.join(" ")}" ;;`)
    .join("\n");
  const optionCases = table.commands
    .map((command) => {
      const flags = [...flagsOf(command.options), ...flagsOf(table.globalOptions)].join(" ");
      return `    "${command.path.join(" ")}") flags="${flags} --help" ;;`;
    })
    .join("\n");
  const valueCases = allOptions(table)
    .filter((option) => option.metavar !== undefined)
    .map((option) => {
      const flags = flagsOf([option]).join("|");
      const offer = (kind: string): string => `COMPREPLY=($(compgen ${kind} -- "$cur")); `;
      let offered = "";
      if (option.choices !== undefined) offered = offer(`-W "${option.choices.join(" ")}"`);
      else if (option.kind === "path") offered = offer("-f");
      else if (option.kind === "directory") offered = offer("-d");
      return `    ${flags}) ${offered}return ;;`;
    })
    .join("\n");
  return `# bash completion of ringstore. Made by: ringstore completion bash
_ringstore() {
  local cur prev path words flags index word
  cur="\${COMP_WORDS[COMP_CWORD]}"
  prev="\${COMP_WORDS[COMP_CWORD-1]}"
  COMPREPLY=()
  case "$prev" in
${valueCases}
  esac
  path=""
  for ((index = 1; index < COMP_CWORD; index++)); do
    word="\${COMP_WORDS[index]}"
    case "$word" in
    -*) ;;
    *)
      if _ringstore_words "$path"; [[ " $words " == *" $word "* ]]; then
        path="\${path:+$path }$word"
      fi ;;
    esac
  done
  flags="${[...flagsOf(table.globalOptions), "--help", "--version"].join(" ")}"
  case "$path" in
${optionCases}
  esac
  if [[ "$cur" == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
    return
  fi
  _ringstore_words "$path"
  case "$path" in
${nameCases(table)}
    "completion") words="bash zsh fish" ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
_ringstore_words() {
  words=""
  case "$1" in
${wordCases}
  esac
}
complete -F _ringstore ringstore
`;
}

/** zsh runs bash completions; the function is the same. */
function writeZsh(table: CommandTable): string {
  return `#compdef ringstore
# zsh completion of ringstore. Made by: ringstore completion zsh
autoload -U +X bashcompinit && bashcompinit
${writeBash(table)}`;
}

function writeFish(table: CommandTable): string {
  const lines = [
    "# fish completion of ringstore. Made by: ringstore completion fish",
    "complete -c ringstore -f",
  ];
  for (const { path, summary } of [...table.groups, ...table.commands]) {
    const word = path[path.length - 1] as string;
    const parents = path.slice(0, -1);
    const condition =
      parents.length === 0
        ? "__fish_use_subcommand"
        : `__fish_seen_subcommand_from ${parents.join(" ")}`;
    lines.push(`complete -c ringstore -n '${condition}' -a ${word} -d '${quoteFish(summary)}'`);
  }
  for (const command of table.commands) {
    const seen = command.path.map((part) => `__fish_seen_subcommand_from ${part}`).join("; and ");
    const condition = `-n '${seen}'`;
    for (const option of command.options) lines.push(fishOption(option, condition));
    for (const kind of NAMED) {
      if (!completesName(command, kind)) continue;
      lines.push(`complete -c ringstore ${condition} -a '(${NAMES[kind]})'`);
    }
  }
  for (const option of table.globalOptions) lines.push(fishOption(option, ""));
  lines.push(
    "complete -c ringstore -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'",
  );
  return `${lines.join("\n")}\n`;
}

function fishOption(option: OptionSpec, condition: string): string {
  const words = ["complete -c ringstore", condition, `-l ${option.long}`];
  if (option.short !== undefined) words.push(`-s ${option.short}`);
  if (option.metavar !== undefined) words.push(option.kind === "path" ? "-r -F" : "-x");
  if (option.choices !== undefined) words.push(`-a '${option.choices.join(" ")}'`);
  words.push(`-d '${quoteFish(option.description)}'`);
  return words.filter((word) => word !== "").join(" ");
}

function quoteFish(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("'", "\\'");
}
