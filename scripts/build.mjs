// Builds dist/ from src/. With --check, formatting and lint are checked too.

import { checkStyle } from "./lib/build.mjs";
import { prepareBuild } from "./lib/prepare.mjs";
import { main, SetupError } from "./lib/project.mjs";

await main(async () => {
  const unknown = process.argv.slice(2).find((argument) => argument !== "--check");
  if (unknown !== undefined)
    throw new SetupError(`"${unknown}" is not an option: there is --check.`);
  await prepareBuild();
  if (process.argv.includes("--check") && !checkStyle()) {
    throw new SetupError("The style check failed. Most of it is mended by: npm run format");
  }
});
