// Quantises a model layer by layer: each matrix by GPTQ with the inputs it really gets, those of layers and matrices before it being quantised already; or every
// weight to its nearest, as a baseline. Writes a canonical model and says what it cost. Owns the order of a layer: q, k, v; o; what makes latent rows; gate and up; down.
// Refuses to choose bits: a plan does (bit-plan.ts). Inputs: layer-inputs.ts; rounding: gptq.ts.

import { afterPass, type TensorToWrite, unchanged, writeCanonical } from "../formats/canonical-writer.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { decodeRows } from "../formats/dequantize.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { PatchedMatrices } from "../formats/patched-matrices.ts";
import type { GroupType } from "../formats/quantize-blocks.ts";
import { sizeGroups } from "../formats/size-groups.ts";
import { auxiliariesOf, expertsPerInputRow, ModelError, sharedWidth } from "../model/config.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { checkColumns } from "./bit-accounting.ts";
import { type BitPlan, storedBits } from "./bit-plan.ts";
import { gptq, nearest, type QuantizedMatrix } from "./gptq.ts";
import { Hessian, outputError } from "./hessian.ts";
import { type ExpertRows, LayerInputs, type LayerRouting, type Rows, weightOf } from "./layer-inputs.ts";
import { inLayerOrder, layerOfTensor } from "./layer-order.ts";
import { LayeredModel } from "./layered-model.ts";
import { checkpointWeights } from "./streamed-model.ts";
import { requireOwnExperts } from "./own-experts.ts";

export interface QuantizeOptions {
  readonly plan: BitPlan;
  /** `nearest`: each weight to the nearest value of the best scale, whatever the inputs. */
  readonly method: "gptq" | "nearest";
  readonly actOrder: boolean;
  readonly damping: number;
  /** How a token counts in an expert's Hessian: 1, or by the weight the router gave it (MoEQuant's affinity guidance). */
  readonly weighting: "count" | "affinity";
  /** Token ids to calibrate with, each a context of its own. */
  readonly sequences: readonly (readonly number[])[];
}

export interface MatrixReport {
  readonly name: string;
  readonly type: GroupType;
  readonly bits: number;
  /** Calibration rows; 0: none, rounded to the nearest. */
  readonly rows: number;
  /** Root of the squared error of the outputs over their square. */
  readonly error: number;
}

export interface LayerReport {
  readonly layer: number;
  /** Of what the layer adds to each token, against the same layer unquantised on the same inputs; root mean square over its own. */
  readonly error: number;
}

export interface QuantizeReport {
  readonly plan: string;
  readonly calibrationTokens: number;
  readonly matrices: readonly MatrixReport[];
  readonly layers: readonly LayerReport[];
}

export interface QuantizeProgress {
  readonly done: number;
  /** Matrices. */
  readonly total: number;
  readonly matrix: string;
}

/** Fewest rows from which an expert's own Hessian is taken; with fewer, that of all tokens of the layer stands in for gate and up. */
const LEAST_ROWS = 32;
/** Rows of experts' down inputs held at a time. */
const DOWN_ROWS_BYTES = 512 * 1024 * 1024;

/** Quantises `checkpoint` by the plan into `sink`. Throws ModelError where plan and model do not fit. */
export async function quantizeModel(
  checkpoint: Checkpoint, sink: PackSink, modules: KernelModules, options: QuantizeOptions, onProgress: (progress: QuantizeProgress) => void = () => {},
): Promise<QuantizeReport> {
  const run = new Quantization(checkpoint, modules, options, onProgress);
  const { plan, sequences: _, ...asked } = options;
  await writeCanonical(sink, afterPass(checkpoint, { pass: options.method === "gptq" ? "gptq" : "nearest", options: { plan: plan.text, calibrationTokens: run.calibrationTokens, ...asked } }), run.tensors());
  return run.report();
}

class Quantization {
  readonly #checkpoint: Checkpoint;
  readonly #modules: KernelModules;
  readonly #options: QuantizeOptions;
  readonly #onProgress: (progress: QuantizeProgress) => void;
  readonly #matrices: PatchedMatrices;
  readonly #contextLength: number;
  readonly #types = new Map<string, GroupType>();
  readonly #reports: MatrixReport[] = [];
  readonly #layers: LayerReport[] = [];
  #model: LayeredModel | null = null;
  #nextLayer = 0;

