// Makes one expert of several from their own neurons: as many of all of theirs as one has, those with which a new down matrix comes nearest to what each gave to its tokens
// (neuron-selection.ts), squared errors weighted as the router weighs them. One trial of a layer in which every token takes every expert shows all neurons at work.
// Owns that trial and the sums. Refuses experts wider than a token's row, whose neurons no single trial shows. Ours: no paper's merging has this form.

import type { MatrixSource } from "../formats/checkpoint.ts";
import { PatchedMatrices } from "../formats/patched-matrices.ts";
import { sizeGroups } from "../formats/size-groups.ts";
import { type ModelConfig, ModelError } from "../model/config.ts";
import { expertBiases, inputMatrices } from "../model/expert-kinds.ts";
import { everybody, firstRows } from "./expert-likeness.ts";
import { Hessian } from "./hessian.ts";
import { LayerInputs, showExpertDown } from "./layer-inputs.ts";
import type { LayeredModel } from "./layered-model.ts";
import { selectNeurons } from "./neuron-selection.ts";
import { checkpointWeights } from "./streamed-model.ts";

/** Matrices, row-major f32, under their names within an expert. */
export type JoinedExpert = ReadonlyMap<string, Float32Array<ArrayBuffer>>;

export interface JoinedCluster {
  readonly members: readonly number[];
  /** null where no token chose any of them. */
  readonly expert: JoinedExpert | null;
  /** Squared error of what it gives in place of its members, as a share of what they gave. */
  readonly error: number;
}

/** Sums of clusters held at a time; those that do not fit wait for another trial. One always fits. */
const SUMS_BYTES = 1024 ** 3;

/** Sums over the tokens of a cluster's members. */
class ClusterSums {
  readonly members: readonly number[];
  readonly #width: number;
  readonly #hessian: Hessian;
  /** Of each member: products of all neurons with its own, over its tokens. [neurons, width] */
  readonly #withOwn: readonly Float64Array[];
  readonly #row: Float32Array;

  constructor(members: readonly number[], width: number) {
    const size = members.length * width;
    this.members = members;
    this.#width = width;
    this.#hessian = new Hessian(size);
    this.#withOwn = members.map(() => new Float64Array(size * width));
    this.#row = new Float32Array(size);
  }

  static bytes(members: readonly number[], width: number): number { return 2 * 8 * (members.length * width) ** 2; }

