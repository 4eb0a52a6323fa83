// The search itself: bytes first, then models, then a growing part of the text, and the front of what is left. Owns that order, and what becomes of each candidate.
// Refuses chance: the same model, texts, space and seed give the same document, in one go or in several.

import type { Checkpoint } from "../../formats/checkpoint.ts";
import { CapacityPlanError, type CapacityPack } from "../../fleet/capacity-pack.ts";
import { LIMITS } from "../../durable/limits.ts";
import { paretoFront } from "../../passes/pareto-front.ts";
import { growingShares, stillRunning } from "../../passes/racing.ts";
import { type Candidate, isProperPart } from "../../passes/search-space.ts";
import { sumOfNats } from "../commands/eval.ts";
import { planUntraced } from "../plan-fleet.ts";
import { showBytes } from "../sizes.ts";
import { activeBytesOf, PackScorer, type Score, scoreSchema } from "./candidate-score.ts";
import { type OutlinedBytes, outlineAfter, outlinedBytes, outlineOf, packedBytes } from "./model-outline.ts";
import type { FoundCandidate } from "./search-document.ts";
import { type Made, SearchStopped, type Workshop } from "./workshop.ts";

export interface SearchOptions {
  readonly candidates: readonly Candidate[];
  readonly text: string;
  readonly textFile: string;
  readonly textSha256: string;
  /** Windows of the text, and positions of the packs. */
  readonly nWindows: number;
  readonly contextLength: number;
  readonly budgetBytes: number | null;
  readonly budgetDollars: number | null;
  readonly deviations: number;
}

export interface SearchProgress {
  /** Windows that need no more measuring, of `candidates * nWindows`. */
  readonly done: number;
  readonly now: string;
}

type Ended = Pick<FoundCandidate, "became" | "because">;

class Entry {
  readonly calls: Candidate;
  readonly name: string;
  readonly outlined: OutlinedBytes | null;
  ended: Ended | null = null;
  made: Made | null = null;
  /** All that is known, perhaps from an earlier run; candidates are compared on the same part. */
  known: Score | null = null;
  share = 0;
  bytes: number | null;
  dollars: number | null = null;

  constructor(calls: Candidate, outlined: OutlinedBytes | null) {
    this.calls = calls;
    this.name = candidateName(calls);
    this.outlined = outlined;
    this.bytes = outlined === null ? null : outlined.bytes.least;
  }

  get score(): Score | null { return this.known === null ? null : { ...this.known, windows: this.known.windows.slice(0, this.share) }; }
  get prices(): readonly number[] { return [this.bytes!, activeBytesOf(this.score!), ...(this.dollars === null ? [] : [this.dollars])]; }
  get nats(): number[] { return this.score!.windows.flatMap(({ nats }) => nats); }
}

/** "prune 24 > gptq all=8; routed=4": of each pass what tells it from others. */
export const candidateName = (calls: Candidate): string => (calls.length === 0 ? "as it is" : calls.map(({ pass, options }) =>
  [pass, ...Object.entries(options).filter(([key]) => !["text", "samples", "window", "seed"].includes(key)).map(([key, value]) =>
    (["plan", "keep", "share", "bits"].includes(key) ? String(value) : value === true ? key : `${key}=${value}`))].join(" ")).join(" > "));

export interface SearchResult {
  readonly shares: readonly number[];
  readonly found: readonly (Omit<FoundCandidate, "commands" | "kept"> & { readonly made: Made | null })[];
}

export async function runSearch(checkpoint: Checkpoint, workshop: Workshop, options: SearchOptions, onProgress: (progress: SearchProgress) => void): Promise<SearchResult> {
  const { candidates, nWindows, contextLength } = options;
  const outline = outlineOf(checkpoint);
  const entries = candidates.map((calls) => {
    const after = outlineAfter(outline, calls);
    return new Entry(calls, after === null ? null : outlinedBytes(after, contextLength));
  });
  for (const entry of entries) entry.ended = hopeless(entry, entries, options);
  const shares = growingShares(nWindows);
  let running = entries.filter(({ ended }) => ended === null);
  const progress = (now: string): void => onProgress({ now, done: entries.reduce((sum, { ended, score }) => sum + (ended === null ? (score?.windows.length ?? 0) : nWindows), 0) });
  for (const share of shares) {
    for (const entry of running) {
      const now = `${entry.name} (${running.indexOf(entry) + 1} of ${running.length}, ${share} of ${nWindows} windows)`;
      progress(now);
      try {
        await measure(entry, workshop, share, options, () => progress(now));
      } catch (error) {
        if (error instanceof SearchStopped) throw error;
        entry.ended = { became: "failed", because: error instanceof Error ? error.message : String(error) };
      }
      if (entry.ended !== null && entry.made !== null) await workshop.discardPack(entry.made.key);
    }
    running = running.filter(({ ended }) => ended === null);
    if (share === nWindows) break;
    const left = new Set(stillRunning(running, options.deviations));
    for (const entry of running) {
      if (left.has(entry)) continue;
      const better = running.find((other) => left.has(other) && other.prices.every((price, i) => price <= entry.prices[i]!) && mean(other) < mean(entry));
      entry.ended = { became: "dropped", because: `${better === undefined ? "beaten" : `beaten by ${better.name}`} on ${share} of ${nWindows} windows` };
      await workshop.discardPack(entry.made!.key);
    }
    running = [...left];
  }
  const front = new Set(paretoFront(running, (entry) => [...entry.prices, mean(entry)]));
  for (const entry of running) entry.ended = front.has(entry) ? { became: "front", because: null } : { became: "measured", because: `beaten by ${entries.find((other) => front.has(other) && other.prices.every((price, i) => price <= entry.prices[i]!) && mean(other) <= mean(entry))!.name}` };
  return {
    shares,
    found: entries.map(({ calls, name, ended, bytes, dollars, score, made }) => {
      const { sum, counted } = sumOfNats(score?.windows.map(({ nats }) => nats) ?? []);
      return {
        name, passes: calls, ...ended!, bytes, dollars, made, tokens: counted, activeBytes: score === null || score.windows.length === 0 ? null : activeBytesOf(score),
        meanNll: counted === 0 ? null : sum / counted, perplexity: counted === 0 ? null : Math.exp(sum / counted),
      };
    }),
  };
}

