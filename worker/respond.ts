// From choices to an HTTP response: one JSON document, or server-sent events. Both fold the same sequence of pieces.
// Owns the first moment: nothing is sent before the first piece is there, so that warming, overload and bad prompts keep their status.
// After that, a failure is an `error` event in the stream. A reader that goes away ends its own generations and nothing else.

import type { GenerateTarget } from "../durable/generate-client.ts";
import { errorBody, toRequestError } from "./errors.ts";
import { runChoice, type ChoiceInput, type Piece } from "./generation.ts";
import { EDGE_LIMITS } from "./limits.ts";
import { mergeIndexed } from "./merge.ts";
import type { ChoiceShape } from "./shapes.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import type { Usage } from "./wire-types.ts";

export interface Choice {
  readonly input: ChoiceInput;
  readonly shape: ChoiceShape;
  /** Number of the prompt it belongs to: a prompt's tokens are counted once, however many choices it has. */
  readonly promptIndex: number;
  /** Shown before anything is generated: the echo of a prompt that is not scored. */
  readonly opening: readonly Piece[];
}

export interface Reply {
  readonly idPrefix: string;
  readonly object: string;
  readonly chunkObject: string;
  readonly model: string;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly withTrace: boolean;
  readonly choices: readonly Choice[];
  /** Choices of a first chunk (the roles of a chat). */
  readonly openingChoices: readonly object[];
  /** What `moe` says besides the counts: the seed in use. */
  readonly moe: Readonly<Record<string, unknown>>;
}

type End = Extract<Piece, { kind: "end" }>;

export async function respond(target: () => GenerateTarget, tokenizer: Tokenizer, reply: Reply, requestSignal: AbortSignal): Promise<Response> {
  const controller = new AbortController();
  const cancel = (): void => controller.abort();
  requestSignal.addEventListener("abort", cancel, { once: true });
  const starts = reply.choices.map((choice) => async function* () {
    yield* choice.opening;
    yield* runChoice(target, tokenizer, choice.input, controller.signal);
  });
  const pieces = mergeIndexed(starts, EDGE_LIMITS.generationsAtOnce);
  const head = {
    id: `${reply.idPrefix}-${crypto.randomUUID().replaceAll("-", "")}`,
    created: Math.floor(Date.now() / 1000),
    model: reply.model,
  };
  try {
    return reply.stream ? await streamed(reply, head, pieces, cancel) : await whole(reply, head, pieces, cancel);
  } catch (cause) {
    cancel();
    throw cause;
  }
}

type Pieces = AsyncGenerator<{ index: number; value: Piece }>;

/**
 * One JSON document. Its status goes out with the first piece; a reply that takes longer than a moment is preceded by spaces, one per token, which
 * JSON allows: only writing shows that the reader has gone (locally a disconnect reaches a Worker in no other way, 2026-11).
 */
async function whole(reply: Reply, head: object, pieces: Pieces, cancel: () => void): Promise<Response> {
  const ends: End[] = [];
  const traces: object[][] = reply.choices.map(() => []);
  const add = (index: number, piece: Piece): void => {
    reply.choices[index]!.shape.add(piece);
    if (piece.kind === "token" && piece.trace !== null) traces[index]!.push(piece.trace);
    if (piece.kind === "end") ends[index] = piece;
  };
  const document = (): object => ({
    ...head, object: reply.object,
    choices: reply.choices.map((choice, index) => ({ ...choice.shape.whole(), ...(reply.withTrace ? { moe: { tokens: traces[index] } } : {}) })),
    usage: usageOf(reply, ends),
    moe: moeOf(reply, ends),
  });

  const startedMs = Date.now();
  const first = await pieces.next(); // a failure here keeps its status
  if (first.done !== true) add(first.value.index, first.value.value);
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    async pull(sink) {
      try {
        for (;;) {
          const next = await pieces.next();
          if (next.done === true) break;
          add(next.value.index, next.value.value);
          if (Date.now() - startedMs < EDGE_LIMITS.quietReplyMs) continue;
          sink.enqueue(encoder.encode(" "));
          return;
        }
        sink.enqueue(encoder.encode(JSON.stringify(document())));
        sink.close();
      } catch (cause) {
        // The status is out: the body breaks off, so that no client takes this for an answer; a person still sees why.
        cancel();
        sink.enqueue(encoder.encode(JSON.stringify(errorBody(toRequestError(cause)))));
        sink.error(cause);
      }
    },
    cancel,
  });
  return new Response(body, { headers: { "Content-Type": "application/json" } });
}

