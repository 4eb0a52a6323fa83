// Finds the experts that one class of texts takes more than others do, and writes them down as a profile. Owns the methods by name, which layers they look at, and what is said of how it was found.
// The sums are fleet/sequence-routing.ts, the order fleet/expert-differences.ts, the document formats/routing-profile.ts. Refuses classes of different models.

import { basename } from "node:path";
import { chooseExperts, differenceMap, drawExperts, expertsByLayer, type FoundExpert, middleLayers, ownDifferences } from "../../fleet/expert-differences.ts";
import { isOfProducts } from "../../fleet/product-routing.ts";
import { ClassRouting, type ExpertMap, type RoutingShape } from "../../fleet/sequence-routing.ts";
import { maskedExpertsOf } from "../../formats/product-mask-schema.ts";
import { PROFILE_NAME, type ProfiledPack, profileProblem, type RoutingProfile } from "../../formats/routing-profile.ts";
import type { Intervention } from "../../model/interventions.ts";
import { maskOfRouters, pairOf } from "../../model/product-mask.ts";
import { startProgress } from "../progress.ts";
import type { ClassSource } from "./class-sources.ts";

/**
 * What a class is compared by: `weight` and `count` are sums over a prompt's tokens, mean over prompts (fTRI); `frequency` the share of a sequence's tokens that chose the expert, mean over sequences.
 */
export const FOUND_BY = ["weight", "count", "frequency"] as const;
export type FoundBy = (typeof FOUND_BY)[number];

const METHODS: Readonly<Record<FoundBy, string>> = { weight: "activation maps", count: "activation maps", frequency: "frequencies" };
/** Operations that name experts. */
export const PROFILE_OPS = ["suppress", "stimulate", "gain", "mask", "force_max", "add_std"] as const satisfies readonly Intervention["op"][];
export type ProfileOp = (typeof PROFILE_OPS)[number];

/** Those that make tokens take experts they would not have taken: more than a token has places for would leave nothing to the router. */
const FILLS_PLACES: readonly ProfileOp[] = ["stimulate", "force_max", "add_std"];
/** Without a threshold or a number. */
const TOP = 10;

export interface FindOptions {
  readonly target: string;
  readonly by: FoundBy;
  readonly layers: "all" | "middle" | readonly number[];
  readonly tau?: number | undefined;
  readonly top?: number | undefined;
  /** Only experts whose share is at least so many times that of every other class. */
  readonly ratio?: number | undefined;
  readonly op: ProfileOp;
  readonly gain?: number | undefined;
  readonly lambda?: number | undefined;
  /** Seed: as many experts of each layer at random in place of those found. */
  readonly random?: number | undefined;
  readonly name?: string | undefined;
}

export interface SummedClass {
  readonly source: ClassSource;
  readonly routing: ClassRouting;
}

export interface FoundProfile {
  readonly shape: RoutingShape;
  readonly classes: readonly SummedClass[];
  readonly options: FindOptions;
  readonly layers: readonly number[];
  /** Target's map and what it differs by, [layers][nExperts]. */
  readonly target: ExpertMap;
  readonly difference: ExpertMap;
  readonly found: readonly FoundExpert[];
  /** Who they are by layer, as the document has them. */
  readonly experts: Readonly<Record<string, readonly number[]>>;
  readonly document: RoutingProfile;
  /** How people read an expert's number: of product experts as (i, j). */
  readonly nameOf: (expert: number) => string;
}

/** Sums every class, one sequence at a time. Throws a sentence where they are of different models. */
export async function sumClasses(sources: readonly ClassSource[], quiet: boolean): Promise<SummedClass[]> {
  const { shape } = sources[0]!;
  for (const source of sources) requireShape(source, sources[0]!);
  const bar = startProgress({ label: "routing", total: sources.reduce((sum, { nTokens }) => sum + nTokens, 0), unit: "tokens", quiet: quiet || sources.every(({ nTokens }) => nTokens === 0) });
  const summed: SummedClass[] = [];
  let done = 0;
  try {
    for (const source of sources) {
      const routing = new ClassRouting(shape);
      for await (const sequence of source.sequences()) {
        routing.add(sequence);
        if (source.nTokens > 0) bar.update((done += sequence.tokens[0]!), source.label);
      }
      summed.push({ source, routing });
    }
  } finally {
    bar.stop();
  }
  return summed;
}

/** Throws a sentence where two classes are of models of different shapes. */
export function requireShape({ file, shape, topK }: ClassSource, first: ClassSource): void {
  const isSame = shape.nExperts === first.shape.nExperts && shape.moeLayers.join() === first.shape.moeLayers.join() && (topK === null || first.topK === null || topK === first.topK);
  if (!isSame) throw new Error(`${file} is of ${topK ?? "?"} of ${shape.nExperts} experts in ${shape.moeLayers.length} layers, ${first.file} of ${first.topK ?? "?"} of ${first.shape.nExperts} in ${first.shape.moeLayers.length}; classes of one model were expected.`);
}

