// A model writes its own calibration text: expert-balanced self-sampling (MoEQuant, 2025), and sampling as it is, the baseline. Of w beams, each with its w most
// likely next tokens, those w stay whose score is least: -(R + log P(v|S)) / (l + 1) + sigma(S) / tau. R is the sum of log-probabilities of S, l its length,
// sigma the mean over layers of the standard deviation of expert usage over S; v's own usage is known a step later, when v is part of S.
// Usage is the share of S's tokens that chose the expert: the paper's published deviations (0.09 with 6 of 64 experts) are possible with no other unit.
// Owns beams, scores and the forks of their caches. Refuses control tokens, which no text holds.

import { ModelError, moeLayersOf, type ModelConfig } from "../model/config.ts";
import type { Engine } from "../model/engine.ts";
import type { StepEntry } from "../model/step.ts";
import { expF64 } from "../model/float-math.ts";
import type { Timeline } from "../model/kv-cache.ts";
import { uniform } from "../model/random.ts";
import { argmax, logprobs } from "../model/sampling.ts";
import type { Tap } from "../model/taps.ts";

export const CANDIDATES = ["drawn", "likeliest"] as const;

/**
 * The published tau for the likeliest candidates. Where candidates are drawn, their probabilities have decided already who is one: nearly all that is left to decide is
 * balance, and counting probability twice would follow a small model into its loops (docs/compression.md has the figures).
 */
export const TAU: Readonly<Record<(typeof CANDIDATES)[number], number>> = { drawn: 0.0001, likeliest: 1.2 };

export interface SelfSamplingOptions {
  /** Sequences, and tokens of each, the first one included. */
  readonly sequences: number;
  readonly length: number;
  readonly seed: number;
  /** Beams of each sequence; 1: every token is drawn from the model's probabilities, as they are. */
  readonly beams: number;
  /** Divides the deviation of usage; Infinity: beam search alone. */
  readonly tau: number;
  /** Of each beam: its likeliest next tokens, or as many different ones drawn from its probabilities, which keeps small models from repeating themselves. */
  readonly candidates: (typeof CANDIDATES)[number];
  /** Sequences at a time. */
  readonly together: number;
  /** Tokens that no sequence may hold. */
  readonly isBarred: (id: number) => boolean;
}

export interface SampledSequence {
  readonly ids: readonly number[];
  /** Sum of log-probabilities behind the first token, by the model. */
  readonly logprob: number;
  /** Tokens that chose each expert, [layers with experts][nExperts]; of the last token nothing is known. */
  readonly usage: readonly Uint32Array[];
}

/** Mean over layers of the standard deviation of the share of `nTokens` that chose each expert. */
export function usageDeviation(usage: readonly Uint32Array[], nTokens: number): number {
  if (nTokens === 0 || usage.length === 0) return 0;
  return usage.reduce((sum, counts) => {
    const mean = counts.reduce((a, b) => a + b, 0) / counts.length;
    return sum + Math.sqrt(counts.reduce((squares, n) => squares + (n - mean) ** 2, 0) / counts.length) / nTokens;
  }, 0) / usage.length;
}

/** Less is better: a sequence of `length` tokens with its log-probabilities' sum, and one more token. */
export const balancedScore = (logprobSum: number, logprob: number, length: number, deviation: number, tau: number): number => -(logprobSum + logprob) / (length + 1) + deviation / tau;

interface Beam {
  readonly timeline: Timeline;
  readonly ids: readonly number[];
  readonly logprob: number;
  readonly usage: readonly Uint32Array[];
}

/** The sequences, in groups of `together`; `onToken` is told how many tokens are written. */
export async function* selfSample(engine: Engine, options: SelfSamplingOptions, onToken: (tokens: number) => void = () => {}): AsyncIterable<SampledSequence> {
  const { sequences, length, together, beams } = options;
  if (moeLayersOf(engine.config).length === 0) throw new ModelError("A dense model has no experts to balance a text by.");
  if (length < 2 || length > engine.contextLength) throw new ModelError(`Sequences of ${length} tokens were asked for; expected 2 to ${engine.contextLength}.`);
  if (together * beams > engine.maxChunkTokens) throw new ModelError(`${together} sequences of ${beams} beams were asked for at a time; a step takes ${engine.maxChunkTokens} tokens.`);
  const firsts = firstTokens(engine.config, options);
  for (let from = 0; from < sequences; from += together) {
    const group = firsts.slice(from, from + together).map((id, i) => new Search(engine, options, id, from + i));
    try {
      for (let done = 1; done < length; done++) {
        await advance(engine, group);
        onToken(from * (length - 1) + group.length * done);
      }
      for (const search of group) yield search.best();
    } finally {
      for (const search of group) search.close();
      engine.kv.forget();
    }
  }
}

/** Different ids as long as there are enough, drawn without order. */
function firstTokens({ vocabSize }: ModelConfig, { sequences, seed, isBarred }: SelfSamplingOptions): number[] {
  const allowed = Array.from({ length: vocabSize }, (_, id) => id).filter((id) => !isBarred(id));
  if (allowed.length === 0) throw new ModelError("No token of the vocabulary may stand in a text.");
  const out: number[] = [];
  for (let i = 0; i < sequences; i++) {
    // Fisher and Yates, begun anew when all have had their turn.
    const at = i % allowed.length;
    const other = at + Math.floor(uniform(seed, i, 0, 0) * (allowed.length - at));
    [allowed[at], allowed[other]] = [allowed[other]!, allowed[at]!];
    out.push(allowed[at]!);
  }
  return out;
}

