// What a reply is before its first token: its id, moment and seed, new or as Last-Event-ID says, and the name under which it is known where it can be
// continued. Owns the rule of what can: a stream of one choice. The name holds a digest of all that its tokens depend on, so that nobody continues, or
// pays once for, anything but the same request of the same caller. Refuses to keep anything.

import type { GenerateRequest } from "../durable/generate.ts";
import type { Caller } from "./auth.ts";
import { invalid } from "./errors.ts";
import type { Reply, ReplyHead } from "./reply-form.ts";
import type { StreamPosition } from "./stream-position.ts";

export interface ReplyStart {
  readonly head: ReplyHead;
  /** Null where the reply cannot be continued. */
  readonly resumable: {
    /** The same for every request that says the same reply, and for no other. */
    readonly name: string;
    /** Events that the reader has seen; null for a new stream. */
    readonly nEventsRead: number | null;
  } | null;
}

const DIGEST_BYTES = 16;

/** Throws a RequestError 400 where `position` is that of no such reply. */
export async function startOf(reply: Reply, caller: Caller, position: StreamPosition | null): Promise<ReplyStart> {
  // Choices side by side come in no fixed order, so only a stream of one has positions.
  const isResumable = reply.stream && reply.choices.length === 1;
  if (position !== null && !isResumable) throw invalid(null, "The header Last-Event-ID came with a request for no stream, or for one of several choices; expected a stream of one choice.", "invalid_event_id");
  if (position !== null && !position.id.startsWith(reply.idPrefix)) {
    throw invalid(null, `The header Last-Event-ID is of the reply ${position.id}, expected one of this API, whose ids begin with ${reply.idPrefix}.`, "invalid_event_id");
  }
  const { request } = reply.choices[0]!.input;
  const head: ReplyHead = {
    id: position?.id ?? `${reply.idPrefix}${crypto.randomUUID().replaceAll("-", "")}`, created: position?.created ?? Math.floor(Date.now() / 1000),
    model: reply.model, seed: position?.seed ?? request.sampling.seed,
  };
  if (!isResumable) return { head, resumable: null };
  return { head, resumable: { name: `${caller.id} ${head.id} ${await digestOf(request, head.seed)}`, nEventsRead: position?.nEvents ?? null } };
}

/** Of the request without what changes nothing of its answer. */
async function digestOf({ caller, cacheScope, deadlineAtMs, draftTokens, journal, sampling, ...rest }: GenerateRequest, seed: number): Promise<string> {
  const bytes = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(JSON.stringify({ ...rest, sampling: { ...sampling, seed } })));
  return Array.from(new Uint8Array(bytes, 0, DIGEST_BYTES), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