  constructor(checkpoint: Checkpoint, modules: KernelModules, options: QuantizeOptions, onProgress: (progress: QuantizeProgress) => void) {
    this.#checkpoint = checkpoint;
    this.#modules = modules;
    this.#options = options;
    this.#onProgress = onProgress;
    this.#matrices = new PatchedMatrices(checkpoint);
    this.#contextLength = Math.max(1, ...options.sequences.map(({ length }) => length));
    for (const place of checkpoint.places()) {
      const type = options.plan.typeOf(place);
      if (type === null) continue;
      checkColumns(place, type);
      this.#types.set(place.name, type);
    }
    if (options.method === "gptq") requireOwnExperts(checkpoint, "gptq");
    if (options.method === "gptq" && auxiliariesOf(checkpoint.config.router) > 0) {
      throw new ModelError(`${checkpoint.description} has auxiliary experts, which scale what the others get; GPTQ calibrates a model whose experts are all run. Quantise first, then run \`compress auxiliary\`.`);
    }
    if (this.#types.size === 0) throw new ModelError(`The bit plan "${options.plan.text}" names no matrix of ${checkpoint.description}.`);
  }

  get calibrationTokens(): number { return this.#options.sequences.reduce((sum, { length }) => sum + length, 0); }

  /** All tensors of the model, layer by layer, so that those of one layer are made when its first one is asked for. */
  tensors(): TensorToWrite[] {
    const { nLayers } = this.#checkpoint.config;
    return inLayerOrder(this.#checkpoint.places(), nLayers).map((place): TensorToWrite => {
      const type = this.#types.get(place.name);
      if (type === undefined) return unchanged(this.#checkpoint, place.name);
      const { name, nRows, nCols } = place;
      const made = (): Promise<Uint8Array> => this.#made(name, layerOfTensor(name, nLayers));
      return { name, type, nRows, nCols, async *read() { yield await made(); } };
    });
  }

  report(): QuantizeReport {
    return { plan: this.#options.plan.text, calibrationTokens: this.calibrationTokens, matrices: this.#reports, layers: this.#layers };
  }

  async #made(name: string, layer: number): Promise<Uint8Array> {
    const { nLayers } = this.#checkpoint.config;
    if (layer < 0 || layer >= nLayers) await this.#quantize(name, null);
    else while (this.#nextLayer <= layer) await this.#layer(this.#nextLayer++);
    const { bytes } = this.#matrices.patch(name)!;
    // A matrix is written once; the layers behind have what they need of it.
    this.#matrices.delete(name);
    return bytes;
  }

  /** Rounds every planned matrix of a layer, then takes the texts through it. */
  async #layer(layer: number): Promise<void> {
    const { config } = this.#checkpoint;
    if (this.#options.method === "nearest") {
      for (const name of this.#types.keys()) if (name.startsWith(`layers.${layer}.`)) await this.#quantize(name, null);
      return;
    }
    const model = (this.#model ??= await LayeredModel.open(checkpointWeights(this.#checkpoint, this.#contextLength), this.#options.sequences, this.#modules));
    const before = model.rows;
    const wanted = await model.tryLayer(layer);
    const inputs = new LayerInputs(model, this.#matrices, this.#contextLength, layer);
    const at = `layers.${layer}.`;
    const isPlanned = (...names: readonly string[]): boolean => names.some((name) => this.#types.has(at + name));

    if (isPlanned("q", "k", "v", "qA", "kvA")) {
      const hessian = hessianOf(await inputs.attention());
      for (const name of ["q", "k", "v", "qA", "kvA"]) await this.#quantize(at + name, hessian);
    }
    // What stands between latent attention's low-rank forms has inputs that no trial shows.
    for (const name of [...this.#types.keys()].filter((name) => name.startsWith(at) && /\.(qB|kB|vB)(\.|$)/.test(name))) await this.#quantize(name, null);
    if (isPlanned("o")) await this.#quantize(`${at}o`, hessianOf(await inputs.attended()));

    const shared = sharedWidth(config, layer) > 0 && isPlanned("shared.gate", "shared.up", "shared.down");
    const planned = (matrix: string): number[] => (config.layerFfns[layer] === "moe" ? Array.from({ length: config.nExperts }, (_, e) => e).filter((e) => isPlanned(`experts.${e}.${matrix}`)) : []);
    const [gateUp, down] = [[...new Set([...planned("gate"), ...planned("up")])].sort((a, b) => a - b), planned("down")];
    const latent = [...this.#types.keys()].filter((name) => name.startsWith(`${at}latent.`));
    if (shared || latent.length + gateUp.length + down.length > 0) {
      const rows = await inputs.feedForward();
      const whole = hessianOf(rows);
      if (shared) {
        for (const name of ["gate", "up"]) await this.#quantize(`${at}shared.${name}`, whole);
        if (isPlanned("shared.down")) await this.#quantize(`${at}shared.down`, hessianOf(await inputs.sharedDown()));
      }
      for (const name of latent) await this.#quantize(name, whole);
      const read = gateUp.length === 0 ? [] : (await inputs.expertRows(rows)).map((of) => ({ of, whole: of.values === rows.values ? whole : hessianOf(of) }));
      for (const expert of gateUp) {
        const { of, whole: ofAll } = read[Math.floor(expert / expertsPerInputRow(config))]!;
        const own = this.#expertHessian(of, rows.routing!, expert);
        for (const name of ["gate", "up"]) await this.#quantize(`${at}experts.${expert}.${name}`, own.rows < LEAST_ROWS ? ofAll : own);
      }
      for (const group of this.#groups(down, rows.routing)) {
        for (const [expert, of] of await inputs.expertDown(group, rows.routing!)) {
          const hessian = hessianOf(of, this.#options.weighting === "affinity" ? (row) => (of as ExpertRows).weights[row]! : undefined);
          await this.#quantize(`${at}experts.${expert}.down`, hessian.rows === 0 ? null : hessian);
        }
      }
    }
    const found = await model.runLayer(layer, { weights: checkpointWeights(this.#matrices, this.#contextLength) });
    this.#layers.push({ layer, error: relativeDifference(before, wanted, found) });
  }

  /** Experts whose down inputs fit the memory at a time. */
  #groups(experts: readonly number[], routing: LayerRouting | null): number[][] {
    const rowBytes = 4 * this.#checkpoint.config.expertIntermediateSize;
    const counts = new Map<number, number>();
    for (const id of routing?.ids ?? []) counts.set(id, (counts.get(id) ?? 0) + 1);
    return sizeGroups(experts, (expert) => (counts.get(expert) ?? 0) * rowBytes, DOWN_ROWS_BYTES);
  }

  #expertHessian({ width, values }: Rows, routing: LayerRouting, expert: number): Hessian {
    const hessian = new Hessian(width);
    const { topK, ids } = routing;
    for (let i = 0; i < ids.length; i++) {
      if (ids[i] !== expert) continue;
      const token = Math.floor(i / topK);
      hessian.add(values, token * width, this.#options.weighting === "affinity" ? weightOf(routing, token, expert) : 1);
    }
    return hessian;
  }

  /** Rounds a matrix, if the plan names it; without a Hessian to the nearest. */
  async #quantize(name: string, hessian: Hessian | null): Promise<void> {
    const type = this.#types.get(name);
    if (type === undefined) return;
    const place = this.#checkpoint.place(name);
    const { nRows, nCols } = place;
    const weights = decodeRows(place.type, await this.#checkpoint.readRows(place, 0, nRows), nRows, nCols);
    const { actOrder, damping } = this.#options;
    const h = hessian?.matrix();
    const quantized: QuantizedMatrix = h === undefined ? nearest(weights, nRows, nCols, type) : gptq(weights, nRows, nCols, h, { type, actOrder, damping });
    this.#matrices.set(name, quantized);
    const { error, size } = h === undefined ? weightError(weights, quantized.values) : outputError(h, weights, quantized.values, nRows, nCols);
    this.#reports.push({ name, type, bits: storedBits(type, nRows, nCols), rows: hessian?.rows ?? 0, error: size === 0 ? 0 : Math.sqrt(error / size) });
    this.#onProgress({ done: this.#reports.length, total: this.#types.size, matrix: name });
  }
}

/** As if inputs were uncorrelated and of one size. */
function weightError(a: Float32Array, b: Float32Array): { readonly error: number; readonly size: number } {
  let [error, size] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    error += (a[i]! - b[i]!) ** 2;
    size += a[i]! ** 2;
  }
  return { error, size };
}

function hessianOf({ width, values }: Rows, weight: (row: number) => number = () => 1): Hessian {
  const hessian = new Hessian(width);
  for (let row = 0; row * width < values.length; row++) hessian.add(values, row * width, weight(row));
  return hessian;
}

/** Root mean square of found - wanted over that of wanted - before. */
export function relativeDifference(before: Float32Array, wanted: Float32Array, found: Float32Array): number {
  let [error, size] = [0, 0];
  for (let i = 0; i < wanted.length; i++) {
    error += (found[i]! - wanted[i]!) ** 2;
    size += (wanted[i]! - before[i]!) ** 2;
  }
  return size === 0 ? 0 : Math.sqrt(error / size);
}