  /** A token that member `own` is asked for with `weight`; `neurons` gives what those of a member are. */
  add(own: number, weight: number, neurons: (member: number) => Float32Array): void {
    this.members.forEach((_, m) => this.#row.set(neurons(m), m * this.#width));
    this.#hessian.add(this.#row, 0, weight ** 2);
    const [sums, first, n] = [this.#withOwn[own]!, own * this.#width, this.#width];
    for (let i = 0; i < this.#row.length; i++) {
      const scaled = weight ** 2 * this.#row[i]!;
      if (scaled !== 0) for (let j = 0; j < n; j++) sums[i * n + j]! += scaled * this.#row[first + j]!;
    }
  }

  /** The neurons that stay and their down matrix, from the members' down matrices [hidden, width]. */
  join(downs: readonly Float32Array[], hidden: number): { readonly chosen: readonly number[]; readonly down: Float32Array<ArrayBuffer>; readonly error: number } | null {
    const [width, size] = [this.#width, this.#row.length];
    const target = new Float64Array(size * hidden);
    let given = 0;
    downs.forEach((down, m) => {
      const sums = this.#withOwn[m]!;
      for (let i = 0; i < size; i++) {
        for (let r = 0; r < hidden; r++) {
          let sum = 0;
          for (let j = 0; j < width; j++) sum += sums[i * width + j]! * down[r * width + j]!;
          target[i * hidden + r]! += sum;
          const own = i - m * width;
          if (own >= 0 && own < width) given += sum * down[r * width + own]!;
        }
      }
    });
    if (!(given > 0)) return null;
    const { chosen, outputs, explained } = selectNeurons(this.#hessian.matrix(), target, size, hidden, width);
    const down = new Float32Array(hidden * width);
    for (let p = 0; p < width; p++) for (let r = 0; r < hidden; r++) down[r * width + p] = outputs[p * hidden + r]!;
    return { chosen, down, error: Math.max(0, 1 - explained / given) };
  }
}

/** Whether one trial shows all neurons of an expert. */
export const canJoin = ({ expertIntermediateSize, hiddenSize }: Pick<ModelConfig, "expertIntermediateSize" | "hiddenSize">): boolean => expertIntermediateSize <= hiddenSize;

/** One expert for each of some clusters of the layer that `model` stands before, whose matrices by now are `matrices`. */
export async function joinExperts(model: LayeredModel, matrices: MatrixSource, contextLength: number, layer: number, clusters: readonly (readonly number[])[]): Promise<JoinedCluster[]> {
  const { config } = matrices;
  const { hiddenSize, expertIntermediateSize: width, nExperts } = config;
  if (!canJoin(config)) throw new ModelError(`${matrices.description} has experts of ${width} neurons and rows of ${hiddenSize}; experts are joined by neurons where they have no more than a row. Take --join mean.`);
  if (clusters.length === 0) return [];
  const { routing } = await new LayerInputs(model, matrices, contextLength, layer).feedForward();
  const shown = new PatchedMatrices(matrices, everybody(config));
  showExpertDown(shown, layer, Array.from({ length: nExperts }, (_, expert) => expert), 0);
  const weights = checkpointWeights(shown, contextLength);
  const found: JoinedCluster[] = [];
  for (const group of sizeGroups(clusters, (members) => ClusterSums.bytes(members, width), SUMS_BYTES)) {
    const sums = group.map((members) => new ClusterSums(members, width));
    const placeOf = new Map(sums.flatMap((of) => of.members.map((expert, m) => [expert, { of, m }] as const)));
    await model.tryLayer(layer, { weights, taps: [{
      at: "expertOutput",
      run: ({ values, rowLength, batch, nTokens }, firstToken) => {
        const first = firstRows(batch!, nExperts);
        for (let t = 0; t < nTokens; t++) {
          const { topK, ids, weights: given } = routing!;
          for (let at = (firstToken + t) * topK; at < (firstToken + t + 1) * topK; at++) {
            const place = placeOf.get(ids[at]!);
            place?.of.add(place.m, given[at]!, (m) => {
              const row = (first[place.of.members[m]!]! + t) * rowLength;
              return values.subarray(row, row + width);
            });
          }
        }
      },
    }] });
    for (const of of sums) found.push(await joined(of, matrices, layer));
  }
  return found;
}

async function joined(sums: ClusterSums, matrices: MatrixSource, layer: number): Promise<JoinedCluster> {
  const { config } = matrices;
  const { members } = sums;
  const read = (expert: number, matrix: string): Promise<Float32Array> => matrices.readF32(`layers.${layer}.experts.${expert}.${matrix}`);
  const result = sums.join(await Promise.all(members.map((expert) => read(expert, "down"))), config.hiddenSize);
  if (result === null) return { members, expert: null, error: 0 };
  const { chosen, down, error } = result;
  const width = config.expertIntermediateSize;
  const expert = new Map<string, Float32Array<ArrayBuffer>>([["down", down]]);
  for (const matrix of [...inputMatrices(config), ...expertBiases(config).filter((bias) => bias !== "downBias")]) {
    const from = await Promise.all(members.map((member) => read(member, matrix)));
    const rowLength = from[0]!.length / width;
    const rows = new Float32Array(width * rowLength);
    chosen.forEach((neuron, p) => rows.set(from[Math.floor(neuron / width)]!.subarray((neuron % width) * rowLength, (neuron % width + 1) * rowLength), p * rowLength));
    expert.set(matrix, rows);
  }
  return { members, expert, error };
}
