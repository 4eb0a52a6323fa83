// The audit log: one line of JSON for each use of interventions and each change of a profile, beside the request's own line (log.ts), whose id it has. It is written whatever LOG says: who changed what a model
// does must be found again. Owns the fields. Refuses what a caller wrote: no prompt, no text, no key, and no experts, which the profile or the request's owner has.

import type { InterventionOp } from "../model/interventions.ts";
import type { Caller } from "./auth.ts";
import type { RequestRecord } from "./log.ts";

export interface AuditEntry {
  /** `use`: a request was let through with interventions. */
  readonly action: "use" | "profile_stored" | "profile_deleted";
  /** Its name; null where interventions came without one. */
  readonly profile: string | null;
  /** In the order they are applied. */
  readonly ops: readonly InterventionOp[];
}

export const auditLine = ({ id, endpoint, method }: Pick<RequestRecord, "id" | "endpoint" | "method">, path: string, caller: Caller, { action, profile, ops }: AuditEntry, at: Date): object =>
  ({ level: "audit", time: at.toISOString(), id, caller: caller.id, method, endpoint: endpoint === "" ? path : endpoint, action, profile, ops });

/** `path`: the route, not the path with its parameters. */
export function audit(record: RequestRecord, path: string, caller: Caller, entry: AuditEntry): void {
  console.log(JSON.stringify(auditLine(record, path, caller, entry, new Date())));
}
