// The engine: one forward pass over a batch of tokens of several timelines. Tests, CLI, and the orchestrator all use this one.
// Owns the order of operations of a step and its regions of memory, allocated once. Knows nothing of tokens as text, of HTTP or of shards:
// experts are behind the Experts seam. Refuses concurrent steps. Arithmetic: docs/arithmetic.md. Definition: definition.ts.

import { ModelError, type ModelConfig } from "./config.ts";
import { ExpertBatchBuilder, PAIR_BYTES } from "./expert-batch.ts";
import type { Experts } from "./experts.ts";
import type { Heap } from "./heap.ts";
import { activationRowBytes, KV_FORMATS, matmulScratchBytes, ROPE_STYLES, type ActivationFormat, type Kernels, type KvFormat } from "./kernels.ts";
import { KvCache, type Timeline } from "./kv-cache.ts";
import { routeTokens } from "./router.ts";
import type { Tap, TapPoint } from "./taps.ts";
import type { Matrix, TrunkWeights } from "./trunk.ts";

export interface EngineParts {
  readonly config: ModelConfig;
  readonly kernels: Kernels;
  readonly heap: Heap;
  readonly trunk: TrunkWeights;
  readonly experts: Experts;
  /** Segments of each expert, [layer][expert]; empty rows for layers without experts. */
  readonly segmentCounts: readonly ArrayLike<number>[];
  readonly kvFormat: KvFormat;
  /** What experts consume. */
  readonly activations: ActivationFormat;
  /** Most tokens of one step. */
  readonly maxChunkTokens: number;
}

/** Tokens of one timeline in a step, continuing at timeline.length. */
export interface StepEntry {
  readonly timeline: Timeline;
  readonly ids: ArrayLike<number>;
  readonly logits: "none" | "last" | "all";
}

export interface StepResult {
  /** Per entry: f32 [nRows, vocab] with 0, 1 or ids.length rows; fresh memory. */
  readonly logits: Float32Array[];
  readonly frames: number;
  readonly bytes: number;
  readonly retries: number;
}

const NO_IDS = new Uint32Array(0);
const NO_WEIGHTS = new Float32Array(0);
const LOGIT_ROWS = 8;
const align16 = (bytes: number): number => Math.ceil(bytes / 16) * 16;

/** Rows of f32 and, once asked for, the same rows quantised. */
interface Rows {
  readonly nCols: number;
  readonly f32: number;
  readonly f32Stride: number;
  readonly f32Ptrs: number;
  readonly qa8: number;
  readonly qa8Stride: number;
  readonly qa8Ptrs: number;
  quantised: boolean;
}

export class Engine {
  readonly config: ModelConfig;
  readonly kv: KvCache;
  readonly maxChunkTokens: number;
  readonly contextLength: number;
  readonly #p: EngineParts;
  readonly #batches: ExpertBatchBuilder;
  readonly #regions: number[] = [];
  readonly #normed: Rows;
  readonly #attended: Rows;
  readonly #finals: Rows;
  readonly #x: number;
  readonly #y: number;
  readonly #q: number;
  readonly #k: number;
  readonly #v: number;
  readonly #routerLogits: number;
  readonly #ids: number;
  readonly #weights: number;
  readonly #pairs: number;
  readonly #rows: number;
  readonly #positions: number;
  readonly #pages: number;
  readonly #pageTables: number;
  readonly #logits: number;
  readonly #scratch: number;
  readonly #timelineIds: Uint32Array;
  readonly #xStride: number;
  readonly #logitStride: number;
  readonly #kvLayerBytes: number;
  #stepping = false;