/** One token more for every beam: their last tokens in one step, whose selections are counted for them. */
async function advance(engine: Engine, group: readonly Search[]): Promise<void> {
  const beams = group.flatMap((search) => search.beams);
  const byTimeline = new Map(beams.map((beam) => [beam.timeline.id, beam]));
  const layerOf = new Map(moeLayersOf(engine.config).map((layer, i) => [layer, i]));
  const { topK } = engine.config.router;
  const counting: Tap = {
    at: "selection",
    run: ({ layer, timelines, ids }) => timelines.forEach((timeline, t) => {
      const counts = byTimeline.get(timeline)!.usage[layerOf.get(layer)!]!;
      for (let rank = t * topK; rank < (t + 1) * topK; rank++) counts[ids[rank]!]!++;
    }),
  };
  const entries = beams.map(({ timeline, ids }): StepEntry => ({ timeline, ids: ids.slice(timeline.length), logits: "last" }));
  const { logits } = await engine.step(entries, [counting]);
  let at = 0;
  for (const search of group) {
    const n = search.beams.length;
    search.extend(logits.slice(at, at + n));
    at += n;
  }
}

/** The beams of one sequence. */
class Search {
  #beams: Beam[];
  readonly #engine: Engine;
  readonly #options: SelfSamplingOptions;
  readonly #number: number;

  constructor(engine: Engine, options: SelfSamplingOptions, first: number, number: number) {
    this.#engine = engine;
    this.#options = options;
    this.#number = number;
    const { nExperts } = engine.config;
    this.#beams = [{ timeline: engine.kv.open(options.length), ids: [first], logprob: 0, usage: moeLayersOf(engine.config).map(() => new Uint32Array(nExperts)) }];
  }

  get beams(): readonly Beam[] { return this.#beams; }

  /** The beam with the least score. */
  best(): SampledSequence {
    const { ids, logprob, usage } = this.#beams[0]!;
    return { ids, logprob, usage };
  }

  close(): void {
    for (const { timeline } of this.#beams) this.#engine.kv.close(timeline);
    this.#beams = [];
  }

  /** Goes on with the best of all beams' candidates; `logits` f32 [vocab] by beam. */
  extend(logits: readonly Float32Array[]): void {
    const { beams, tau } = this.#options;
    const scored = this.#beams.flatMap((beam, from) => {
      const { length } = beam.ids;
      const deviation = usageDeviation(beam.usage, length);
      return this.#candidates(logits[from]!, from, length).map(({ id, logprob }) => ({ from, id, logprob, score: balancedScore(beam.logprob, logprob, length, deviation, tau) }));
    }).sort((a, b) => a.score - b.score || a.from - b.from || a.id - b.id).slice(0, beams);
    const before = this.#beams;
    const taken = new Set<number>();
    const { kv } = this.#engine;
    const next: Beam[] = [];
    try {
      for (const { from, id, logprob } of scored) {
        const { timeline, ids, usage, logprob: sum } = before[from]!;
        const longer = [...ids, id];
        // The first child goes on with its parent's cache; others share its whole pages and copy the last one.
        const isFirst = !taken.has(from);
        taken.add(from);
        if (!isFirst) kv.keep(timeline, { scope: "beams", ids });
        next.push({
          timeline: isFirst ? timeline : kv.open(this.#options.length, { scope: "beams", ids: longer }), ids: longer, logprob: sum + logprob,
          usage: isFirst ? usage : usage.map((counts) => counts.slice()),
        });
      }
    } finally {
      this.#beams = [...next, ...before.filter((_, from) => !taken.has(from))];
    }
    for (const { timeline } of this.#beams.slice(next.length)) kv.close(timeline);
    this.#beams = next;
    // What is kept for nobody but this fork would pile up otherwise.
    kv.forget();
  }

  /** Next tokens of a beam, barred ones left out. Log-probabilities are the model's over its whole vocabulary. */
  #candidates(logits: Float32Array, beam: number, position: number): readonly Candidate[] {
    const { beams, candidates, isBarred, seed } = this.#options;
    if (candidates === "likeliest" && beams > 1) {
      for (let wanted = beams; ; wanted *= 2) {
        const found = logprobs(logits, 0, Math.min(wanted, logits.length)).top.filter(({ id }) => !isBarred(id)).slice(0, beams);
        if (found.length === beams || wanted >= logits.length) return found;
      }
    }
    const likeliest = argmax(logits);
    const [max, { logprob: largest }] = [logits[likeliest]!, logprobs(logits, likeliest, 0)];
    const masses = Float64Array.from(logits, (x, id) => (isBarred(id) ? 0 : expF64(x - max)));
    return drawDifferent(masses, beams, (draw) => uniform(seed, this.#number, position, beam * beams + draw)).map((id) => ({ id, logprob: logits[id]! - max + largest }));
  }
}

interface Candidate {
  readonly id: number;
  readonly logprob: number;
}

/** Up to `n` different numbers with the given masses, one after the other out of what is left; `masses` are used up. */
export function drawDifferent(masses: Float64Array, n: number, random: (draw: number) => number): number[] {
  const out: number[] = [];
  for (let draw = 0; draw < n; draw++) {
    let left = random(draw) * masses.reduce((a, b) => a + b, 0);
    let found = -1;
    for (let id = 0; id < masses.length && left >= 0; id++) {
      if (masses[id] === 0) continue;
      found = id;
      left -= masses[id]!;
    }
    if (found < 0) break;
    out.push(found);
    masses[found] = 0;
  }
  return out;
}
