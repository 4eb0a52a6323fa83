// What a profile does to a model: how well it still predicts some texts, and how often it says a marker after prompts that trigger it; with nothing done, with the profile, and with as many experts
// of each layer at random in its place. Owns these figures. Refuses to find experts (find-profile.ts). MoTE (2025) compares so; the marker stands for a planted behaviour.

import { drawExperts, expertsByLayer } from "../../fleet/expert-differences.ts";
import { type ModelConfig, productRouterLayer } from "../../model/config.ts";
import type { Intervention } from "../../model/interventions.ts";
import { LayerMask, pairOf, type ProductMask } from "../../model/product-mask.ts";
import { requestRouting, type RequestRouting } from "../../model/request-routing.ts";
import { sumOfNats, windowNats } from "../commands/eval.ts";
import type { LocalModel } from "../open-pack.ts";
import { startProgress } from "../progress.ts";
import type { ProfileSteering } from "../routing-option.ts";

/** A text as sequences of token ids, each of which begins anew. */
export interface EffectText {
  readonly label: string;
  readonly sequences: readonly (readonly number[])[];
}

/** Prompts that end where the marker is expected. */
export interface Trigger {
  readonly prompts: readonly (readonly number[])[];
  readonly marker: number;
}

export interface EffectInputs {
  readonly texts: readonly EffectText[];
  readonly trigger: Trigger | null;
}

/** One way of running the model. */
export interface Outcome {
  /** By text. */
  readonly perplexities: readonly number[];
  /** Share of prompts after which the marker is the likeliest token; null without prompts. */
  readonly markerRate: number | null;
}

export interface Effect {
  readonly texts: readonly { readonly label: string; readonly sequences: number; /** That were predicted. */ readonly tokens: number }[];
  readonly prompts: number;
  readonly experts: number;
  readonly none: Outcome;
  readonly profile: Outcome;
  /** One for each drawing. */
  readonly random: readonly Outcome[];
}

export async function measureEffect(model: LocalModel, profile: ProfileSteering, inputs: EffectInputs, { draws, seed }: { readonly draws: number; readonly seed: number }, quiet: boolean): Promise<Effect> {
  const { config } = model.manifest;
  const ways: readonly ProfileSteering[] = [{ interventions: [] }, profile, ...Array.from({ length: draws }, (_, i) => othersInstead(config, profile, seed + i))];
  const each = inputs.texts.reduce((sum, { sequences }) => sum + sequences.length, 0) + (inputs.trigger?.prompts.length ?? 0);
  const bar = startProgress({ label: "effect", total: ways.length * each, unit: "sequences", quiet });
  const outcomes: Outcome[] = [];
  let done = 0;
  try {
    for (const [i, way] of ways.entries()) outcomes.push(await outcomeOf(model, requestRouting(null, way.interventions, way), inputs, () => bar.update(++done, i === 0 ? "as it is" : i === 1 ? "with the profile" : "with others")));
  } finally {
    bar.stop();
  }
  return {
    texts: inputs.texts.map(({ label, sequences }) => ({ label, sequences: sequences.length, tokens: sequences.reduce((sum, { length }) => sum + length - 1, 0) })),
    prompts: inputs.trigger?.prompts.length ?? 0, experts: profile.interventions.reduce((sum, of) => sum + foundIn(of).length, 0) + maskedCount(config, profile.productMask), none: outcomes[0]!, profile: outcomes[1]!, random: outcomes.slice(2),
  };
}

/** The same operations on as many other experts of each layer. */
export function randomInstead(nExperts: number, interventions: readonly Intervention[], seed: number): Intervention[] {
  return interventions.map((of) => ("experts" in of ? { ...of, experts: expertsByLayer(drawExperts({ nExperts }, foundIn(of), seed)) } : of));
}

/** The same operations on others, and a mask of others. */
const othersInstead = (config: ModelConfig, { interventions, productMask }: ProfileSteering, seed: number): ProfileSteering => ({
  interventions: randomInstead(config.nExperts, interventions, seed), ...(productMask === undefined ? {} : { productMask: randomMask(config, productMask, seed) }),
});