export function findProfile(classes: readonly SummedClass[], model: ProfiledPack, options: FindOptions): FoundProfile {
  const { target: label, by, op, gain, lambda, random, ratio } = options;
  const { shape } = classes[0]!.source;
  const target = classes.find(({ source }) => source.label === label);
  if (target === undefined) throw new Error(`The target "${label}" is none of the labels ${classes.map(({ source }) => source.label).join(", ")}.`);
  const name = options.name ?? label;
  if (!PROFILE_NAME.test(name)) throw new Error(`"${name}" cannot be a profile's name; --name gives it one of 1 to 64 lower-case letters, digits, '-', '.', '_', the first a letter or digit.`);
  const others = classes.filter((of) => of !== target);
  if (others.length === 0) throw new Error(`Only "${label}" was given; a difference needs at least one other class to differ from.`);
  const layers = options.layers === "all" ? shape.moeLayers : options.layers === "middle" ? middleLayers(shape.moeLayers) : options.layers;
  const unknown = layers.find((layer) => !shape.moeLayers.includes(layer));
  if (unknown !== undefined) throw new Error(`Layer ${unknown} was asked for; the layers with experts are ${shape.moeLayers.join(", ")}.`);
  const top = options.top ?? (options.tau === undefined && ratio === undefined ? TOP : undefined);
  const tau = options.tau ?? 0;
  const mostPerLayer = FILLS_PLACES.includes(op) ? model.config.router.topK : undefined;
  const mapOf = ({ source, routing }: SummedClass): ExpertMap => {
    if (by === "weight" && !routing.has("weight")) throw new Error(`${source.file} has no weights, only counts; take --by count or frequency.`);
    return by === "frequency" ? routing.meanShares("count") : routing.meanSums(by);
  };
  const map = mapOf(target);
  const difference = differenceMap(map, others.map(mapOf));
  const sharesOf = ({ routing }: SummedClass): ExpertMap => routing.meanShares(by === "frequency" ? "count" : by);
  const counted = ratio === undefined ? difference : ownDifferences(difference, sharesOf(target), others.map(sharesOf), ratio);
  const strongest = chooseExperts(shape, counted, { layers, tau, top, mostPerLayer });
  if (strongest.length === 0) throw new Error(`No expert of layers ${layers.join(", ")} is taken more by "${label}" than by the others by over ${tau}${ratio === undefined ? "" : `, and ${ratio} times as much as by any`}; a lower --tau${ratio === undefined ? "" : " or --ratio"} or other --layers may find some.`);
  const found = random === undefined ? strongest
    : drawExperts(shape, strongest, random).map((of) => ({ ...of, difference: difference[shape.moeLayers.indexOf(of.layer) * shape.nExperts + of.expert]! }));
  const experts = expertsByLayer(found);
  const against = others.map(({ source }) => source.label).join(", ");
  const document: RoutingProfile = {
    format: "workers-moe-profile", version: 1, name,
    description: random === undefined ? `The ${found.length} experts that set ${label} apart from ${against}` : `${found.length} experts drawn at random, to compare those of ${label} with`,
    model: model.id, packHash: model.hash, access: "admin", ...steeringOf(model, op, experts, gain, lambda),
    found: {
      method: METHODS[by], by, target: label, layers, tau, top: top ?? null, ratio: ratio ?? null, mostPerLayer: mostPerLayer ?? null, seed: random ?? null,
      // A profile goes to others, whom the way to a file does not concern.
      texts: classes.map(({ source, routing }) => ({ label: source.label, file: basename(source.file), kind: source.kind, sequences: routing.sequences, tokens: routing.tokens })), experts: found,
    },
  };
  const problem = profileProblem(document, model);
  if (problem !== null) throw new Error(problem);
  return { shape, classes, options, layers, target: map, difference, found, experts, document, nameOf: isOfProducts(model.config) ? pairName(model.config.productExperts!.nKeys) : String };
}

const pairName = (nKeys: number) => (expert: number): string => `(${pairOf(nKeys, expert).join(", ")})`;

/** Product experts are left out; nothing else is done to them. */
function steeringOf({ config }: ProfiledPack, op: ProfileOp, experts: Record<string, number[]>, gain: number | undefined, lambda: number | undefined): Pick<RoutingProfile, "interventions" | "maskExperts"> {
  if (!isOfProducts(config)) return { interventions: [interventionOf(op, experts, gain, lambda)] };
  if (op !== "mask") throw new Error(`Product experts can be left out and nothing else; expected --op mask, not ${op}.`);
  return { interventions: [], maskExperts: maskedExpertsOf(maskOfRouters(config, new Map(Object.entries(experts).map(([layer, ids]) => [Number(layer), ids])))) };
}

/** Throws a sentence where a number is missing, or has no op it belongs to. */
function interventionOf(op: ProfileOp, experts: Record<string, number[]>, gain: number | undefined, lambda: number | undefined): RoutingProfile["interventions"][number] {
  if (op !== "gain" && gain !== undefined) throw new Error(`--gain goes with --op gain; the op is ${op}.`);
  if (op !== "add_std" && lambda !== undefined) throw new Error(`--lambda goes with --op add_std; the op is ${op}.`);
  if (op === "gain") {
    if (gain === undefined) throw new Error("--op gain needs --gain, the number that outputs are multiplied by.");
    return { op, experts, gain };
  }
  return op === "add_std" ? { op, experts, lambda: lambda ?? 0.5 } : { op, experts };
}
