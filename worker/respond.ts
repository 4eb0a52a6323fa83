// From a reply to an HTTP response: one JSON document, or server-sent events. Both fold the same sequence of pieces through the reply's form.
// Owns the first moment: nothing is sent before the first piece is there, so that warming, overload and bad prompts keep their status.
// After that, a failure is an error event in the stream. A reader that goes away ends its own generations and nothing else; a stream of one choice can be
// continued where its reader stopped (reply-start.ts): its events are a function of the request, so those read before are left out.

import type { Router } from "./fleets.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import type { Route } from "../durable/edge-fleet.ts";
import { toRequestError } from "./errors.ts";
import { runChoice, type ChoiceInput, type Piece } from "./generation.ts";
import { EDGE_LIMITS } from "./limits.ts";
import { mergeIndexed } from "./merge.ts";
import type { Reply, ReplyForm, StreamEvent } from "./reply-form.ts";
import type { ReplyStart } from "./reply-start.ts";
import { eventId, placeText, type StreamPosition } from "./stream-position.ts";

export interface Asked {
  readonly start: ReplyStart;
  readonly signal: AbortSignal;
  /** Called when the reader has left, or what it would have read failed. */
  readonly left: () => void;
}

export async function respond(router: Router, tokenizer: Tokenizer, reply: Reply, { start: { head, resumable }, signal: requestSignal, left }: Asked): Promise<Response> {
  const controller = new AbortController();
  const cancel = (): void => {
    controller.abort();
    left();
  };
  requestSignal.addEventListener("abort", cancel, { once: true });
  const journaled = ({ request, ...input }: ChoiceInput): ChoiceInput => (resumable === null ? { request, ...input } : {
    ...input, request: { ...request, sampling: { ...request.sampling, seed: head.seed }, journal: { name: resumable.name, resume: resumable.nEventsRead !== null } },
  });
  const routes = reply.choices.map(({ input }) => router(input.request));
  const starts = reply.choices.map((choice, index) => async function* () {
    yield* choice.opening;
    for await (const piece of runChoice(routes[index]!.ways, tokenizer, journaled(choice.input), controller.signal)) yield piece.kind === "end" ? { ...piece, served: routes[index]!.served } : piece;
  });
  const pieces = mergeIndexed(starts, EDGE_LIMITS.generationsAtOnce);
  const form = reply.form(head);
  const [{ ways }] = routes as [Route];
  // Only where there are several is the reader's way back to one of them part of its position.
  const numbered = resumable === null ? null : () => ({ ...head, nEvents: resumable.nEventsRead ?? 0, place: ways.length === 1 ? null : routes[0]!.served });
  try {
    const response = reply.stream ? await streamed(reply, form, pieces, cancel, numbered) : await whole(form, pieces, cancel);
    response.headers.set("X-Served-By", placeText(routes[0]!.served));
    return response;
  } catch (cause) {
    cancel();
    throw cause;
  }
}

type Pieces = AsyncGenerator<{ index: number; value: Piece }>;

/**
 * One JSON document. Its status goes out with the first piece; a reply that takes longer than a moment is preceded by spaces, one per token, which
 * JSON allows: locally only writing shows that the reader has gone (docs/architecture.md, Readers that leave).
 */
async function whole(form: ReplyForm, pieces: Pieces, cancel: () => void): Promise<Response> {
  const startedMs = Date.now();
  const first = await pieces.next(); // a failure here keeps its status
  if (first.done !== true) form.add(first.value.index, first.value.value);
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    async pull(sink) {
      try {
        for (;;) {
          const next = await pieces.next();
          if (next.done === true) break;
          form.add(next.value.index, next.value.value);
          if (Date.now() - startedMs < EDGE_LIMITS.quietReplyMs) continue;
          sink.enqueue(encoder.encode(" "));
          return;
        }
        sink.enqueue(encoder.encode(JSON.stringify(form.document())));
        sink.close();
      } catch (cause) {
        // The status is out: the body breaks off, so that no client takes this for an answer; a person still sees why.
        cancel();
        sink.enqueue(encoder.encode(JSON.stringify(form.failure(toRequestError(cause))[0]?.data)));
        sink.error(cause);
      }
    },
    cancel,
  });
  // Said, so that nothing on the way compresses it: the local runtime's compressor would keep the spaces to itself until the reply has ended (2026-11).
  return new Response(body, { headers: { "Content-Type": "application/json", "Content-Encoding": "identity" } });
}

const encoder = new TextEncoder();

/** `position`: where the reader goes on, and who says it at this moment, which events get ids of; null where they have none. */
async function streamed(reply: Reply, form: ReplyForm, pieces: Pieces, cancel: () => void, position: (() => StreamPosition) | null): Promise<Response> {
  let nEvents = 0;
  const nRead = position?.().nEvents ?? 0;
  /** Events as they stand in the body, without those read before; null for none. */
  const bytesOf = (events: readonly StreamEvent[]): Uint8Array | null => {
    const lines = events.flatMap(({ event, data }) => {
      if (++nEvents <= nRead) return [];
      return [`${position === null ? "" : `id: ${eventId({ ...position(), nEvents })}\n`}${event === undefined ? "" : `event: ${event}\n`}data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`];
    });
    return lines.length === 0 ? null : encoder.encode(lines.join(""));
  };
  // The first real piece decides between a status and a stream.
  const first: StreamEvent[] = [];
  for (;;) {
    const next = await pieces.next();
    if (next.done === true) break;
    const { index, value } = next.value;
    first.push(...form.add(index, value));
    if (value.kind !== "prompt" || !reply.choices.some((choice) => choice.opening.includes(value))) break;
  }
  const body = new ReadableStream<Uint8Array>({
    start(sink) {
      const bytes = bytesOf([...form.opening(), ...first]);
      if (bytes !== null) sink.enqueue(bytes);
    },
    async pull(sink) {
      try {
        for (;;) {
          const next = await pieces.next();
          if (next.done === true) break;
          const bytes = bytesOf(form.add(next.value.index, next.value.value));
          if (bytes === null) continue;
          sink.enqueue(bytes);
          return;
        }
        const bytes = bytesOf(form.closing());
        if (bytes !== null) sink.enqueue(bytes);
        sink.close();
      } catch (cause) {
        cancel();
        const bytes = bytesOf(form.failure(toRequestError(cause)));
        if (bytes !== null) sink.enqueue(bytes);
        sink.close();
      }
    },
    cancel,
  });
  return new Response(body, { headers: { "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no" } });
}
