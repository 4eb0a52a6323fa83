// One step as the generations in it see it: what is asked of the engine for each, who watches its routing, and what each gets of the result: costs, what was left out, tokens.
// Owns that order. Refuses to choose who takes part (step-share.ts), by which terms the step goes and what its failure means (scheduler.ts), and what comes of logits (delivery.ts).

import type { StepEntry, StepResult } from "../model/step.ts";
import { logitsRequest } from "../model/logits.ts";
import { decidingForm } from "../model/sampling.ts";
import type { Tap } from "../model/taps.ts";
import { deliver } from "./delivery.ts";
import type { Run } from "./generation-run.ts";
import { LeftOutRows, type ToldRows } from "./left-out-rows.ts";
import { StepTrace } from "./step-trace.ts";
import type { TraceSamples } from "./trace-samples.ts";

export interface BatchStepParts {
  readonly vocabSize: number;
  readonly topK: number;
  /** The routing of some generations is kept; null: of none. */
  readonly samples: TraceSamples | null;
  readonly told: ToldRows;
  /** Guesses evaluated, and how many of them held, over all steps. */
  readonly drafts: { tokens: number; held: number };
  /** The prompt of a generation is evaluated: others may take it over. */
  readonly keep: (run: Run) => void;
}

export class BatchStep {
  readonly runs: readonly Run[];
  readonly entries: readonly StepEntry[];
  readonly leftOut = new LeftOutRows();
  /** All take one token each. */
  readonly decodes: boolean;
  readonly #p: BatchStepParts;
  readonly #starts: readonly number[];
  readonly #trace: StepTrace | null;
  readonly #sampled: StepTrace | null;

  constructor(runs: readonly Run[], parts: BatchStepParts) {
    const { topK, vocabSize } = parts;
    this.runs = runs;
    this.#p = parts;
    this.entries = runs.map((run) => entryOf(run, vocabSize));
    this.#starts = runs.map((run) => run.evaluated);
    this.decodes = runs.every((run) => run.taken === 1);
    const asked = runs.filter((run) => run.traces && run.taken === run.left);
    this.#trace = asked.length === 0 ? null
      : new StepTrace(asked.map(({ timeline, ids, request: { trace: of } }) => ({ timeline: timeline!.id, from: ids.length - 1, layer: typeof of === "object" ? of.layer : null })), topK);
    const sampled = runs.filter((run) => run.sample !== null);
    this.#sampled = sampled.length === 0 ? null : new StepTrace(sampled.map(({ timeline }) => ({ timeline: timeline!.id, from: 0, layer: null })), topK);
  }

  get taps(): readonly Tap[] { return [...(this.#trace?.taps ?? []), ...(this.#sampled?.taps ?? [])]; }
  get hasDrafts(): boolean { return this.runs.some((run) => run.draft.length > 0); }

  /** Gives everybody what the step has brought; returns how far it brought them all together, in tokens: one at least for each. */
  deliver(result: StepResult): number {
    return this.runs.reduce((sum, run, i) => sum + this.#deliver(run, i, result), 0);
  }

  #deliver(run: Run, i: number, result: StepResult): number {
    const { vocabSize, samples, told, drafts, keep } = this.#p;
    const { leftOut } = this;
    const [entry, start] = [this.entries[i]!, this.#starts[i]!];
    const { id } = run.timeline!;
    run.moe.steps++;
    run.moe.frames += result.frames;
    run.moe.bytes += result.bytes;
    run.moe.retries += result.retries;
    run.moe.hedges += result.hedges;
    if (result.pruned !== undefined) run.notePruned(result.pruned[i]!);
    leftOut.except(id, told.of(run));
    run.missingRows += leftOut.between(id, start, start + entry.ids.length - run.draft.length);
    if (!run.promptKept && run.evaluated >= run.request.promptIds.length) {
      run.promptKept = true;
      keep(run);
    }
    const before = run.generated;
    if (!run.ended) {
      drafts.held += deliver(run, { entry, start, logits: result.logits[i]!, top: result.tops[i]!, vocabSize, trace: this.#trace, leftOut });
      drafts.tokens += run.draft.length;
    }
    const { length } = run.timeline!;
    told.note(run, leftOut, id, start, length);
    if (run.sample !== null) samples!.add(run.sample, this.#sampled!.routesOf(id, start, length));
    return Math.max(1, run.generated - before);
  }
}

/** Its tokens of this step, and the logits that will decide the next. */
function entryOf(run: Run, vocabSize: number): StepEntry {
  const { routing } = run.request;
  const entry = plainEntryOf(run, vocabSize);
  return routing === undefined ? entry : { ...entry, routing };
}

function plainEntryOf(run: Run, vocabSize: number): StepEntry {
  const timeline = run.timeline!;
  const own = run.ids.slice(run.evaluated, run.evaluated + run.taken);
  if (run.request.embedding === true) return { timeline, ids: own, logits: { states: true, of: "all" } };
  const of = run.scores || run.draft.length > 0 ? "all" : run.taken === run.left && run.request.maxTokens > 0 ? "last" : "none";
  run.form = run.scores || (run.stage !== null && run.draft.length > 0) ? "row" : decidingForm(run.request.sampling, run.request.logprobs ?? null, vocabSize, run.stage);
  return { timeline, ids: [...own, ...run.draft], logits: of === "none" ? of : logitsRequest(run.form, of) };
}
