// How a generation's events leave the orchestrator: as lines of JSON in a body that ends with the last of them, noted under the reply's name on the way, or, where there was none yet, as one
// failure with its status. Owns that nothing is written after the end, and that a reader who leaves is told of once. Refuses what events say (generate.ts) and how notes are kept (reply-journal.ts).

import { FAILURE_STATUS, type GenerateEvent, type GenerateFailure, type GenerateRequest } from "./generate.ts";
import type { EventSink } from "./generation-run.ts";
import type { ReplyJournal, SaidToken } from "./reply-journal.ts";

const encoder = new TextEncoder();

/** Before the first event. */
export const failed = (failure: GenerateFailure): Response => Response.json(failure, { status: FAILURE_STATUS[failure.code] });

/** A body of one JSON line per event. It ends with an end or error event; a reader that goes away calls what `onCancel` was given. */
export function eventStream(): { readable: ReadableStream<Uint8Array>; emit: (event: GenerateEvent) => void; onCancel: (cancelled: () => void) => void } {
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  let cancelled: () => void = () => {};
  let open = true;
  const readable = new ReadableStream<Uint8Array>({
    start: (c) => { controller = c; },
    cancel: () => {
      open = false;
      cancelled();
    },
  });
  return {
    readable,
    emit: (event) => {
      if (!open) return;
      controller.enqueue(encoder.encode(`${JSON.stringify(event)}\n`));
      if (event.type !== "end" && event.type !== "error") return;
      open = false;
      controller.close();
    },
    onCancel: (call) => { cancelled = call; },
  };
}

/** What a reply that is resumed has said already. Scores and experts are kept nowhere, so with them it begins anew. */
export async function knownTokens(of: ReplyJournal, { journal, emittedIds, logprobs, trace, echo, maxTokens }: GenerateRequest): Promise<SaidToken[]> {
  const needsEvaluation = logprobs !== undefined || echo === true || (trace !== undefined && trace !== false);
  if (journal?.resume !== true || emittedIds !== undefined || needsEvaluation) return [];
  return (await of.read(journal.name)).slice(0, maxTokens);
}

/** Events as they are, their ids noted under the reply's name. */
export function journaled(of: ReplyJournal, { journal, emittedIds = [], degrade }: GenerateRequest, known: readonly SaidToken[], emit: EventSink): EventSink {
  // Of ids that come with the request nobody knows what was missing: they are not noted as if nothing was.
  if (journal === undefined || (degrade === true && emittedIds.length > 0)) return emit;
  const log = of.log(journal.name, emittedIds.length > 0 ? emittedIds.map((id) => ({ id, degraded: 0 })) : known);
  return (event) => {
    if (event.type === "token") log.push({ id: event.id, degraded: event.degraded ?? 0 });
    else if (event.type !== "prompt") log.flush();
    emit(event);
  };
}