  /** Allocates the step's regions; throws CapacityError when they do not fit, ModelError when the config needs what this engine lacks. */
  constructor(parts: EngineParts) {
    const { config: c, heap, maxChunkTokens: n } = parts;
    refuseUnsupported(c);
    this.#p = parts;
    this.config = c;
    this.maxChunkTokens = n;
    this.contextLength = parts.trunk.contextLength;
    const qDim = c.nHeads * c.headDim;
    const kvDim = c.nKvHeads * c.headDim;
    const maxSegments = Math.max(1, ...parts.segmentCounts.flatMap((layer) => Array.from(layer)));
    const alloc = (bytes: number): number => {
      const ptr = heap.alloc(bytes, "engine scratch");
      this.#regions.push(ptr);
      return ptr;
    };
    const rows = (nCols: number): Rows => {
      const [f32Stride, qa8Stride] = [align16(nCols * 4), activationRowBytes("qa8", nCols)];
      const [f32, qa8] = [alloc(n * f32Stride), alloc(n * qa8Stride)];
      const [f32Ptrs, qa8Ptrs] = [alloc(n * 4), alloc(n * 4)];
      for (let t = 0; t < n; t++) {
        heap.u32[f32Ptrs / 4 + t] = f32 + t * f32Stride;
        heap.u32[qa8Ptrs / 4 + t] = qa8 + t * qa8Stride;
      }
      return { nCols, f32, f32Stride, f32Ptrs, qa8, qa8Stride, qa8Ptrs, quantised: false };
    };
    this.kv = new KvCache(heap, c, parts.kvFormat, this.contextLength);
    this.#kvLayerBytes = this.kv.layerBytes;
    this.#xStride = align16(c.hiddenSize * 4);
    this.#logitStride = align16(c.vocabSize * 4);
    this.#normed = rows(c.hiddenSize);
    this.#attended = rows(qDim);
    this.#finals = rows(c.hiddenSize);
    this.#x = alloc(n * this.#xStride);
    this.#y = alloc(n * this.#xStride);
    this.#q = alloc(n * qDim * 4);
    this.#k = alloc(n * kvDim * 4);
    this.#v = alloc(n * kvDim * 4);
    this.#routerLogits = alloc(n * align16(c.nExperts * 4));
    this.#ids = alloc(n * c.router.topK * 4);
    this.#weights = alloc(n * c.router.topK * 4);
    this.#pairs = alloc(n * c.router.topK * PAIR_BYTES);
    this.#rows = alloc(n * c.router.topK * maxSegments * c.hiddenSize * 4);
    this.#positions = alloc(n * 4);
    this.#pages = alloc(n * 4);
    this.#pageTables = alloc(n * 4);
    this.#logits = alloc(LOGIT_ROWS * this.#logitStride);
    this.#scratch = alloc(matmulScratchBytes(Math.max(c.hiddenSize, qDim)));
    this.#timelineIds = new Uint32Array(n);
    this.#batches = new ExpertBatchBuilder(heap, { maxTokens: n, topK: c.router.topK, nExperts: c.nExperts, maxSegments, hidden: c.hiddenSize });
  }