async function streamed(reply: Reply, head: object, pieces: Pieces, cancel: () => void): Promise<Response> {
  const encoder = new TextEncoder();
  // OpenAI puts `usage: null` into every chunk when a last one with usage was asked for.
  const usageField = reply.includeUsage ? { usage: null } : {};
  const event = (data: object): Uint8Array => encoder.encode(`data: ${JSON.stringify(data)}\n\n`);
  const chunk = (choices: readonly object[], more: object = {}): Uint8Array =>
    event({ ...head, object: reply.chunkObject, choices, ...usageField, ...more });
  const ends: End[] = [];

  /** The chunk of a piece, or null when it shows nothing. */
  const render = (index: number, piece: Piece): Uint8Array | null => {
    if (piece.kind === "end") ends[index] = piece;
    const choice = reply.choices[index]!.shape.add(piece);
    if (choice === null) return null;
    const token = piece.kind === "token" ? piece.trace : null;
    const isLast = piece.kind === "end" && ends.filter((end) => end !== undefined).length === reply.choices.length;
    return chunk([choice], token !== null ? { moe: { token } } : isLast ? { moe: moeOf(reply, ends) } : {});
  };

  // The first real piece decides between a status and a stream.
  const first: Uint8Array[] = [];
  for (;;) {
    const next = await pieces.next();
    if (next.done === true) break;
    const bytes = render(next.value.index, next.value.value);
    if (bytes !== null) first.push(bytes);
    if (next.value.value.kind !== "prompt" || !reply.choices.some((choice) => choice.opening.includes(next.value.value))) break;
  }

  const body = new ReadableStream<Uint8Array>({
    start(sink) {
      if (reply.openingChoices.length > 0) sink.enqueue(chunk(reply.openingChoices));
      first.forEach((bytes) => sink.enqueue(bytes));
    },
    async pull(sink) {
      try {
        for (;;) {
          const next = await pieces.next();
          if (next.done === true) break;
          const bytes = render(next.value.index, next.value.value);
          if (bytes === null) continue;
          sink.enqueue(bytes);
          return;
        }
        if (reply.includeUsage) sink.enqueue(event({ ...head, object: reply.chunkObject, choices: [], usage: usageOf(reply, ends) }));
        sink.enqueue(encoder.encode("data: [DONE]\n\n"));
        sink.close();
      } catch (cause) {
        cancel();
        sink.enqueue(event(errorBody(toRequestError(cause))));
        sink.enqueue(encoder.encode("data: [DONE]\n\n"));
        sink.close();
      }
    },
    cancel,
  });
  return new Response(body, { headers: { "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no" } });
}

function usageOf(reply: Reply, ends: readonly End[]): Usage {
  const promptTokens = new Map<number, number>();
  // Choices of one prompt take over from each other: what the request found is what its first one did.
  const cachedTokens = new Map<number, number>();
  let completionTokens = 0;
  reply.choices.forEach((choice, index) => {
    promptTokens.set(choice.promptIndex, ends[index]?.promptTokens ?? choice.input.request.promptIds.length);
    cachedTokens.set(choice.promptIndex, Math.min(cachedTokens.get(choice.promptIndex) ?? Infinity, ends[index]?.cachedTokens ?? 0));
    completionTokens += ends[index]?.completionTokens ?? 0;
  });
  const sum = (counts: ReadonlyMap<number, number>): number => [...counts.values()].reduce((total, n) => total + n, 0);
  const prompt = sum(promptTokens);
  return { prompt_tokens: prompt, prompt_tokens_details: { cached_tokens: sum(cachedTokens) }, completion_tokens: completionTokens, total_tokens: prompt + completionTokens };
}

/** What the answer cost the fleet, summed over the choices that ran to their end. */
function moeOf(reply: Reply, ends: readonly End[]): object {
  const counts = { steps: 0, frames: 0, bytes: 0, retries: 0 };
  for (const end of ends) {
    counts.steps += end?.moe?.steps ?? 0;
    counts.frames += end?.moe?.frames ?? 0;
    counts.bytes += end?.moe?.bytes ?? 0;
    counts.retries += end?.moe?.retries ?? 0;
  }
  return { ...reply.moe, ...counts };
}
