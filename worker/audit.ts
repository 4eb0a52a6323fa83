// The audit log: one line of JSON for each use of interventions and each change of a profile, beside the request's own line (log.ts), whose id it has. It is written whatever LOG says: who changed what a model
// does must be found again. Owns the fields. Refuses what a caller wrote: no prompt, no text, no key, and no experts, which the profile or the request's owner has.

import type { Caller } from "./auth.ts";
import type { RequestRecord } from "./log.ts";
import type { ProfileOp } from "./wire-types.ts";

export interface AuditEntry {
  /** `use`: a request was let through with interventions. */
  readonly action: "use" | "profile_stored" | "profile_deleted";
  /** Its name; null where interventions came without one. */
  readonly profile: string | null;
  /** In the order they are applied. */
  readonly ops: readonly ProfileOp[];
}

/** `endpoint`: the route, not the path with its parameters. */
export function audit({ id, method }: Pick<RequestRecord, "id" | "method">, endpoint: string, caller: Caller, { action, profile, ops }: AuditEntry): void {
  console.log(JSON.stringify({ level: "audit", time: new Date().toISOString(), id, caller: caller.id, method, endpoint, action, profile, ops }));
}