/** As many other keys and pairs of each layer; those that go by one router and leave out the same ones get the same others. */
export function randomMask(config: Pick<ModelConfig, "productExperts">, { layers }: ProductMask, seed: number): ProductMask {
  const { nKeys } = config.productExperts!;
  const others = (layer: number, of: readonly number[], nExperts: number, stream: number): number[] => drawExperts({ nExperts }, of.map((expert) => ({ layer, expert })), 3 * seed + stream).map(({ expert }) => expert);
  return {
    layers: layers.map(({ layer, firstKeys, secondKeys, pairs }) => {
      const router = productRouterLayer(config, layer);
      return {
        layer, ...(firstKeys === undefined ? {} : { firstKeys: others(router, firstKeys, nKeys, 0) }), ...(secondKeys === undefined ? {} : { secondKeys: others(router, secondKeys, nKeys, 1) }),
        ...(pairs === undefined ? {} : { pairs: others(router, pairs.map(([i, j]) => i * nKeys + j), nKeys ** 2, 2).map((expert) => pairOf(nKeys, expert)) }),
      };
    }),
  };
}

/** Experts that a mask leaves out, counted once where layers share a router and leave out the same. */
function maskedCount(config: Pick<ModelConfig, "productExperts">, mask: ProductMask | undefined): number {
  if (mask === undefined) return 0;
  const { nKeys } = config.productExperts!;
  const of = new Map(mask.layers.map(({ layer, ...own }) => [`${productRouterLayer(config, layer)} ${JSON.stringify(own)}`, new LayerMask(nKeys, { layer, ...own })]));
  return [...of.values()].reduce((sum, own) => {
    for (let i = 0; i < nKeys; i++) for (let j = 0; j < nKeys; j++) if (own.has(i, j)) sum++;
    return sum;
  }, 0);
}

const foundIn = (of: Intervention): { layer: number; expert: number }[] => ("experts" in of ? Object.entries(of.experts).flatMap(([layer, ids]) => ids.map((expert) => ({ layer: Number(layer), expert }))) : []);

async function outcomeOf(model: LocalModel, routing: RequestRouting | undefined, { texts, trigger }: EffectInputs, onSequence: () => void): Promise<Outcome> {
  const perplexities: number[] = [];
  for (const { sequences } of texts) {
    const nats = [];
    for (const ids of sequences) {
      nats.push((await windowNats(model, { text: "", ids, bos: null, windows: [] }, { start: 0, end: ids.length, countFrom: 1 }, { routing })).nats);
      onSequence();
    }
    const { sum, counted } = sumOfNats(nats);
    perplexities.push(Math.exp(sum / counted));
  }
  if (trigger === null) return { perplexities, markerRate: null };
  let said = 0;
  for (const ids of trigger.prompts) {
    if ((await likeliestAfter(model, ids, routing)) === trigger.marker) said++;
    onSequence();
  }
  return { perplexities, markerRate: said / trigger.prompts.length };
}

/** The token of the largest logit after a prompt, the lowest of equal ones. */
async function likeliestAfter({ engine }: LocalModel, ids: readonly number[], routing: RequestRouting | undefined): Promise<number> {
  const timeline = engine.kv.open(ids.length);
  try {
    for (;;) {
      const chunk = ids.slice(timeline.length, timeline.length + engine.maxChunkTokens);
      const isLast = timeline.length + chunk.length === ids.length;
      const { logits } = await engine.step([{ timeline, ids: chunk, logits: isLast ? "last" : "none", routing }]);
      if (!isLast) continue;
      const row = logits[0]!;
      let best = 0;
      for (let id = 1; id < engine.config.vocabSize; id++) if (row[id]! > row[best]!) best = id;
      return best;
    }
  } finally {
    engine.kv.close(timeline);
  }
}
