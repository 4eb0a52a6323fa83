// What a step says to one generation: scores of its prompt, its next tokens, its vector, its end. Owns the way from logits to events, and how much of a
// draft held. Refuses to evaluate: it reads what the engine returned. A token that cannot be chosen ends its own generation, alone.

import type { StepEntry } from "../model/step.ts";
import { logprobs, sampleForm, type TopLogits } from "../model/sampling.ts";
import type { GenerateEvent, ScoredToken } from "./generate.ts";
import { failure, type Run } from "./generation-run.ts";
import type { LeftOutRows } from "./left-out-rows.ts";
import type { StepTrace } from "./step-trace.ts";

/** What the engine returned for one entry of a step. */
export interface Evaluated {
  readonly entry: StepEntry;
  /** Position of its first token. */
  readonly start: number;
  readonly logits: Float32Array;
  readonly top: TopLogits | null;
  readonly vocabSize: number;
  /** Of the step: the own tokens' are in run.missingRows already. */
  readonly leftOut: LeftOutRows;
  /** Of the step, where somebody asked for experts. */
  readonly trace: StepTrace | null;
}

/** Emits the events of one generation; returns how many guesses of its draft held. */
export function deliver(run: Run, evaluated: Evaluated): number {
  const { request, draft } = run;
  const { entry, logits, top, vocabSize, start, trace } = evaluated;
  const n = entry.ids.length;
  if (request.embedding === true) {
    pool(run, n, logits);
    return 0;
  }
  const row = (i: number): Float32Array => logits.subarray(i * vocabSize, (i + 1) * vocabSize);
  let held = 0;
  try {
    if (draft.length === 0 && entry.logits === "all") tellScores(run, scored(run, start, n, row));
    if (draft.length === 0 && run.left > 0) return 0;
    if (request.maxTokens === 0) {
      run.finish("length", null);
      return 0;
    }
    for (; ; held++) {
      const position = run.ids.length;
      const from = (typeof entry.logits === "object" ? entry.logits.of : entry.logits) === "all" ? n - 1 - draft.length + held : 0;
      const drawn = sampleForm(run.form, row(from), top, from, request.sampling, request.choice ?? 0, position, request.logprobs ?? null, run.stage);
      const isGuessed = held < draft.length && drawn.id === draft[held];
      if (!isGuessed && draft.length > 0) {
        run.draftLength.note(draft.length, held);
        // The evaluation of guesses that did not hold is forgotten: the next step writes over it.
        run.timeline!.length -= draft.length - held;
      }
      if (request.stopIds.includes(drawn.id)) run.finish("stop", drawn.id);
      else {
        run.emit(tokenEvent(run, drawn, trace));
        run.push(drawn.id);
        if (run.stage?.isComplete === true) run.finish("stop", null);
        else if (run.generated >= request.maxTokens) run.finish("length", null);
      }
      if (!isGuessed || run.ended) return held;
      // The guess held: what its evaluation missed is in the next one.
      const guessed = start + n - draft.length + held;
      run.missingRows += evaluated.leftOut.between(run.timeline!.id, guessed, guessed + 1);
    }
  } catch (cause) {
    run.end(failure("step-failed", `Token ${run.generated} could not be chosen: ${cause instanceof Error ? cause.message : String(cause)}`, false));
    return held;
  }
}

function tokenEvent(run: Run, drawn: ReturnType<typeof sampleForm>, trace: StepTrace | null): GenerateEvent {
  const missing = run.takeMissingRows();
  const route = run.traces ? trace?.routeOf(run.timeline!.id, run.ids.length - 1) : undefined;
  return {
    type: "token", index: run.generated, id: drawn.id,
    ...(drawn.logprob === undefined ? {} : { logprob: drawn.logprob, top: drawn.top ?? [] }),
    ...(run.generated === 0 && run.cachedTokens > 0 ? { cachedTokens: run.cachedTokens } : {}),
    ...(missing > 0 ? { degraded: missing } : {}),
    ...(run.traces ? { experts: route?.experts ?? [], weights: route?.weights ?? [], served: { shards: route?.shards ?? [], frames: route?.frames ?? [] } } : {}),
  };
}

/** Adds states [n, hidden] of an embedding; with the last, their mean of length 1. */
function pool(run: Run, n: number, states: Float32Array): void {
  const hidden = states.length / n;
  run.states ??= new Float64Array(hidden);
  for (let i = 0; i < states.length; i++) run.states[i % hidden]! += states[i]!;
  if (run.left > 0) return;
  // The mean's length is the sum's over the number of tokens, and cancels.
  const length = Math.sqrt(run.states.reduce((sum, x) => sum + x * x, 0));
  if (!Number.isFinite(length) || length === 0) return run.end(failure("step-failed", `The states of this text add up to a vector of length ${length}; a number above 0 was expected.`, false));
  run.emit({ type: "embedding", values: Array.from(run.states, (x) => Math.fround(x / length)) });
  run.finish("length", null);
}

/** Emits what was not told before: a prompt whose timeline was lost is evaluated again. */
function tellScores(run: Run, { start, tokens }: ReturnType<typeof scored>): void {
  const fresh = tokens.slice(Math.max(0, run.scoresTold - start));
  if (fresh.length === 0) return;
  run.emit({ type: "prompt", start: Math.max(start, run.scoresTold), tokens: fresh });
  run.scoresTold = start + tokens.length;
}

/** Row i scores the token after position start + i; the first token of a prompt has no score. */
function scored(run: Run, start: number, n: number, row: (i: number) => Float32Array): { readonly start: number; readonly tokens: readonly ScoredToken[] } {
  const { promptIds, logprobs: nTop } = run.request;
  const tokens: ScoredToken[] = start === 0 ? [{ id: promptIds[0]!, logprob: null, top: [] }] : [];
  for (let i = 0; i < n && start + i + 1 < promptIds.length; i++) {
    const id = promptIds[start + i + 1]!;
    tokens.push({ id, ...logprobs(row(i), id, nTop ?? 0) });
  }
  return { start: start === 0 ? 0 : start + 1, tokens };
}
