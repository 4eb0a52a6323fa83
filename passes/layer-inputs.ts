// What each matrix of a layer is multiplied with over the calibration texts. The engine that serves computes it; what it does not show by a tap it is made to
// show: with a matrix of ones and zeros in place of o or down, its output is that matrix's input, or a slice of it. Norms are repeated here, in float64.
// Owns those trials. Refuses to keep more than the rows asked for.

import { expertName, type MatrixSource } from "../formats/checkpoint.ts";
import { PatchedMatrices } from "../formats/patched-matrices.ts";
import { attendedSize, ModelError, sharedWidth, type ModelConfig } from "../model/config.ts";
import { expertBiases } from "../model/expert-kinds.ts";
import type { LayeredModel, LayerTrial } from "./layered-model.ts";
import { checkpointWeights } from "./streamed-model.ts";

/** Rows f32 [n, width], one after the other. */
export interface Rows {
  readonly width: number;
  readonly values: Float32Array;
}

/** Who went where in one layer: [tokens, topK] in rank order. */
export interface LayerRouting {
  readonly topK: number;
  readonly ids: Uint32Array;
  readonly weights: Float32Array;
}

/** Inputs of an expert's down matrix, and the weight of each row. */
export interface ExpertRows extends Rows {
  readonly weights: Float32Array;
}

export class LayerInputs {
  readonly #model: LayeredModel;
  readonly #matrices: MatrixSource;
  readonly #contextLength: number;
  readonly #layer: number;

  /** The layer that `model` stands before, with the matrices it has by now. */
  constructor(model: LayeredModel, matrices: MatrixSource, contextLength: number, layer: number) {
    this.#model = model;
    this.#matrices = matrices;
    this.#contextLength = contextLength;
    this.#layer = layer;
  }

  get #config(): ModelConfig { return this.#matrices.config; }
  get #nTokens(): number { return this.#model.rows.length / this.#config.hiddenSize; }

