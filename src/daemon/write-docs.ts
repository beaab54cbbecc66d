// Writes the documents that are made from code: the OpenAPI document, the metrics page, the
// settings page. `node dist/daemon/write-docs.js`; a test compares them with what is checked in.

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { createApiServer, openApiDocument } from "../api/index.ts";
import { SETTINGS } from "../model/config.ts";
import { metricsPage } from "../model/metrics.ts";

/** By path from the project's root. */
export async function generatedDocs(): Promise<ReadonlyMap<string, string>> {
  return new Map([
    ["docs/openapi.json", await openApiText()],
    ["docs/metrics.md", metricsPage()],
    ["docs/configuration.md", configurationPage()],
  ]);
}

async function openApiText(): Promise<string> {
  // The document comes from the routes' declarations alone: nothing is asked of these modules.
  const unused = null as never;
  const app = await createApiServer(
    { transport: "unix", tokens: () => [] },
    { controlPlane: unused, log: unused, answered: unused, fatal: unused },
  );
  const document = openApiDocument(app);
  await app.close();
  return `${JSON.stringify(document, null, 2)}\n`;
}

function configurationPage(): string {
  const rows = SETTINGS.map((setting) => {
    const flag = `\`--${setting.flag}${setting.metavar === "" ? "" : ` ${setting.metavar}`}\``;
    const fallback = JSON.stringify(setting.fallback);
    const reload = setting.reloadable === true ? " Taken up by SIGHUP." : "";
    return `| \`${setting.key}\` | ${flag} | \`${fallback}\` | ${setting.description}.${reload} |`;
  });
  return `# Configuration of ringstored

A setting comes from its flag, otherwise from the file that \`--config FILE\` names (YAML or JSON,
one \`key: value\` per line), otherwise it has its default. An unknown key or a value out of range
stops the start with exit code 2. \`RINGSTORE_DATA\` stands for \`--data\`. This page is generated
from \`src/model/config.ts\`.

| key in the file | flag | default | meaning |
| --- | --- | --- | --- |
${rows.join("\n")}
`;
}

/** The project's root lies above the build's folder, which holds no docs of its own. */
export function projectRoot(): string {
  const here = fileURLToPath(import.meta.url);
  const build = here.includes("/.build/")
    ? here.split("/.build/")[0]
    : dirname(dirname(dirname(here)));
  return build as string;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [path, text] of await generatedDocs()) {
    mkdirSync(dirname(join(projectRoot(), path)), { recursive: true });
    writeFileSync(join(projectRoot(), path), text);
    process.stdout.write(`${path}\n`);
  }
}
