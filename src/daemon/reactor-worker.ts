// The entry point of a reactor thread; started by reactor-thread.ts.

import { runReactor } from "./reactor-run.ts";

runReactor();
