// The engine: one forward pass over a batch of tokens of several timelines. Tests, CLI, and the orchestrator all use this one.
// Owns the order of operations of a step and its regions of memory, allocated once (engine-regions.ts). Knows nothing of tokens as text,
// of HTTP or of shards: experts are behind the Experts seam. Refuses concurrent steps. Arithmetic: docs/arithmetic.md. Definition: definition.ts.

import { ModelError, type ModelConfig } from "./config.ts";
import { engineRegions, hiddenStride, routerStride, type EngineRegions } from "./engine-regions.ts";
import { ExpertBatchBuilder, PAIR_BYTES } from "./expert-batch.ts";
import { MAX_ROUNDS, type ExpertBatch, type ExpertRunInfo, type Experts } from "./experts.ts";
import type { Heap } from "./heap.ts";
import { activationRowBytes, KV_FORMATS, ROPE_STYLES, type ActivationFormat, type Kernels, type KvFormat } from "./kernels.ts";
import { KvCache, type Timeline } from "./kv-cache.ts";
import { Head, type LogitsRequest } from "./logits.ts";
import { routeTokens } from "./router.ts";
import type { TopLogits } from "./sampling.ts";
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
  /** Most tokens of one round of experts, where that is fewer: a longer step takes MAX_ROUNDS rounds per layer. */
  readonly maxRoundTokens?: number;
}

/** Tokens of one timeline in a step, continuing at timeline.length. */
export interface StepEntry {
  readonly timeline: Timeline;
  readonly ids: ArrayLike<number>;
  readonly logits: LogitsRequest;
}

export interface StepResult {
  /** Per entry: f32 [nRows, vocab] with 0, 1 or ids.length rows; fresh memory, as all here. */
  readonly logits: Float32Array[];
  /** Per entry: the largest logits, where the entry asked for no more than those. */
  readonly tops: (TopLogits | null)[];
  readonly frames: number;
  readonly bytes: number;
  readonly retries: number;
}

const NO_IDS = new Uint32Array(0);
const NO_WEIGHTS = new Float32Array(0);
/** Kernels take eight tokens at a time: the first half of a split step ends at a multiple. */
const TOKEN_BLOCK = 8;

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

/** Tokens [first, first + nTokens) of a step on their way through the layers: all of them, or one half. */
interface Wave {
  first: number;
  nTokens: number;
  readonly builder: ExpertBatchBuilder;
  /** The round in flight, if any. */
  batch: ExpertBatch | null;
  nPairs: number;
  running: Promise<ExpertRunInfo> | ExpertRunInfo | null;
}

