// What `bench/compression.ts` measures: rows of tables, each a chain of passes on a model and the text whose loss counts. Data only.
// Owns which baselines stand beside which method: the same calibration tokens, the same bits. Refuses to run anything (runner.ts) and to judge (tables.ts).

import { uniform } from "../../model/random.ts";

/** One command of `workers-moe compress`: the pass and its options, without model and folder. `{calibration}` stands for the file of the sample. */
export type Step = readonly string[];

export interface Experiment {
  /** Of the table it belongs to. */
  readonly group: string;
  /** Rows of the same label are samples of one figure. */
  readonly label: string;
  /** Number of the calibration text, or of the drawing where it is drawn. */
  readonly sample: number;
  /** Passes, one after the other. Those of `plan` write a bit plan for the next. */
  readonly steps: readonly Step[];
  /** Options of `eval`. */
  readonly scoring: readonly string[];
  /** How it is packed where its matrices are as published; null: as they are stored. */
  readonly quant: string | null;
  /** Domain whose held-out text counts; `mix` is all of them. */
  readonly domain: string;
}

export interface MeasuredModel {
  readonly nExperts: number;
  readonly nLayers: number;
  readonly hiddenSize: number;
}

export const DOMAINS = ["novel", "drama", "stories", "math", "speeches", "docs-en", "docs-fr", "docs-es", "docs-zh", "code-ts", "code-py", "code-c"] as const;

/** Texts of a domain written for `sample`. */
export const calibrationFile = (domain: string, sample: number): string => `${domain}.calibration-${sample}.txt`;
export const heldoutFile = (domain: string): string => `${domain}.heldout.txt`;

const SAMPLES = [1, 2, 3, 4, 5];
const WINDOWS = ["--samples", "32", "--window", "512"];
/** What has 2 to 2.5 bits are experts; attention has 4 and the vocabulary 8. */
const TRUNK = "all=8; attn=4";
const text = (sample: number, domain = "mix"): string[] => ["--text", `{texts}/${calibrationFile(domain, sample)}`, ...WINDOWS];

/** Rules that give a drawn quarter of each layer's experts 4 bits and the others 2: 2.5 on average. */
export function randomPlan({ nExperts, nLayers }: Pick<MeasuredModel, "nExperts" | "nLayers">, seed: number): string {
  const rules = Array.from({ length: nLayers }, (_, layer) => Array.from({ length: nExperts }, (_, expert) => expert)
    .sort((a, b) => uniform(seed, layer, a, 1) - uniform(seed, layer, b, 1)).slice(0, Math.round(nExperts / 4))
    .sort((a, b) => a - b).map((expert) => `exp[l${layer}e${expert}]=4`)).flat();
  return [`${TRUNK}; routed=2`, ...rules].join("; ");
}

const row = (group: string, label: string, sample: number, steps: readonly Step[], domain = "mix", quant: string | null = null, scoring: readonly string[] = []): Experiment => ({ group, label, sample, steps, quant, domain, scoring });

/** What a dense model has: its feed-forward parts cut into experts, half of which a token takes. */
const denseExperiments = (): Experiment[] => [row("moefy", "dense, as published", 1, [], "stories", "f32"), ...[4, 43, 86].flatMap((nExperts) => {
  const topK = Math.ceil(nExperts / 2);
  const cut = (sample: number, label: string, split: string, router: string): Experiment => row("moefy", `${topK} of ${nExperts} experts: ${label}`, sample,
    [["moefy", "--experts", String(nExperts), "--top-k", String(topK), "--split", split, "--router", router, "--seed", String(sample), ...text(sample, "stories")]], "stories");
  return SAMPLES.flatMap((s) => [
    cut(s, "like gate rows, their mean as router (EMoE)", "keys", "mean"), cut(s, "drawn, mean", "random", "mean"), cut(s, "like gate rows, fitted router", "keys", "fitted"),
    cut(s, "work on the same tokens, fitted", "work", "fitted"), cut(s, "drawn, fitted", "random", "fitted"),
  ]);
})];

