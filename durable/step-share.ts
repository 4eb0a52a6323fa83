// Who takes part in a step, and with how many tokens: prompts being read and generations under way share what the engine takes at once.
// Owns fairness within the batch and the room for guesses. Refuses to change any answer: shares and guesses decide only when a token is evaluated.

import type { DraftGate } from "./draft-gate.ts";
import type { Run } from "./generation-run.ts";
import type { Limits } from "./limits.ts";

export interface StepRoom {
  readonly maxChunkTokens: number;
  readonly vocabSize: number;
  readonly limits: Pick<Limits, "sharedChunkTokens" | "logitBytes">;
  readonly gate: DraftGate;
}

/**
 * Divides a step: one token for each generation under way (a quarter of the step is kept for prompts while there are any), the rest,
 * less of it in such company, among prompts, smallest first, so that what a short one leaves goes to the longer ones. Returns those who
 * take part, and everyone in the order of next time: who is left out comes first.
 */
export function shareStep(active: readonly Run[], { maxChunkTokens, vocabSize, limits, gate }: StepRoom): { readonly taking: Run[]; readonly next: Run[] } {
  const logitRows = Math.floor(limits.logitBytes / (vocabSize * 4));
  const decoding = active.filter((run) => run.left === 1);
  const reading = active.filter((run) => run.left > 1).sort((a, b) => a.left - b.left);
  for (const run of active) [run.taken, run.draft] = [0, []];
  let left = maxChunkTokens;
  const kept = reading.length > 0 && decoding.length > 0 ? Math.min(Math.ceil(maxChunkTokens / 4), maxChunkTokens - 1) : 0;
  for (const run of decoding) if (left > kept) left -= run.taken = 1;
  if (decoding.length > 0) left = Math.min(left, limits.sharedChunkTokens);
  reading.forEach((run, i) => {
    const most = run.request.echo === true ? Math.max(1, logitRows) : Infinity;
    run.taken = Math.min(run.left, most, Math.max(1, Math.floor(left / (reading.length - i))), left);
    left -= run.taken;
  });
  if (reading.length === 0 && decoding.length > 0 && gate.allows(decoding.length)) guess(decoding, left, logitRows);
  const taking = active.filter((run) => run.taken > 0);
  return { taking, next: [...active.filter((run) => run.taken === 0), ...taking] };
}

/** Gives each generation of the step a draft, as far as its own text has one to offer and `left` tokens go. */
function guess(runs: readonly Run[], left: number, logitRows: number): void {
  for (const run of runs) {
    if (run.taken !== 1 || run.scores) continue;
    while (run.lookup.length < run.ids.length) run.lookup.push(run.ids[run.lookup.length]!);
    // The token after the last guess still counts as one to generate, and need not be evaluated.
    const most = Math.min(run.draftLength.tokens, left, logitRows - 1, run.request.maxTokens - run.generated - 1);
    if (most < 1) continue;
    run.draft = run.lookup.draft(most);
    left -= run.draft.length;
  }
}