function mean({ score }: Entry): number {
  const { sum, counted } = sumOfNats(score!.windows.map(({ nats }) => nats));
  return sum / counted;
}

/** Why a candidate is not tried at all; null where it may be good for something. */
function hopeless(entry: Entry, all: readonly Entry[], { budgetBytes, budgetDollars }: SearchOptions): Ended | null {
  const { outlined } = entry;
  if (outlined === null) return null;
  const over = overBudget(outlined.bytes.least, outlined.pack !== null && budgetDollars !== null ? dollarsOf(outlined.pack) : null, budgetBytes, budgetDollars);
  if (over !== null) return { became: "over-budget", because: over };
  // What has more passes loses more; where it takes no fewer bytes, nothing is had for it.
  const lighter = all.find((other) => other !== entry && other.outlined !== null && isProperPart(other.calls, entry.calls)
    && other.outlined.bytes.most <= outlined.bytes.least && other.outlined.activeBytes.most <= outlined.activeBytes.least);
  return lighter === undefined ? null : { became: "saves-nothing", because: `${lighter.name} takes no more bytes` };
}

function overBudget(bytes: number, dollars: number | null, budgetBytes: number | null, budgetDollars: number | null): string | null {
  if (budgetBytes !== null && bytes > budgetBytes) return `${showBytes(bytes)}, of ${showBytes(budgetBytes)} allowed`;
  if (budgetDollars !== null && dollars === Infinity) return "it fits no isolates of the default size";
  if (budgetDollars !== null && dollars !== null && dollars > budgetDollars) return `${dollars.toFixed(3)} dollars per million tokens, of ${budgetDollars} allowed`;
  return null;
}

/** Per million tokens of one stream in one region, isolates of the default size, as `workers-moe plan` has it first; infinite where it cannot be deployed. */
export function dollarsOf(pack: CapacityPack): number {
  try {
    const { document } = planUntraced({ pack, contextTokens: pack.contextLength, quant: "source", packHash: null, packBytes: 0 }, {
      isolateBytes: LIMITS.isolateBytes, streams: 1, nShards: null, regions: [], regionHolds: "deployment", replicas: 1, spareBytes: 0, placement: null, expertsIn: null,
    });
    return document.speed.at[0]!.dollarsPerMillionTokens.total;
  } catch (error) {
    if (error instanceof CapacityPlanError) return Infinity;
    throw error;
  }
}

/** Makes a candidate as far as it is not there, and measures it on the first `share` windows. */
async function measure(entry: Entry, workshop: Workshop, share: number, options: SearchOptions, onWindow: () => void): Promise<void> {
  entry.made ??= await workshop.make(entry.calls);
  const { key } = entry.made;
  if (entry.known === null) {
    const kept = scoreSchema.safeParse(await workshop.read(key, "score"));
    if (kept.success && kept.data.text === options.textSha256) entry.known = kept.data;
  }
  entry.share = share;
  if (entry.known !== null && entry.known.windows.length >= share) {
    take(entry, entry.known, options);
    return;
  }
  const scorer = await PackScorer.open(await workshop.pack(entry.made), options.text, options.textFile);
  entry.known ??= { text: options.textSha256, bytes: packedBytes(scorer.manifest), dollars: finite(dollarsOf(scorer.manifest)), trunkBytes: scorer.trunkBytes, windows: [] };
  take(entry, entry.known, options);
  for (let window = entry.known.windows.length; entry.ended === null && window < share; window++) {
    entry.known.windows.push(await scorer.window(window));
    onWindow();
  }
  await workshop.keep(key, "score", entry.known);
}

const finite = (x: number): number | null => (Number.isFinite(x) ? x : null);

function take(entry: Entry, { bytes, dollars }: Score, { budgetBytes, budgetDollars }: SearchOptions): void {
  entry.bytes = bytes;
  entry.dollars = budgetDollars === null ? null : dollars;
  const over = overBudget(bytes, dollars ?? Infinity, budgetBytes, budgetDollars);
  if (over !== null) entry.ended = { became: "over-budget", because: over };
}
