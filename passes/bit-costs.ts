// What experts lose at each width, and the bit plan that loses least within a budget: PMQ (MC-MoE, 2024; MC#, 2025). For every expert alone the layer's output is
// compared with itself unquantised over calibration texts; since an expert's rows do not depend on the others, one trial of a layer per width shows all of them.
// Parts of experts may be looked at alone too: which matrix of an expert is missed most is not in PMQ. Owns those trials and the plans' text. Refuses widths without
// a kernel. The knapsack: bit-knapsack.ts; rounding: gptq.ts, to the nearest.

import { expertName, type MatrixSource } from "../formats/checkpoint.ts";
import { decodeRows } from "../formats/dequantize.ts";
import { PatchedMatrices } from "../formats/patched-matrices.ts";
import { EXPERT_MATRICES, type ExpertMatrix, expertShape, ModelError } from "../model/config.ts";
import { expertMatrices } from "../model/expert-kinds.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { beforeExperts } from "./before-experts.ts";
import { chooseBits, pmqCosts } from "./bit-knapsack.ts";
import { type PlanBits, typeOfBits } from "./bit-plan.ts";
import { nearest } from "./gptq.ts";
import { ExpertOutputs } from "./expert-outputs.ts";
import { checkpointWeights } from "./streamed-model.ts";
import { requireOwnExperts } from "./own-experts.ts";

/** Matrices of an expert that get the same bits; the name is that of a rule (bit-plan.ts), or none for all. */
export interface ExpertPart {
  readonly rule: "" | ".gateUp" | ".down";
  readonly matrices: readonly ExpertMatrix[];
}

export const WHOLE_EXPERTS: readonly ExpertPart[] = [{ rule: "", matrices: EXPERT_MATRICES }];
export const HALVED_EXPERTS: readonly ExpertPart[] = [{ rule: ".gateUp", matrices: ["gate", "up"] }, { rule: ".down", matrices: ["down"] }];

/** Of one layer: [expert], and [expert][width]. */
export interface ExpertCosts {
  readonly layer: number;
  /** Tokens that chose it, and the sum of the weights they gave it. */
  readonly frequency: readonly number[];
  readonly weight: readonly number[];
  /** Root of the squared change of the layer's output with this expert alone at the width, over all tokens. */
  readonly loss: readonly (readonly number[])[];
}

/** Of a part of all experts of a layer. */
export interface PartCosts extends ExpertCosts {
  readonly part: ExpertPart;
  /** Weights of the part in one expert. */
  readonly nWeights: number;
}

/** Costs of the layers with experts, ascending, and of the parts of each in their order. */
export async function* expertCosts(
  matrices: MatrixSource, sequences: readonly (readonly number[])[], modules: KernelModules, widths: readonly Exclude<PlanBits, 16>[], parts: readonly ExpertPart[] = WHOLE_EXPERTS,
  onLayer: (layer: number) => void = () => {},
): AsyncIterable<PartCosts> {
  requireOwnExperts(matrices, "bits");
  const { config } = matrices;
  for await (const { layer, model, context } of beforeExperts(matrices, sequences, modules, onLayer)) {
    const rows = new ExpertOutputs(config);
    await model.tryLayer(layer, { taps: rows.taps });
    for (const part of parts) {
      const ownMatrices = part.matrices.filter((matrix) => expertMatrices(config).includes(matrix));
      const loss = Array.from({ length: config.nExperts }, (): number[] => []);
      for (const width of widths) {
        const patched = new PatchedMatrices(matrices);
        for (let expert = 0; expert < config.nExperts; expert++) for (const matrix of ownMatrices) await roundTo(patched, expertName(layer, expert, matrix), width);
        const squares = new Float64Array(config.nExperts);
        const changes = new ExpertOutputs(config, (expert, row, values, weight) => {
          const before = rows.row(expert, row);
          let sum = 0;
          for (let i = 0; i < before.length; i++) sum += (values[i]! - before[i]!) ** 2;
          squares[expert]! += (config.residualMultiplier * weight) ** 2 * sum;
        });
        await model.tryLayer(layer, { weights: checkpointWeights(patched, context), taps: changes.taps });
        squares.forEach((sum, expert) => loss[expert]!.push(Math.sqrt(sum)));
      }
      const nWeights = ownMatrices.reduce((sum, matrix) => {
        const { nRows, nCols } = expertShape(config, matrix);
        return sum + nRows * nCols;
      }, 0);
      yield { layer, part, nWeights, frequency: rows.frequency, weight: rows.weight, loss };
    }
  }
}

async function roundTo(patched: PatchedMatrices, name: string, width: Exclude<PlanBits, 16>): Promise<void> {
  const place = patched.place(name);
  const weights = decodeRows(place.type, await patched.readRows(place, 0, place.nRows), place.nRows, place.nCols);
  patched.set(name, nearest(weights, place.nRows, place.nCols, typeOfBits(width)));
}

/**
 * A plan of these experts with `bits` on average, nominal (without scales), layer by layer as PMQ does it: at least one expert of the largest width and one of
 * the next below, where there are three widths. Rules for a plan of bit-plan.ts.
 */
export function planExperts(costs: readonly ExpertCosts[], widths: readonly number[], bits: number): string {
  checkAverage(widths, bits);
  const atLeast = new Map(widths.length < 3 ? [] : widths.slice(-2).map((width) => [width, 1]));
  return costs.map(({ layer, frequency, weight, loss }) => {
    const chosen = chooseBits({ widths, costs: pmqCosts(frequency, weight, loss), budget: Math.floor(bits * loss.length + 1e-9), atLeast });
    return chosen.map((width, expert) => `exp[l${layer}e${expert}]=${width}`).join("; ");
  }).join("; ");
}

/**
 * A plan in which parts of experts have `bits` on average over a layer's expert weights, nominal: those widths whose squared changes of the layer's output sum up to least, by an
 * exact knapsack for each layer. Errors of parts are taken as independent. No expert need have any width. Rules for a plan of bit-plan.ts.
 */
export function planParts(costs: readonly PartCosts[], widths: readonly number[], bits: number): string {
  checkAverage(widths, bits);
  return [...Map.groupBy(costs, ({ layer }) => layer)].map(([layer, parts]) => {
    const unit = parts.map(({ nWeights }) => nWeights).reduce(greatestCommonDivisor);
    const things = parts.flatMap(({ part, nWeights, loss }) => loss.map((byWidth, expert) => ({ rule: `exp[l${layer}e${expert}]${part.rule}`, size: nWeights / unit, costs: byWidth.map((error) => error ** 2) })));
    const sizes = things.map(({ size }) => size);
    const chosen = chooseBits({ widths, costs: things.map((of) => of.costs), sizes, budget: Math.floor(bits * sizes.reduce((a, b) => a + b, 0) + 1e-9) });
    return chosen.map((width, i) => `${things[i]!.rule}=${width}`).join("; ");
  }).join("; ");
}

const greatestCommonDivisor = (a: number, b: number): number => (b === 0 ? a : greatestCommonDivisor(b, a % b));

/** Throws ModelError where widths cannot give an average. */
export function checkAverage(widths: readonly number[], bits: number): void {
  if (!(bits >= widths[0]! && bits <= widths.at(-1)!)) throw new ModelError(`${bits} bits per weight were asked for; widths of ${widths.join(", ")} give ${widths[0]} to ${widths.at(-1)}.`);
}