export class Engine {
  readonly config: ModelConfig;
  readonly kv: KvCache;
  readonly maxChunkTokens: number;
  readonly contextLength: number;
  readonly #p: EngineParts;
  readonly #maxRoundTokens: number;
  readonly #waves: readonly Wave[];
  readonly #regions: number[] = [];
  readonly #normed: Rows;
  readonly #attended: Rows;
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
  /** Bytes of one token's expert rows, at most. */
  readonly #rowBytes: number;
  readonly #positions: number;
  readonly #pages: number;
  readonly #pageTables: number;
  readonly #scratch: number;
  readonly #timelineIds: Uint32Array;
  readonly #xStride: number;
  readonly #kvLayerBytes: number;
  readonly #head: Head;
  #steps = 0;
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
    const maxSegments = parts.segmentCounts.flatMap((layer) => Array.from(layer)).reduce((most, count) => Math.max(most, count), 1);
    this.#maxRoundTokens = Math.min(n, parts.maxRoundTokens ?? n);
    if (n > MAX_ROUNDS * this.#maxRoundTokens) throw new ModelError(`Steps of ${n} tokens were asked for in rounds of ${this.#maxRoundTokens}; at most ${MAX_ROUNDS} rounds make a step.`);
    const at = Object.fromEntries(Object.entries(engineRegions(c, n, maxSegments)).map(([region, bytes]) => {
      const ptr = heap.alloc(bytes, "engine scratch");
      this.#regions.push(ptr);
      return [region, ptr];
    })) as unknown as EngineRegions;
    const rows = (nCols: number, f32: number, qa8: number, f32Ptrs: number, qa8Ptrs: number): Rows => {
      const [f32Stride, qa8Stride] = [activationRowBytes("f32", nCols), activationRowBytes("qa8", nCols)];
      for (let t = 0; t < n; t++) {
        heap.u32[f32Ptrs / 4 + t] = f32 + t * f32Stride;
        heap.u32[qa8Ptrs / 4 + t] = qa8 + t * qa8Stride;
      }
      return { nCols, f32, f32Stride, f32Ptrs, qa8, qa8Stride, qa8Ptrs, quantised: false };
    };
    this.kv = new KvCache(heap, c, parts.kvFormat, this.contextLength);
    this.#kvLayerBytes = this.kv.layerBytes;
    this.#xStride = hiddenStride(c);
    this.#normed = rows(c.hiddenSize, at.normedF32, at.normedQa8, at.normedF32Ptrs, at.normedQa8Ptrs);
    this.#attended = rows(qDim, at.attendedF32, at.attendedQa8, at.attendedF32Ptrs, at.attendedQa8Ptrs);
    this.#x = at.x;
    this.#y = at.y;
    this.#q = at.q;
    this.#k = at.k;
    this.#v = at.v;
    this.#routerLogits = at.routerLogits;
    this.#ids = at.ids;
    this.#weights = at.weights;
    this.#pairs = at.pairs;
    this.#rows = at.expertRows;
    this.#rowBytes = c.router.topK * maxSegments * c.hiddenSize * 4;
    this.#positions = at.positions;
    this.#pages = at.pages;
    this.#pageTables = at.pageTables;
    this.#scratch = at.scratch;
    this.#head = new Head(c, parts.kernels, heap, parts.trunk, at);
    this.#timelineIds = new Uint32Array(n);
    const shape = { maxTokens: this.#maxRoundTokens, topK: c.router.topK, nExperts: c.nExperts, maxSegments, hidden: c.hiddenSize };
    this.#waves = Array.from({ length: MAX_ROUNDS }, (): Wave =>
      ({ first: 0, nTokens: 0, builder: new ExpertBatchBuilder(heap, shape, parts.experts.placement), batch: null, nPairs: 0, running: null }));
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
    const sum = { frames: 0, bytes: 0, retries: 0 };
    try {
      const waves = this.#split(this.#embed(entries));
      this.#steps++;
      // A wavefront: while one half's experts are computed elsewhere, the other half's attention runs here. It sees the first half's
      // keys of this layer, which are written by then, and none of its own later ones.
      for (let layer = 0; layer < this.config.nLayers; layer++) {
        for (const wave of waves) {
          if (layer > 0) await this.#collect(layer - 1, wave, taps, sum);
          this.#attention(layer, wave);
          this.#sendOut(layer, wave, taps);
          if (waves.length > 1) await this.#p.experts.depart();
        }
      }
      for (const wave of waves) await this.#collect(this.config.nLayers - 1, wave, taps, sum);
      const results = this.#head.run(entries);
      for (const entry of entries) entry.timeline.length += entry.ids.length;
      return { logits: results.map(({ logits }) => logits), tops: results.map(({ top }) => top), ...sum };
    } finally {
      // After a failure the other half may still be under way; its regions are this engine's again only when it has settled.
      for (const wave of this.#waves) {
        if (wave.running !== null) await Promise.resolve(wave.running).catch(() => undefined);
        wave.running = null;
      }
      this.#stepping = false;
    }
  }

