// The embedded metadata server keeps etcd's promises: the conformance suite over it.

import { conformance } from "./conformance.ts";
import { FAULT_CASES } from "./conformance-faults.ts";
import { KEY_CASES } from "./conformance-keys.ts";
import { secrets } from "./conformance-secrets.ts";

conformance("embedded", [...KEY_CASES, ...FAULT_CASES]);
secrets("embedded");
