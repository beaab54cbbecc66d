// The entry point of a reactor thread; started by reactor-early.ts.

import { runReactor, takeOrder } from "./reactor-run.ts";

takeOrder((order) => runReactor(order));
