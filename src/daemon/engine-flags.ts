// Imported first by every entry point that runs reactors: how far V8 inlines.
//
// With the default limit V8 stops inlining in the middle of the path from a descriptor to the
// kernel; numbers that then cross a real call are boxed on the heap, 16 to 48 bytes a request, and
// a request costs about a fifth more. The limit is process-wide and must be set before the
// functions get hot.

import { setFlagsFromString } from "node:v8";

setFlagsFromString("--max-inlined-bytecode-size-cumulative=4000");