export function experiments(model: MeasuredModel): Experiment[] {
  if (model.nExperts === 0) return denseExperiments();
  const { nExperts, hiddenSize } = model;
  const rank = (share: number): string => String(32 * Math.floor((share * hiddenSize) / 32));
  const gptq = (plan: string, sample: number, ...more: string[]): Step => ["gptq", "--plan", plan, ...text(sample), ...more];
  /** A plan of bits, and GPTQ by it. */
  const planned = (sample: number, ...options: string[]): Step[] => [["bits", ...options, ...text(sample)], gptq(`${TRUNK}; {plan}`, sample)];
  return [
    row("widths", "as published", 1, [], "mix", "f32"),
    row("widths", "8 bits, nearest", 1, [], "mix", "q8"),
    row("widths", "4 bits, nearest", 1, [["nearest"]]),
    ...SAMPLES.flatMap((s) => [
      row("widths", "4 bits, GPTQ", s, [["gptq", ...text(s)]]),
      row("widths", "4 bits, GPTQ with AGQ", s, [["gptq", "--weighting", "affinity", ...text(s)]]),
    ]),
    row("mixed", "2 bits, nearest", 1, [["nearest", "--plan", `${TRUNK}; routed=2`]]),
    row("mixed", "4 bits, GPTQ", 1, [gptq(`${TRUNK}; routed=4`, 1)]),
    ...SAMPLES.flatMap((s) => [
      row("mixed", "2 bits, GPTQ", s, [gptq(`${TRUNK}; routed=2`, s)]),
      row("mixed", "2.5 bits, PMQ", s, planned(s, "--by", "pmq", "--bits", "2.5")),
      row("mixed", "2.5 bits, least squared error, down apart", s, planned(s, "--by", "error", "--bits", "2.5")),
      row("mixed", "2.5 bits, drawn", s, [gptq(randomPlan(model, s), s)]),
    ]),
    ...SAMPLES.flatMap((s) => [
      row("mixed", "3 bits of 2 and 4, least squared error, down apart", s, planned(s, "--by", "error", "--bits", "3")),
      row("mixed", "3 bits, GPTQ", s, [gptq(`${TRUNK}; routed=3`, s)]),
      row("mixed", "3 bits of 2, 3 and 4, least squared error, down apart", s, planned(s, "--by", "error", "--bits", "3", "--widths", "2,3,4")),
    ]),
    ...["math", "novel", "docs-zh", "code-c"].flatMap((domain) => [
      row("prune", `${domain}: all experts`, 1, [], domain, "f32"),
      ...SAMPLES.flatMap((s) => [
        row("prune", `${domain}: EASY-EP`, s, [["prune", "--keep", String(nExperts / 2), ...text(s, domain)]], domain, "f32"),
        row("prune", `${domain}: frequency`, s, [["prune", "--keep", String(nExperts / 2), "--by", "frequency", ...text(s, domain)]], domain, "f32"),
        row("prune", `${domain}: drawn`, s, [["prune", "--keep", String(nExperts / 2), "--by", "random", "--seed", String(s), ...text(s, domain)]], domain, "f32"),
      ]),
    ]),
    ...[0.75, 0.5].flatMap((share) => SAMPLES.flatMap((s) => [
      row("merge", `${100 - 100 * share} % fewer: Sub-MoE`, s, [["merge", "--join", "mean", "--share", String(share), ...text(s).slice(0, 2), "--samples", "8", "--window", "512"]], "mix", "f32"),
      row("merge", `${100 - 100 * share} % fewer: joined by neurons`, s, [["merge", "--join", "neurons", "--share", String(share), ...text(s)]], "mix", "f32"),
      row("merge", `${100 - 100 * share} % fewer: pruned by frequency`, s, [["prune", "--keep", String(nExperts * share), "--by", "frequency", ...text(s)]], "mix", "f32"),
      row("merge", `${100 - 100 * share} % fewer: pruned by lot`, s, [["prune", "--keep", String(nExperts * share), "--by", "random", "--seed", String(s), ...text(s)]], "mix", "f32"),
    ])),
    ...[0.65, 0.4].flatMap((share) => SAMPLES.slice(0, share === 0.65 ? 5 : 1).flatMap((s) => (["shared", "per-expert"] as const).map((by) =>
      row("latent", `rank ${rank(share)} of ${hiddenSize}: ${by === "shared" ? "one projection for all (MoLAE)" : "one for each expert, of the same size"}`, s, [["latentize", "--rank", rank(share), "--by", by, ...text(s)]], "mix", "f32")))),
    ...SAMPLES.flatMap((s) => (["ranked", "run"] as const).map((among) =>
      row("auxiliary", among === "ranked" ? "half run, weights as they are, fitted vectors" : "half run, weights made anew, fitted vectors", s, [["auxiliary", "--weigh-among", among, ...text(s)]], "mix", "f32"))),
    row("online", "ratio 0.3 everywhere", 1, [], "mix", "f32", ["--prune", "0.3"]),
    row("online", "ratio 0.3 everywhere, weights made anew", 1, [], "mix", "f32", ["--prune", "0.3", "--prune-renormalize", "yes"]),
    ...SAMPLES.flatMap((s) => [
      row("online", "calibrated ratios (ODP)", s, [["online-pruning", "--target-share", "0.18", ...text(s)]], "mix", "f32", ["--prune", "calibrated"]),
      row("online", "mask router (OTP)", s, [["online-pruning", "--target-share", "0.18", "--rule", "learned", ...text(s)]], "mix", "f32", ["--prune", "learned"]),
    ]),
  ];
}
