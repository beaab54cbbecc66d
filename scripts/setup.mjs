// Makes a machine ready: Debian packages, npm packages, the build. Needs only Node and npm; as
// root or with a sudo that asks nothing it installs what is missing, otherwise it prints the one
// command to run.

import { prepare } from "./lib/prepare.mjs";
import { main, say } from "./lib/project.mjs";

await main(async () => {
  await prepare();
  say("Ready.");
});