  /** Gives every region back. Timelines must be closed by their owners. */
  close(): void {
    for (const ptr of this.#regions.splice(0)) this.#p.heap.free(ptr);
  }

  /**
   * Evaluates the entries' tokens and returns the asked logits. Timelines advance only when everything succeeded, so a failed
   * step can be repeated. Taps run in the given order at their points.
   */
  async step(entries: readonly StepEntry[], taps: readonly Tap[] = []): Promise<StepResult> {
    if (this.#stepping) throw new Error("Engine.step was called while a step is running; a caller must await the previous one.");
    this.#stepping = true;
    try {
      const nTokens = this.#embed(entries);
      let [frames, bytes, retries] = [0, 0, 0];
      for (let layer = 0; layer < this.config.nLayers; layer++) {
        this.#attention(layer, nTokens);
        const info = await this.#experts(layer, nTokens, taps);
        frames += info.frames;
        bytes += info.bytes;
        retries += info.retries;
      }
      const logits = this.#head(entries);
      for (const entry of entries) entry.timeline.length += entry.ids.length;
      return { logits, frames, bytes, retries };
    } finally {
      this.#stepping = false;
    }
  }

  /** Fills positions, page addresses and the first residual; returns the number of tokens. */
  #embed(entries: readonly StepEntry[]): number {
    const { config: c } = this;
    const { kernels, heap, trunk } = this.#p;
    let t = 0;
    for (const { timeline, ids } of entries) {
      if (timeline.length + ids.length > timeline.maxTokens)
        throw new Error(`Timeline ${timeline.id} holds ${timeline.length} of ${timeline.maxTokens} reserved tokens; ${ids.length} more were submitted.`);
      if (t + ids.length > this.maxChunkTokens)
        throw new Error(`A step of more than ${this.maxChunkTokens} tokens was submitted.`);
      for (let i = 0; i < ids.length; i++, t++) {
        const position = timeline.length + i;
        const id = ids[i]!;
        if (!Number.isInteger(id) || id < 0 || id >= c.vocabSize)
          throw new ModelError(`Token id ${id} at position ${position} is outside the vocabulary of ${c.vocabSize}.`);
        heap.u32[this.#positions / 4 + t] = position;
        heap.u32[this.#pages / 4 + t] = timeline.pages[Math.floor(position / 32)]!;
        heap.u32[this.#pageTables / 4 + t] = timeline.pageTable;
        this.#timelineIds[t] = timeline.id;
        kernels.readRow(trunk.embed.code, trunk.embed.ptr, c.hiddenSize, id, this.#x + t * this.#xStride);
      }
    }
    if (c.embeddingMultiplier !== 1) kernels.scaleRows(this.#x, this.#xStride, c.embeddingMultiplier, t, c.hiddenSize);
    return t;
  }

  #attention(layer: number, nTokens: number): void {
    const { config: c } = this;
    const { kernels: k, trunk } = this.#p;
    const w = trunk.layers[layer]!;
    const [qStride, kvStride] = [c.nHeads * c.headDim * 4, c.nKvHeads * c.headDim * 4];
    this.#norm(w.attnNorm, nTokens);
    for (const [matrix, bias, out, stride] of [[w.q, w.qBias, this.#q, qStride], [w.k, w.kBias, this.#k, kvStride], [w.v, w.vBias, this.#v, kvStride]] as const) {
      this.#product(matrix, this.#normed, nTokens, out, stride);
      if (bias !== 0) k.addBiasRows(out, stride, bias, nTokens, matrix.nRows);
    }
    for (const [x, stride, norm, nHeads] of [[this.#q, qStride, w.qNorm, c.nHeads], [this.#k, kvStride, w.kNorm, c.nKvHeads]] as const) {
      if (c.qkNorm === "whole-vector") k.rmsNormRows(x, stride, norm, c.normEps, x, stride, nTokens, nHeads * c.headDim);
      if (c.qkNorm === "per-head") k.rmsNormRows(x, c.headDim * 4, norm, c.normEps, x, c.headDim * 4, nTokens * nHeads, c.headDim);
    }
    if (c.clipQkv !== null) {
      k.clampRows(this.#q, qStride, c.clipQkv, nTokens, qStride / 4);
      k.clampRows(this.#k, kvStride, c.clipQkv, nTokens, kvStride / 4);
      k.clampRows(this.#v, kvStride, c.clipQkv, nTokens, kvStride / 4);
    }
    const style = ROPE_STYLES.indexOf(c.rope.style);
    k.ropeRows(style, this.#q, qStride, nTokens, c.nHeads, c.headDim, c.rope.dim, trunk.rope, this.#positions);
    k.ropeRows(style, this.#k, kvStride, nTokens, c.nKvHeads, c.headDim, c.rope.dim, trunk.rope, this.#positions);
    const [kvFormat, offset] = [KV_FORMATS.indexOf(this.#p.kvFormat), layer * this.#kvLayerBytes];
    k.kvWrite(kvFormat, this.#k, this.#v, kvStride, nTokens, c.nKvHeads, c.headDim, this.#pages, offset, this.#positions);
    this.#attended.quantised = false;
    k.attention(kvFormat, this.#q, this.#attended.f32, qStride, nTokens, c.nHeads, c.nKvHeads, c.headDim,
      this.#pageTables, offset, this.#positions, c.attentionScale, c.slidingWindows[layer]!, 0);
    this.#product(w.o, this.#attended, nTokens, this.#y, this.#xStride);
    this.#addResidual(nTokens);
  }

  async #experts(layer: number, nTokens: number, taps: readonly Tap[]) {
    const { config: c } = this;
    const { kernels: k, heap, trunk, experts, activations, segmentCounts } = this.#p;
    const w = trunk.layers[layer]!;
    this.#tap(taps, "input", layer, nTokens, this.#x, c.hiddenSize, nTokens);
    this.#norm(w.ffnNorm, nTokens);
    const stride = align16(c.nExperts * 4);
    if (w.router !== null) this.#product(w.router, this.#normed, nTokens, this.#routerLogits, stride);
    this.#tap(taps, "logits", layer, nTokens, this.#routerLogits, stride / 4, nTokens);
    routeTokens(k, heap, c.router, { logits: this.#routerLogits, stride, ids: this.#ids, weights: this.#weights }, nTokens, c.nExperts, 0);
    this.#tap(taps, "selection", layer, nTokens, this.#routerLogits, stride / 4, nTokens);

    const rows = this.#rowsFor(activations, this.#normed, nTokens);
    const { batch, nPairs } = this.#batches.build(layer, nTokens, this.#ids, this.#weights, segmentCounts[layer]!,
      rows.ptr, rows.stride, this.#rows, this.#pairs);
    const info = await experts.run(layer, batch);
    this.#tap(taps, "expertOutput", layer, nTokens, this.#rows, c.hiddenSize, batch.groupStart[batch.nGroups]!);
    heap.f32.fill(0, this.#y / 4, (this.#y + nTokens * this.#xStride) / 4);
    k.combine(this.#pairs, nPairs, this.#y, this.#xStride, c.hiddenSize);
    this.#addResidual(nTokens);
    this.#tap(taps, "layerOutput", layer, nTokens, this.#x, c.hiddenSize, nTokens);
    return info;
  }

  /** Final norm and logits of the asked rows, eight at a time. */
  #head(entries: readonly StepEntry[]): Float32Array[] {
    const { config: c } = this;
    const { kernels: k, heap, trunk } = this.#p;
    const out: Float32Array[] = [];
    let first = 0;
    for (const { ids, logits } of entries) {
      const nRows = logits === "all" ? ids.length : logits === "last" ? Math.min(1, ids.length) : 0;
      const result = new Float32Array(nRows * c.vocabSize);
      const from = first + ids.length - nRows;
      for (let done = 0; done < nRows; done += LOGIT_ROWS) {
        const n = Math.min(LOGIT_ROWS, nRows - done);
        k.rmsNormRows(this.#x + (from + done) * this.#xStride, this.#xStride, trunk.norm, c.normEps, this.#finals.f32, this.#finals.f32Stride, n, c.hiddenSize);
        this.#finals.quantised = false;
        this.#product(trunk.head, this.#finals, n, this.#logits, this.#logitStride);
        if (c.logitsScaling !== 1) k.scaleRows(this.#logits, this.#logitStride, 1 / c.logitsScaling, n, c.vocabSize);
        for (let row = 0; row < n; row++) {
          const at = (this.#logits + row * this.#logitStride) / 4;
          result.set(heap.f32.subarray(at, at + c.vocabSize), (done + row) * c.vocabSize);
        }
      }
      out.push(result);
      first += ids.length;
    }
    return out;
  }

  /** Normalised residual into #normed. */
  #norm(weight: number, nTokens: number): void {
    const { config: c } = this;
    this.#p.kernels.rmsNormRows(this.#x, this.#xStride, weight, c.normEps, this.#normed.f32, this.#normed.f32Stride, nTokens, c.hiddenSize);
    this.#normed.quantised = false;
  }

  /** Address and stride of rows in an activation format; quantises at most once per content. */
  #rowsFor(format: ActivationFormat, rows: Rows, nTokens: number): { ptr: number; stride: number; ptrs: number } {
    if (format === "f32") return { ptr: rows.f32, stride: rows.f32Stride, ptrs: rows.f32Ptrs };
    if (!rows.quantised) this.#p.kernels.quantizeRows(rows.f32, rows.f32Stride, rows.qa8, rows.qa8Stride, nTokens, rows.nCols);
    rows.quantised = true;
    return { ptr: rows.qa8, stride: rows.qa8Stride, ptrs: rows.qa8Ptrs };
  }

  #product(w: Matrix, rows: Rows, nTokens: number, out: number, outStride: number): void {
    const { ptrs } = this.#rowsFor(w.takes, rows, nTokens);
    this.#p.kernels.matmul(w.code, w.ptr, w.nRows, w.nCols, ptrs, nTokens, out, outStride, this.#scratch);
  }

  /** x = x + residualMultiplier * y. */
  #addResidual(nTokens: number): void {
    const { config: c } = this;
    const { kernels: k } = this.#p;
    if (c.residualMultiplier !== 1) k.scaleRows(this.#y, this.#xStride, c.residualMultiplier, nTokens, c.hiddenSize);
    k.addRows(this.#x, this.#xStride, this.#y, this.#xStride, nTokens, c.hiddenSize);
  }

  #tap(taps: readonly Tap[], at: TapPoint, layer: number, nTokens: number, ptr: number, rowLength: number, nRows: number): void {
    for (const tap of taps) {
      if (tap.at !== at || (tap.layers !== undefined && !tap.layers.includes(layer))) continue;
      const { heap } = this.#p;
      const choices = nTokens * this.config.router.topK;
      const chosen = at === "selection";
      tap.run({
        layer, nTokens, timelines: this.#timelineIds.subarray(0, nTokens), rowLength,
        positions: heap.u32.subarray(this.#positions / 4, this.#positions / 4 + nTokens),
        values: heap.f32.subarray(ptr / 4, ptr / 4 + nRows * rowLength),
        ids: chosen ? heap.u32.subarray(this.#ids / 4, this.#ids / 4 + choices) : NO_IDS,
        weights: chosen ? heap.f32.subarray(this.#weights / 4, this.#weights / 4 + choices) : NO_WEIGHTS,
      });
    }
  }
}

/** Names what a config asks for and this engine does not run, before anything is loaded. */
export function refuseUnsupported(c: ModelConfig): void {
  const refuse = (what: string): never => {
    throw new ModelError(`Architecture ${c.architecture} asks for ${what}, which this version does not run.`);
  };
  if (c.layerFfns.includes("dense")) refuse("dense feed-forward layers");
  if (c.sharedIntermediateSize > 0) refuse("a shared expert");
  if (c.router.logitBias) refuse("a bias on router logits");
  if (c.router.selectionBias) refuse("a selection bias in the router");
  if (c.nHeads % c.nKvHeads !== 0) refuse(`${c.nHeads} heads over ${c.nKvHeads} key-value heads`);
  if (c.hiddenSize % 4 !== 0 || c.headDim % 4 !== 0) refuse(`a hidden size of ${c.hiddenSize} and heads of ${c.headDim}; both must be multiples of 4`);
  if (c.rope.dim > c.headDim || c.rope.dim % 2 !== 0) refuse(`rotation of ${c.rope.dim} of ${c.headDim} dimensions`);
}

