// Which matrix of a model takes how many bits, as one line of text: "attn=4; shared=8; routed=2; exp[l1e3]=4" (the structures of QuantMoE-Bench, 2024: attention,
// shared and routed experts, first blocks, frequent experts). Later rules take precedence. Owns the grammar and its bits. Refuses widths without a kernel,
// targets that the model does not have, and routers: a few thousand numbers that decide everything stay as they are.

import type { MatrixPlace } from "../formats/checkpoint.ts";
import type { GroupType } from "../formats/quantize-blocks.ts";
import { type StoredType, storedRowBytes } from "../formats/stored-types.ts";
import { ModelError, type ModelConfig } from "../model/config.ts";

/** Widths that kernels have; 16 leaves a matrix as it is. */
export const PLAN_BITS = [2, 3, 4, 8, 16] as const;
export type PlanBits = (typeof PLAN_BITS)[number];

const TYPE_OF_BITS: Readonly<Record<Exclude<PlanBits, 16>, GroupType>> = { 2: "Q2_32", 3: "Q3_32", 4: "Q4_0", 8: "Q8_0" };

/** The stored type of a width. */
export const typeOfBits = (bits: Exclude<PlanBits, 16>): GroupType => TYPE_OF_BITS[bits];

/** Parts of a model that a rule may name. */
const STRUCTURES = ["all", "embed", "head", "attn", "dense", "shared", "routed"] as const;
type Structure = (typeof STRUCTURES)[number];
/** Where a matrix belongs. */
export type PlannedPart = Exclude<Structure, "all">;

interface Rule {
  readonly structure: Structure;
  /** Layers [first, last]; null: all. */
  readonly layers: readonly [number, number] | null;
  readonly expert: number | null;
  readonly matrix: "gateUp" | "down" | null;
  readonly bits: PlanBits;
}

export interface BitPlan {
  /** As it was written, for people and reports. */
  readonly text: string;
  /** The type a matrix is to be quantised to; null: it stays. */
  typeOf(place: Pick<MatrixPlace, "name" | "nRows">): GroupType | null;
}

const ATTENTION = new Set(["q", "k", "v", "o", "qA", "qB", "kvA", "kB", "vB"]);

interface Part {
  readonly structure: PlannedPart | null;
  readonly layer: number;
  readonly expert: number | null;
  readonly matrix: "gateUp" | "down" | null;
}

/** What a canonical name is; structure null: no plan touches it. */
export function partOf(config: Pick<ModelConfig, "layerFfns">, name: string): Part {
  const [, layerText, rest] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? [];
  if (layerText === undefined) return { structure: name === "embed" || name === "head" ? name : null, layer: 0, expert: null, matrix: null };
  const layer = Number(layerText);
  const [, expert, ofExpert] = /^experts\.(\d+)\.(\w+)$/.exec(rest!) ?? [];
  const matrix = (word: string | undefined): Part["matrix"] => (word === "down" ? "down" : "gateUp");
  if (expert !== undefined) return { structure: "routed", layer, expert: Number(expert), matrix: matrix(ofExpert) };
  // What latent experts' rows are made with counts as their gate and up.
  if (rest!.startsWith("latent.")) return { structure: "routed", layer, expert: null, matrix: "gateUp" };
  if (rest!.startsWith("shared.")) return { structure: config.layerFfns[layer] === "dense" ? "dense" : "shared", layer, expert: null, matrix: matrix(rest!.slice(7)) };
  return { structure: ATTENTION.has(rest!.split(".")[0]!) ? "attn" : null, layer, expert: null, matrix: null };
}

const TARGET = /^(?:(all|embed|head|attn|dense|shared|routed)(?:\[l(\d+)(?:-(\d+))?\])?|exp\[l(\d+)e(\d+)\])(?:\.(gateUp|down))?$/;

function ruleOf(text: string, config: ModelConfig): Rule {
  const wrong = (what: string): never => { throw new ModelError(`The bit plan's rule "${text}" ${what}.`); };
  const [target, bitsText, ...more] = text.split("=").map((part) => part.trim());
  const bits = PLAN_BITS.find((width) => String(width) === bitsText);
  if (bits === undefined || more.length > 0) return wrong(`does not end in =${PLAN_BITS.join(", =")}: the widths that kernels have, and 16 for as it is`);
  const match = TARGET.exec(target!);
  if (match === null) return wrong(`names no part of a model; expected ${STRUCTURES.join(", ")}, perhaps with layers such as routed[l0-3], or one expert such as exp[l1e3], perhaps .gateUp or .down behind`);
  const [, structure, first, last, layer, expert, matrix] = match;
  const numbers = [first, last, layer].filter((n) => n !== undefined).map(Number);
  if (numbers.some((n) => n >= config.nLayers)) wrong(`names a layer that is not there: the model has 0 to ${config.nLayers - 1}`);
  if (expert !== undefined && (Number(expert) >= config.nExperts || config.layerFfns[Number(layer)] !== "moe")) wrong(`names an expert that is not there: layers with experts have 0 to ${config.nExperts - 1}`);
  const layers = layer !== undefined ? [Number(layer), Number(layer)] as const : first !== undefined ? [Number(first), Number(last ?? first)] as const : null;
  return { structure: (structure ?? "routed") as Structure, layers, expert: expert === undefined ? null : Number(expert), matrix: (matrix ?? null) as Rule["matrix"], bits };
}

/** Reads a plan for a model. Throws ModelError naming the rule. */
export function parseBitPlan(text: string, config: ModelConfig): BitPlan {
  const rules = text.split(/[;\n]/).map((rule) => rule.trim()).filter((rule) => rule !== "").map((rule) => ruleOf(rule, config));
  if (rules.length === 0) throw new ModelError("The bit plan has no rule; expected such as \"attn=8; routed=4\".");
  return {
    text,
    typeOf({ name, nRows }) {
      const part = partOf(config, name);
      if (part.structure === null || nRows === 1) return null;
      const rule = rules.findLast((r) => (r.structure === part.structure || r.structure === "all")
        && (r.layers === null || (/^layers\./.test(name) && part.layer >= r.layers[0] && part.layer <= r.layers[1]))
        && (r.expert === null || r.expert === part.expert) && (r.matrix === null || r.matrix === part.matrix));
      return rule === undefined || rule.bits === 16 ? null : typeOfBits(rule.bits);
    },
  };
}

/** Bits of a matrix's weights with their scales, exactly. */
export const storedBits = (type: StoredType, nRows: number, nCols: number): number => 8 * nRows * storedRowBytes(type, nCols);
