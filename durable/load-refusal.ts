// Why a shard does not serve what it was asked to, as the answer it gives. Owns the code of each cause and whether asking again may help.
// Refuses to decide anything: what fails says so (shard-core.ts, isolate.ts, the formats' readers).

import { ModelError } from "../model/config.ts";
import { CapacityError } from "../model/heap.ts";
import type { RefusalCode, Welcome } from "./handshake.ts";

export type Refused = Extract<Welcome, { state: "refused" }>;

export const refused = (code: RefusalCode, retryable: boolean, message: string): Refused => ({ state: "refused", code, message, retryable });

/** A load that is not begun, or whose result nobody may use. */
export class LoadRefusal extends Error {
  readonly code: RefusalCode;
  readonly retryable: boolean;
  constructor(code: RefusalCode, retryable: boolean, message: string) {
    super(message);
    this.code = code;
    this.retryable = retryable;
  }
}

export function failureOf(cause: unknown): Refused {
  const message = cause instanceof Error ? cause.message : String(cause);
  if (cause instanceof LoadRefusal) return refused(cause.code, cause.retryable, message);
  if (cause instanceof CapacityError) return refused("memory", false, message);
  // A read may have been cut or changed under way; what the manifest says does not change by reading again.
  return refused("load-failed", !(cause instanceof ModelError), message);
}