  #try(matrices: MatrixSource, taps: LayerTrial["taps"]): Promise<Float32Array> {
    return this.#model.tryLayer(this.#layer, { weights: checkpointWeights(matrices, this.#contextLength), ...(taps === undefined ? {} : { taps }) });
  }

  /** Of q, k and v, or what stands in their place with latent attention: the normalised rows. */
  async attention(): Promise<Rows> {
    return this.#normalised(this.#model.rows, "attnNorm");
  }

  /** Of o: what all heads read. */
  async attended(): Promise<Rows> {
    const { hiddenSize, residualMultiplier, oBias } = this.#config;
    const width = attendedSize(this.#config);
    const values = new Float32Array(this.#nTokens * width);
    const bias = oBias ? await this.#matrices.readF32(`layers.${this.#layer}.oBias`) : new Float32Array(hiddenSize);
    for (let first = 0; first < width; first += hiddenSize) {
      const matrices = new PatchedMatrices(this.#matrices);
      selectInput(matrices, `layers.${this.#layer}.o`, first);
      const n = Math.min(hiddenSize, width - first);
      await this.#try(matrices, [{
        at: "input",
        run: ({ values: residual, nTokens }, firstToken) => {
          const before = this.#model.rows;
          for (let t = 0; t < nTokens; t++) {
            for (let i = 0; i < n; i++) values[(firstToken + t) * width + first + i] = (residual[t * hiddenSize + i]! - before[(firstToken + t) * hiddenSize + i]!) / residualMultiplier - bias[i]!;
          }
        },
      }]);
    }
    return { width, values };
  }

  /** Of gate and up of whatever the layer has (latent experts: of B), and where tokens go; no routing in a dense layer. */
  async feedForward(): Promise<Rows & { readonly routing: LayerRouting | null }> {
    const { hiddenSize, layerFfns, router: { topK } } = this.#config;
    const residual = new Float32Array(this.#model.rows.length);
    const routing = layerFfns[this.#layer] === "moe" ? { topK, ids: new Uint32Array(this.#nTokens * topK), weights: new Float32Array(this.#nTokens * topK) } : null;
    await this.#try(this.#matrices, [
      { at: "input", run: ({ values }, firstToken) => residual.set(values, firstToken * hiddenSize) },
      { at: "selection", run: ({ ids, weights }, firstToken) => {
        routing!.ids.set(ids, firstToken * topK);
        routing!.weights.set(weights, firstToken * topK);
      } },
    ]);
    return { ...await this.#normalised(residual, "ffnNorm"), routing };
  }

  /** What routed experts read of these rows, by latent group: the rows themselves, or products with each B as it is by now. */
  async expertRows(rows: Rows): Promise<readonly Rows[]> {
    const { latentExperts, hiddenSize: n } = this.#config;
    if (latentExperts === undefined) return [rows];
    const { rank, nGroups } = latentExperts;
    const nTokens = rows.values.length / n;
    return Promise.all(Array.from({ length: nGroups }, async (_, group) => {
      const b = await this.#matrices.readF32(`layers.${this.#layer}.latent.${group}`);
      const values = new Float32Array(nTokens * rank);
      for (let t = 0; t < nTokens; t++) {
        for (let r = 0; r < rank; r++) {
          let sum = 0;
          for (let i = 0; i < n; i++) sum += b[r * n + i]! * rows.values[t * n + i]!;
          values[t * rank + r] = sum;
        }
      }
      return { width: rank, values };
    }));
  }

  /** Of down of some experts, in the order of tokens. */
  async expertDown(experts: readonly number[], routing: LayerRouting): Promise<Map<number, ExpertRows>> {
    const { hiddenSize, expertIntermediateSize: width } = this.#config;
    const found = new Map(experts.map((expert) => {
      const n = routing.ids.reduce((sum, id) => sum + (id === expert ? 1 : 0), 0);
      return [expert, { width, values: new Float32Array(n * width), weights: new Float32Array(n) }];
    }));
    for (let first = 0; first < width; first += hiddenSize) {
      const n = Math.min(hiddenSize, width - first);
      const matrices = new PatchedMatrices(this.#matrices);
      showExpertDown(matrices, this.#layer, experts, first);
      const next = new Map(experts.map((expert) => [expert, 0]));
      await this.#try(matrices, [{
        at: "expertOutput",
        run: ({ values, batch }, firstToken) => {
          for (let group = 0; group < batch!.nGroups; group++) {
            const of = found.get(batch!.groupExpert[group]!);
            if (of === undefined) continue;
            const expert = batch!.groupExpert[group]!;
            let row = next.get(expert)!;
            for (let i = batch!.groupStart[group]!, from = batch!.groupRow[group]!; i < batch!.groupStart[group + 1]!; i++, from++, row++) {
              of.values.set(values.subarray(from * hiddenSize, from * hiddenSize + n), row * width + first);
              of.weights[row] = weightOf(routing, firstToken + batch!.groupTokens[i]!, expert);
            }
            next.set(expert, row);
          }
        },
      }]);
    }
    return found;
  }

  /** Of down of a dense layer or shared expert. */
  async sharedDown(): Promise<Rows> {
    const { hiddenSize, residualMultiplier } = this.#config;
    const width = sharedWidth(this.#config, this.#layer);
    // Taken for a dense layer, it is all there is between the two taps.
    const alone: ModelConfig = { ...this.#config, layerFfns: this.#config.layerFfns.map((kind, layer) => (layer === this.#layer ? "dense" : kind)), denseIntermediateSize: width };
    const values = new Float32Array(this.#nTokens * width);
    for (let first = 0; first < width; first += hiddenSize) {
      const matrices = new PatchedMatrices(this.#matrices, alone);
      selectInput(matrices, `layers.${this.#layer}.shared.down`, first);
      const n = Math.min(hiddenSize, width - first);
      let residual = new Float32Array(0);
      await this.#try(matrices, [
        { at: "input", run: (event) => { residual = event.values.slice(); } },
        { at: "layerOutput", run: (event, firstToken) => {
          for (let t = 0; t < event.nTokens; t++) {
            for (let i = 0; i < n; i++) values[(firstToken + t) * width + first + i] = (event.values[t * hiddenSize + i]! - residual[t * hiddenSize + i]!) / residualMultiplier;
          }
        } },
      ]);
    }
    return { width, values };
  }

  /** docs/arithmetic.md section 5, in float64. */
  async #normalised(rows: Float32Array, norm: "attnNorm" | "ffnNorm"): Promise<Rows> {
    const { hiddenSize: n, normEps, norm: kind } = this.#config;
    const weight = await this.#matrices.readF32(`layers.${this.#layer}.${norm}`);
    const bias = kind === "layer" ? await this.#matrices.readF32(`layers.${this.#layer}.${norm}Bias`) : new Float32Array(n);
    const values = new Float32Array(rows.length);
    for (let at = 0; at < rows.length; at += n) {
      let mean = 0;
      if (kind === "layer") for (let i = 0; i < n; i++) mean += rows[at + i]! / n;
      let squares = 0;
      for (let i = 0; i < n; i++) squares += (rows[at + i]! - mean) ** 2;
      const factor = 1 / Math.sqrt(squares / n + normEps);
      for (let i = 0; i < n; i++) values[at + i] = (rows[at + i]! - mean) * factor * weight[i]! + bias[i]!;
    }
    return { width: n, values };
  }
}

/** Has experts give the input of their down matrix, from element `first` on. */
export function showExpertDown(matrices: PatchedMatrices, layer: number, experts: readonly number[], first: number): void {
  const { config } = matrices;
  for (const expert of experts) {
    selectInput(matrices, expertName(layer, expert, "down"), first);
    if (expertBiases(config).includes("downBias")) matrices.set(expertName(layer, expert, "downBias"), { type: "F32", bytes: new Uint8Array(4 * config.hiddenSize) });
  }
}

/** Row i of the matrix becomes its input's element first + i: ones on a diagonal. */
function selectInput(matrices: PatchedMatrices, name: string, first: number): void {
  const { nRows, nCols } = matrices.place(name);
  const values = new Float32Array(nRows * nCols);
  for (let i = 0; i < nRows && first + i < nCols; i++) values[i * nCols + first + i] = 1;
  matrices.set(name, { type: "F32", bytes: new Uint8Array(values.buffer) });
}

/** Weight of an expert for a token that chose it. */
export function weightOf({ topK, ids, weights }: LayerRouting, token: number, expert: number): number {
  for (let rank = token * topK; rank < (token + 1) * topK; rank++) if (ids[rank] === expert) return weights[rank]!;
  throw new ModelError(`Expert ${expert} computed token ${token}, which did not choose it.`);
}