  /** One wave of all tokens, or two halves where the experts are elsewhere or a round could not take them all. */
  #split(nTokens: number): readonly Wave[] {
    const { experts } = this.#p;
    const [a, b] = this.#waves as readonly [Wave, Wave];
    const two = nTokens > this.#maxRoundTokens || (nTokens >= experts.overlapTokens && nTokens > 1);
    a.first = 0;
    a.nTokens = two ? Math.min(this.#maxRoundTokens, nTokens - 1, Math.ceil(nTokens / 2 / TOKEN_BLOCK) * TOKEN_BLOCK) : nTokens;
    b.first = a.nTokens;
    b.nTokens = nTokens - a.nTokens;
    return two ? this.#waves : this.#waves.slice(0, 1);
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

  #attention(layer: number, wave: Wave): void {
    const { config: c } = this;
    const { kernels: k, trunk } = this.#p;
    const { first, nTokens } = wave;
    const w = trunk.layers[layer]!;
    const [qStride, kvStride] = [c.nHeads * c.headDim * 4, c.nKvHeads * c.headDim * 4];
    const [pages, pageTables, positions] = [this.#pages + first * 4, this.#pageTables + first * 4, this.#positions + first * 4];
    this.#norm(w.attnNorm, first, nTokens, [w.q.takes, w.k.takes, w.v.takes]);
    // Queries, keys and values live within this call only: both waves use the same rows.
    for (const [matrix, bias, out, stride] of [[w.q, w.qBias, this.#q, qStride], [w.k, w.kBias, this.#k, kvStride], [w.v, w.vBias, this.#v, kvStride]] as const) {
      this.#product(matrix, this.#normed, first, nTokens, out, stride);
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
    k.ropeRows(style, this.#q, qStride, nTokens, c.nHeads, c.headDim, c.rope.dim, trunk.rope, positions);
    k.ropeRows(style, this.#k, kvStride, nTokens, c.nKvHeads, c.headDim, c.rope.dim, trunk.rope, positions);
    const [kvFormat, offset] = [KV_FORMATS.indexOf(this.#p.kvFormat), layer * this.#kvLayerBytes];
    k.kvWrite(kvFormat, this.#k, this.#v, kvStride, nTokens, c.nKvHeads, c.headDim, pages, offset, positions);
    this.#attended.quantised = false;
    k.attention(kvFormat, this.#q, this.#attended.f32, qStride, nTokens, c.nHeads, c.nKvHeads, c.headDim,
      pageTables, offset, positions, c.attentionScale, c.slidingWindows[layer]!, 0, this.#scratch);
    this.#product(w.o, this.#attended, 0, nTokens, this.#y + first * this.#xStride, this.#xStride);
    this.#addResidual(first, nTokens);
  }

  /** Routes the wave's tokens and starts their experts. */
  #sendOut(layer: number, wave: Wave, taps: readonly Tap[]): void {
    const { config: c } = this;
    const { kernels: k, heap, trunk, experts, activations, segmentCounts } = this.#p;
    const { first, nTokens } = wave;
    const w = trunk.layers[layer]!;
    const stride = routerStride(c);
    const logits = this.#routerLogits + first * stride;
    const [ids, weights] = [this.#ids + first * c.router.topK * 4, this.#weights + first * c.router.topK * 4];
    this.#tap(taps, "input", layer, wave, this.#x + first * this.#xStride, c.hiddenSize, nTokens);
    this.#norm(w.ffnNorm, first, nTokens, [w.router?.takes, activations]);
    if (w.router !== null) this.#product(w.router, this.#normed, first, nTokens, logits, stride);
    this.#tap(taps, "logits", layer, wave, logits, stride / 4, nTokens);
    routeTokens(k, heap, c.router, { logits, stride, ids, weights }, nTokens, c.nExperts, 0);
    this.#tap(taps, "selection", layer, wave, logits, stride / 4, nTokens);

    const { ptr, stride: rowStride } = this.#rowsFor(activations, this.#normed, first, nTokens);
    const { batch, nPairs } = wave.builder.build(layer, this.#steps, nTokens, ids, weights, segmentCounts[layer]!,
      ptr, rowStride, this.#rows + first * this.#rowBytes, this.#pairs + first * c.router.topK * PAIR_BYTES);
    wave.batch = batch;
    wave.nPairs = nPairs;
    wave.running = experts.run(layer, batch);
    // Its failure is met when this wave is collected, which may be after the other one has failed.
    if (wave.running instanceof Promise) wave.running.catch(() => undefined);
    // What follows runs here while the rest is computed elsewhere. A shared expert belongs here too, after `depart`: computed from the
    // rows of #normed into rows of its own, added after the fold (docs/arithmetic.md section 6).
    const y = this.#y + first * this.#xStride;
    heap.u8.fill(0, y, y + nTokens * this.#xStride);
  }

  /** Waits for the wave's experts of a layer and folds their rows into the residual. */
  async #collect(layer: number, wave: Wave, taps: readonly Tap[], sum: { frames: number; bytes: number; retries: number }): Promise<void> {
    const { config: c } = this;
    const { first, nTokens } = wave;
    const batch = wave.batch!;
    const info = await wave.running!;
    wave.running = null;
    sum.frames += info.frames;
    sum.bytes += info.bytes;
    sum.retries += info.retries;
    this.#tap(taps, "expertOutput", layer, wave, batch.rows, c.hiddenSize, batch.groupStart[batch.nGroups]!);
    this.#p.kernels.combine(this.#pairs + first * c.router.topK * PAIR_BYTES, wave.nPairs, this.#y + first * this.#xStride, this.#xStride, c.hiddenSize);
    this.#addResidual(first, nTokens);
    this.#tap(taps, "layerOutput", layer, wave, this.#x + first * this.#xStride, c.hiddenSize, nTokens);
  }

  /** Normalised residual of tokens [first, first + nTokens) into the same rows of #normed, in the formats that will be asked for. */
  #norm(weight: number, first: number, nTokens: number, takes: readonly (ActivationFormat | undefined)[]): void {
    const { config: c } = this;
    const { kernels: k } = this.#p;
    const rows = this.#normed;
    const [x, f32, qa8] = [this.#x + first * this.#xStride, rows.f32 + first * rows.f32Stride, rows.qa8 + first * rows.qa8Stride];
    rows.quantised = takes.includes("qa8");
    if (!rows.quantised) k.rmsNormRows(x, this.#xStride, weight, c.normEps, f32, rows.f32Stride, nTokens, c.hiddenSize);
    else k.rmsNormQuantizeRows(x, this.#xStride, weight, c.normEps, takes.includes("f32") ? f32 : 0, rows.f32Stride, qa8, rows.qa8Stride, nTokens, c.hiddenSize);
  }

  /** Address and stride of rows from `first` on in an activation format; quantises at most once per content. */
  #rowsFor(format: ActivationFormat, rows: Rows, first: number, nTokens: number): { ptr: number; stride: number; ptrs: number } {
    const [f32, qa8] = [rows.f32 + first * rows.f32Stride, rows.qa8 + first * rows.qa8Stride];
    if (format === "f32") return { ptr: f32, stride: rows.f32Stride, ptrs: rows.f32Ptrs + first * 4 };
    if (!rows.quantised) this.#p.kernels.quantizeRows(f32, rows.f32Stride, qa8, rows.qa8Stride, nTokens, rows.nCols);
    rows.quantised = true;
    return { ptr: qa8, stride: rows.qa8Stride, ptrs: rows.qa8Ptrs + first * 4 };
  }

  #product(w: Matrix, rows: Rows, first: number, nTokens: number, out: number, outStride: number): void {
    const { ptrs } = this.#rowsFor(w.takes, rows, first, nTokens);
    this.#p.kernels.matmul(w.code, w.ptr, w.nRows, w.nCols, ptrs, nTokens, out, outStride, this.#scratch);
  }

  /** x = x + residualMultiplier * y, for tokens [first, first + nTokens). */
  #addResidual(first: number, nTokens: number): void {
    const { config: c } = this;
    const { kernels: k } = this.#p;
    const [x, y] = [this.#x + first * this.#xStride, this.#y + first * this.#xStride];
    if (c.residualMultiplier !== 1) k.scaleRows(y, this.#xStride, c.residualMultiplier, nTokens, c.hiddenSize);
    k.addRows(x, this.#xStride, y, this.#xStride, nTokens, c.hiddenSize);
  }

  #tap(taps: readonly Tap[], at: TapPoint, layer: number, { first, nTokens, batch }: Wave, ptr: number, rowLength: number, nRows: number): void {
    for (const tap of taps) {
      if (tap.at !== at || (tap.layers !== undefined && !tap.layers.includes(layer))) continue;
      const { heap } = this.#p;
      const k = this.config.router.topK;
      const chosen = at === "selection";
      tap.run({
        layer, nTokens, timelines: this.#timelineIds.subarray(first, first + nTokens), rowLength,
        positions: heap.u32.subarray(this.#positions / 4 + first, this.#positions / 4 + first + nTokens),
        values: heap.f32.subarray(ptr / 4, ptr / 4 + nRows * rowLength),
        ids: chosen ? heap.u32.subarray(this.#ids / 4 + first * k, this.#ids / 4 + (first + nTokens) * k) : NO_IDS,
        weights: chosen ? heap.f32.subarray(this.#weights / 4 + first * k, this.#weights / 4 + (first + nTokens) * k) : NO_WEIGHTS,
        batch: at === "expertOutput" ? batch : null,
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

