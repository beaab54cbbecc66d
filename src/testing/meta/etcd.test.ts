// Real etcd under the same conformance suite: what the embedded server promises is what etcd does.

import { conformance } from "./conformance.ts";
import { FAULT_CASES } from "./conformance-faults.ts";
import { KEY_CASES } from "./conformance-keys.ts";
import { secrets } from "./conformance-secrets.ts";

conformance("etcd", [...KEY_CASES, ...FAULT_CASES]);
secrets("etcd");
