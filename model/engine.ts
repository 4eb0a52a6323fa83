// The engine: one forward pass over a batch of tokens of several timelines, through all of a model or through what one stage of a ring holds of it.
// Tests, CLI, and the orchestrator all use this one.
// Owns the order of operations of a step and its regions of memory, allocated once (engine-regions.ts). Knows nothing of tokens as text,
// of HTTP or of shards: experts are behind the Experts seam. Refuses concurrent steps. Arithmetic: docs/arithmetic.md. Definition: definition.ts.

import { activationRows, normalise, RowProducts, type ActivationRows } from "./activation-rows.ts";
import { attentionOf, type Attention } from "./attention.ts";
import { AuxiliaryScaling } from "./auxiliary-scaling.ts";
import { ModelError, expertsPerInputRow, inputRowsPerToken, keepRouterColumns, type ModelConfig } from "./config.ts";
import { engineRegions, hiddenStride, holdsKeys, routerStride, type EngineRegions } from "./engine-regions.ts";
import { ExpertBatchBuilder, PAIR_BYTES } from "./expert-batch.ts";
import { MAX_ROUNDS, NO_FRAMES, type ExpertBatch, type ExpertRunInfo, type Experts } from "./experts.ts";
import { GateStage } from "./gate-stage.ts";
import type { Heap } from "./heap.ts";
import type { ActivationFormat, Kernels, KvFormat } from "./kernels.ts";
import { HeapPages, KvCache, NoPages } from "./kv-cache.ts";
import { layerKvBytes, pageBytesOf } from "./kv-page.ts";
import { LatentRows } from "./latent-rows.ts";
import type { SegmentWeights } from "./local-experts.ts";
import type { HeadAsk } from "./head-rows.ts";
import { Head, type EntryLogits, type HeadPlan } from "./logits.ts";
import type { HeadAnswer, HeadPart } from "./ring-logits.ts";
import { ProductExperts } from "./product-experts.ts";
import { ResidualRows } from "./residual-rows.ts";
import { branchesOf, expertOutputSize } from "./router-config.ts";
import { routeTokens } from "./router.ts";
import { EntryRouting } from "./routing-taps.ts";
import { SharedFfn } from "./shared-ffn.ts";
import { endsLayers, holdsAll, isEmpty, type StageSpan } from "./stage-span.ts";
import { StepTokens } from "./step-tokens.ts";
import type { PassEntry, PassResult, StagePass, StepEntry, StepResult } from "./step.ts";
import type { Tap, TapPoint } from "./taps.ts";
import type { LayerWeights, TrunkWeights } from "./trunk.ts";

export interface EngineParts {
  readonly config: ModelConfig;
  readonly kernels: Kernels;
  readonly heap: Heap;
  /** What it holds decides what it does (stage-span.ts). */
  readonly trunk: TrunkWeights;
  /** Of the engine's own layers. */
  readonly experts: Experts;
  /** Segments of each expert, [layer][expert]; empty rows for layers without experts. */
  readonly segmentCounts: readonly ArrayLike<number>[];
  /** Segments of each layer's dense part or shared expert, in memory; empty for layers without, and for those of other stages. */
  readonly shared: readonly (readonly SegmentWeights[])[];
  readonly kvFormat: KvFormat;
  /** What experts consume. */
  readonly activations: ActivationFormat;
  /** Most tokens of one step. */
  readonly maxChunkTokens: number;
  /** Most tokens of one round of experts, where that is fewer: a longer step takes MAX_ROUNDS rounds per layer. */
  readonly maxRoundTokens?: number;
}

const prunedOf = (routing: ReturnType<EntryRouting["tapsOf"]>): Pick<StepResult, "pruned"> => (routing?.pruned === undefined ? {} : { pruned: routing.pruned });

interface FrameSums { frames: number; bytes: number; retries: number; hedges: number }

const NO_IDS = new Uint32Array(0);
const NO_WEIGHTS = new Float32Array(0);
/** Kernels take eight tokens at a time: the first half of a split step ends at a multiple. */
const TOKEN_BLOCK = 8;

/** Tokens [first, first + nTokens) of a step on their way through the layers: all of them, or one half. */
interface Wave {
  first: number;
  nTokens: number;
  readonly builder: ExpertBatchBuilder;
  /** The round in flight, if any; null in a dense layer. */
  batch: ExpertBatch | null;
  nPairs: number;
  /** Records of the dense part or shared expert. */
  nSharedPairs: number;
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
  readonly #at: EngineRegions;
  readonly #normed: ActivationRows;
  readonly #products: RowProducts;
  /** null without layers. */
  readonly #attention: Attention | null;
  readonly #shared: SharedFfn;
  readonly #gates: GateStage;
  /** null where every ranked expert is run. */
  readonly #scaling: AuxiliaryScaling | null;
  readonly #latent: LatentRows;
  /** null without product layers. */
  readonly #product: ProductExperts | null;
  readonly #residual: ResidualRows;
  readonly #routing: EntryRouting;
  readonly #head: Head;
  readonly #tokens: StepTokens;
  readonly #xStride: number;
  /** Bytes from where one row of an expert is added up to the next: of several branches each has its place in a token's row, which has no padding then (hiddenStride). */
  readonly #expertStride: number;
  /** Bytes of one token's expert rows, at most. */
  readonly #rowBytes: number;
  #steps = 0;
  #stepping = false;

  /** Allocates the step's regions; throws CapacityError when they do not fit. The config was checked where it was read (architectures/common.ts). */
  constructor(parts: EngineParts) {
    const { config: c, kernels, heap, trunk, maxChunkTokens: n } = parts;
    this.#p = parts;
    this.config = c;
    this.maxChunkTokens = n;
    this.contextLength = trunk.contextLength;
    const maxSegments = parts.segmentCounts.flatMap((layer) => Array.from(layer)).reduce((most, count) => Math.max(most, count), 1);
    const sharedSegmentWidth = parts.shared.flat().reduce((most, { width }) => Math.max(most, width), 0);
    this.#maxRoundTokens = Math.min(n, parts.maxRoundTokens ?? n);
    if (n > MAX_ROUNDS * this.#maxRoundTokens) throw new ModelError(`Steps of ${n} tokens were asked for in rounds of ${this.#maxRoundTokens}; at most ${MAX_ROUNDS} rounds make a step.`);
    const { span } = trunk;
    const hasLayers = !isEmpty(span.layers);
    const nExperts = c.layerFfns.slice(...span.layers).includes("moe") ? c.nExperts : 0;
    const at = Object.fromEntries(Object.entries(engineRegions(c, { nTokens: n, maxSegments, sharedSegmentWidth, span }))
      .map(([region, bytes]) => [region, bytes === 0 ? 0 : heap.alloc(bytes, "engine scratch")])) as unknown as EngineRegions;
    this.#at = at;
    const pageBytes = pageBytesOf(c, parts.kvFormat, span.layers[1] - span.layers[0]);
    this.kv = new KvCache(hasLayers ? new HeapPages(heap, pageBytes) : new NoPages(), c, this.contextLength, pageBytes);
    const nBranches = branchesOf(c.router).length;
    this.#xStride = hiddenStride(c);
    this.#expertStride = this.#xStride / nBranches;
    this.#rowBytes = c.router.topK * maxSegments * expertOutputSize(c) * 4;
    this.#normed = activationRows(heap, hasLayers ? n : 0, c.hiddenSize, { f32: at.normedF32, qa8: at.normedQa8, f32Ptrs: at.normedF32Ptrs, qa8Ptrs: at.normedQa8Ptrs });
    this.#products = new RowProducts(kernels, at.scratch);
    this.#attention = !hasLayers ? null : attentionOf({
      config: c, kernels, heap, trunk, kvFormat: parts.kvFormat, kvLayerBytes: layerKvBytes(c, parts.kvFormat), firstLayer: span.layers[0], maxTokens: n, at, normed: this.#normed, products: this.#products,
    });
    this.#shared = new SharedFfn({ config: c, kernels, heap, segments: parts.shared, at, products: this.#products });
    this.#scaling = AuxiliaryScaling.of({ config: c, kernels, heap, at, activations: parts.activations });
    this.#latent = new LatentRows(c, heap, at, nExperts > 0 ? n : 0, this.#products);
    this.#product = ProductExperts.of({ config: c, kernels, heap, at, products: this.#products }, holdsKeys(c, span));
    this.#residual = new ResidualRows(c, kernels, heap, trunk, at.x, at.productWeights);
    this.#routing = new EntryRouting(c, { keepRouter: (layer) => this.#keepRouter(layer), selectionBias: (layer) => this.#selectionBias(layer) });
    this.#head = new Head(c, kernels, heap, trunk, at);
    this.#tokens = new StepTokens({ config: c, heap, at, span, maxTokens: n });
    this.#gates = new GateStage({ config: c, kernels, heap, at, kvFormat: parts.kvFormat, layers: span.layers, maxTokens: nExperts > 0 ? n : 0, products: this.#products });
    const shape = {
      maxTokens: this.#maxRoundTokens, topK: c.router.topK, nExperts, maxSegments, hidden: expertOutputSize(c), rowsPerToken: inputRowsPerToken(c), expertsPerRow: expertsPerInputRow(c),
      expertsPerBranch: Math.max(1, nExperts / nBranches),
    };
    this.#waves = Array.from({ length: MAX_ROUNDS }, (): Wave =>
      ({ first: 0, nTokens: 0, builder: new ExpertBatchBuilder(heap, shape, parts.experts), batch: null, nPairs: 0, nSharedPairs: 0, running: null }));
  }

  /** Gives every region back. Timelines must be closed by their owners. */
  close(): void {
    for (const ptr of new Set(Object.values(this.#at))) if (ptr !== 0) this.#p.heap.free(ptr);
  }

  /** What it holds of the model. */
  get span(): StageSpan { return this.#p.trunk.span; }

  /**
   * Evaluates the entries' tokens and returns the asked logits. Timelines advance only when everything succeeded, so a failed
   * step can be repeated. Taps run in the given order at their points. Needs an engine that holds the whole model.
   */
  step(entries: readonly StepEntry[], taps: readonly Tap[] = []): Promise<StepResult> {
    return this.#alone(async () => {
      if (!holdsAll(this.config, this.span)) throw new Error("A whole step was asked of one stage of a ring; it makes passes.");
      const sum = { frames: 0, bytes: 0, retries: 0, hedges: 0 };
      const routing = this.#routing.tapsOf(entries);
      await this.#through(entries, null, routing === null ? taps : [...routing.taps, ...taps], sum);
      const results = this.#head.run(entries);
      for (const { timeline, ids } of entries) timeline.length += ids.length;
      return { logits: results.map(({ logits }) => logits), tops: results.map(({ top }) => top), ...sum, ...prunedOf(routing) };
    });
  }

  /**
   * A stage's part of a step: embeds what its rows hold, runs its layers, and gives what comes out. As with a step, timelines advance only when everything
   * succeeded; a pass at a former length is a repetition.
   */
  pass({ entries, rows, asked }: StagePass, taps: readonly Tap[] = []): Promise<PassResult> {
    return this.#alone(async () => {
      const sum = { frames: 0, bytes: 0, retries: 0, hedges: 0 };
      const routing = this.#routing.tapsOf(entries);
      const nTokens = await this.#through(entries, rows, routing === null ? taps : [...routing.taps, ...taps], sum);
      if (asked.some((token) => !Number.isInteger(token) || token < 0 || token >= nTokens)) throw new ModelError(`The final row of a token was asked for that is not among the ${nTokens} of the pass.`);
      const out = endsLayers(this.config, this.span) ? this.#head.finals(asked) : this.#residual.take(nTokens);
      for (const { timeline, ids } of entries) timeline.length += ids.length;
      return { rows: out, ...sum, ...prunedOf(routing) };
    });
  }

  /** Which final rows a step of a ring will ask for and in which form; where tokens are drawn. Nothing of the step is needed for it. */
  plan(entries: readonly StepEntry[]): HeadPlan { return this.#head.plan(entries); }

  /** What the own rows of the head say to asks about final rows [asks, hidden]. May be called while a pass is under way, as `conclude`. */
  answers(asks: readonly HeadAsk[], finals: Float32Array): HeadAnswer[] { return this.#head.answers(asks, finals); }

  /** What the entries of the plan get, where tokens are drawn. Throws ModelError where the parts, ascending, do not answer the plan. */
  conclude(plan: HeadPlan, finals: Float32Array, parts: readonly HeadPart[]): readonly EntryLogits[] { return this.#head.conclude(plan, finals, parts); }

  #keepRouter(layer: number): Float32Array {
    const { hiddenSize, router: { topK } } = this.config;
    const { keepRouter } = this.#layer(layer);
    if (keepRouter === 0) throw new ModelError(`Layer ${layer} has no mask router, which an entry's rule needs.`);
    return this.#p.heap.f32.subarray(keepRouter / 4, keepRouter / 4 + topK * keepRouterColumns(hiddenSize, topK));
  }

  #selectionBias(layer: number): Float32Array | null {
    const { selectionBias } = this.#layer(layer);
    return selectionBias === 0 ? null : this.#p.heap.f32.subarray(selectionBias / 4, selectionBias / 4 + this.config.nExperts);
  }

  async #alone<Result>(run: () => Promise<Result>): Promise<Result> {
    if (this.#stepping) throw new Error("Engine.step was called while a step is running; a caller must await the previous one.");
    this.#stepping = true;
    try {
      return await run();
    } finally {
      // After a failure the other half may still be under way; its regions are this engine's again only when it has settled.
      for (const wave of this.#waves) {
        if (wave.running !== null) await Promise.resolve(wave.running).catch(() => undefined);
        wave.running = null;
      }
      this.#stepping = false;
    }
  }

  /** The tokens through the own layers; returns their number. */
  async #through(entries: readonly PassEntry[], rows: Float32Array | null, taps: readonly Tap[], sum: FrameSums): Promise<number> {
    const nTokens = this.#tokens.fill(entries);
    this.#residual.fill(entries, rows, nTokens);
    const [first, end] = this.span.layers;
    if (first === end) return nTokens;
    const waves = this.#split(nTokens);
    this.#steps++;
    // A wavefront: while one half's experts are computed elsewhere, the other half's attention runs here. It sees the first half's
    // keys of this layer, which are written by then, and none of its own later ones.
    for (let layer = first; layer < end; layer++) {
      for (const wave of waves) {
        if (layer > first) await this.#collect(layer - 1, wave, taps, sum);
        this.#attend(layer, wave);
        this.#sendOut(layer, wave, taps);
        const computesMeanwhile = waves.length > 1 || this.#p.shared[layer]!.length > 0;
        const departing = computesMeanwhile && wave.running !== null ? this.#p.experts.depart() : undefined;
        if (departing !== undefined) await departing;
        this.#runProduct(layer, wave, taps);
        wave.nSharedPairs = this.#shared.run(layer, this.#layer(layer).sharedGate, this.#normed, wave.first, wave.nTokens);
      }
    }
    for (const wave of waves) await this.#collect(end - 1, wave, taps, sum);
    return nTokens;
  }

  #layer(layer: number): LayerWeights { return this.#p.trunk.layers[layer]!; }

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

  #attend(layer: number, { first, nTokens }: Wave): void {
    const w = this.#layer(layer);
    const attention = this.#attention!;
    this.#norm(w.attnNorm, w.attnNormBias, first, nTokens, attention.takes(w));
    attention.run(layer, w, first, nTokens, this.#at.y + first * this.#xStride, this.#xStride);
    this.#addResidual(first, nTokens);
  }

  /** Normalises the wave's tokens, routes them and starts their experts, if the layer has any. */
  #sendOut(layer: number, wave: Wave, taps: readonly Tap[]): void {
    const { config: c } = this;
    const { heap, activations } = this.#p;
    const { first, nTokens } = wave;
    const w = this.#layer(layer);
    const [x, y] = [this.#at.x + first * this.#xStride, this.#at.y + first * this.#xStride];
    const isSparse = c.layerFfns[layer] === "moe";
    this.#tap(taps, "input", layer, wave, x, c.hiddenSize, nTokens);
    this.#norm(w.ffnNorm, w.ffnNormBias, first, nTokens, [...(isSparse ? [...this.#gates.takes(w), this.#scaling?.takes ?? w.latent?.takes ?? activations] : []), ...this.#shared.takes(layer, w.sharedGate), ...(w.product === null ? [] : this.#product!.takes(w.product))]);
    [wave.batch, wave.nPairs] = [null, 0];
    if (isSparse) this.#route(layer, wave, taps);
    heap.u8.fill(0, y, y + nTokens * this.#xStride);
  }

  /** Product experts of the wave's tokens, if the layer has any, into y. */
  #runProduct(layer: number, wave: Wave, taps: readonly Tap[]): void {
    const { product } = this.#layer(layer);
    if (product === null) return;
    const [experts, { first, nTokens }] = [this.#product!, wave];
    experts.route(product, this.#normed, first, nTokens);
    this.#tap(taps, "keys", layer, wave, experts.weights(first), experts.weightCount, nTokens);
    experts.run(product, this.#normed, first, nTokens, this.#at.y + first * this.#xStride, this.#tokens.productMasks(layer, first, nTokens));
  }

  #route(layer: number, wave: Wave, taps: readonly Tap[]): void {
    const { config: c } = this;
    const { kernels: k, heap, experts, segmentCounts } = this.#p;
    const { first, nTokens } = wave;
    const at = this.#at;
    const w = this.#layer(layer);
    const stride = routerStride(c);
    const logits = at.routerLogits + first * stride;
    const [ids, weights] = [at.ids + first * c.router.topK * 4, at.weights + first * c.router.topK * 4];
    const ranked = { rankedIds: at.rankedIds + (this.#scaling?.rankedOffset(first) ?? 0), rankedWeights: at.rankedWeights + (this.#scaling?.rankedOffset(first) ?? 0) };
    this.#gates.run(layer, w, this.#normed, this.#tokens.forGate(first, nTokens), logits);
    this.#tap(taps, "logits", layer, wave, logits, stride / 4, nTokens);
    routeTokens(k, heap, c.router, { logits, stride, ids, weights, ...ranked, branchIds: at.branchIds, branchWeights: at.branchWeights }, nTokens, c.nExperts, w.selectionBias);
    this.#tap(taps, "selection", layer, wave, logits, stride / 4, nTokens);

    const { ptr, stride: rowStride } = this.#expertRows(w, first, nTokens);
    const { batch, nPairs } = wave.builder.build(layer, this.#steps, nTokens, ids, weights, segmentCounts[layer]!,
      ptr, rowStride, at.expertRows + first * this.#rowBytes, at.pairs + first * c.router.topK * PAIR_BYTES);
    wave.batch = batch;
    wave.nPairs = nPairs;
    // Where every token does without experts there is nobody to ask.
    wave.running = batch.nGroups === 0 ? NO_FRAMES : experts.run(layer, batch);
    // Its failure is met when this wave is collected, which may be after the other one has failed.
    if (wave.running instanceof Promise) wave.running.catch(() => undefined);
  }

  /** Where the rows that routed experts get lie: normed, scaled or projected, in their format. No config scales and projects (architectures/common.ts). */
  #expertRows(w: LayerWeights, first: number, nTokens: number): { readonly ptr: number; readonly stride: number } {
    const { activations } = this.#p;
    if (this.#scaling !== null) return this.#scaling.rows(w.auxiliaryScales, this.#normed, first, nTokens);
    return w.latent === null ? this.#products.rowsFor(activations, this.#normed, first, nTokens) : this.#latent.run(w.latent, this.#normed, first, nTokens, activations);
  }

  /** Waits for the wave's experts of a layer and folds their rows, then those every token passes, into the residual. */
  async #collect(layer: number, wave: Wave, taps: readonly Tap[], sum: FrameSums): Promise<void> {
    const { config: c } = this;
    const { kernels } = this.#p;
    const { first, nTokens, batch } = wave;
    const y = this.#at.y + first * this.#xStride;
    if (batch !== null) {
      const info = await wave.running!;
      wave.running = null;
      sum.frames += info.frames;
      sum.bytes += info.bytes;
      sum.retries += info.retries;
      sum.hedges += info.hedges;
      this.#tap(taps, "expertOutput", layer, wave, batch.rows, expertOutputSize(c), batch.groupStart[batch.nGroups]!, info);
      kernels.combine(this.#at.pairs + first * c.router.topK * PAIR_BYTES, wave.nPairs, y, this.#expertStride, expertOutputSize(c));
    }
    if (wave.nSharedPairs > 0) kernels.combine(this.#shared.pairs(first), wave.nSharedPairs, y, this.#xStride, c.hiddenSize);
    this.#addResidual(first, nTokens);
    this.#tap(taps, "layerOutput", layer, wave, this.#at.x + first * this.#xStride, c.hiddenSize, nTokens);
  }

  /** Normalised residual of tokens [first, first + nTokens) into the same rows of #normed, in the formats that will be asked for. */
  #norm(weight: number, bias: number, first: number, nTokens: number, takes: readonly (ActivationFormat | undefined)[]): void {
    normalise(this.config, this.#p.kernels, weight, bias, this.#at.x + first * this.#xStride, this.#xStride, this.#normed, first, nTokens, takes);
  }

  /** x = x + residualMultiplier * y, for tokens [first, first + nTokens). */
  #addResidual(first: number, nTokens: number): void {
    const { config: c } = this;
    const { kernels: k } = this.#p;
    const [x, y] = [this.#at.x + first * this.#xStride, this.#at.y + first * this.#xStride];
    if (c.residualMultiplier !== 1) k.scaleRows(y, this.#xStride, c.residualMultiplier, nTokens, c.hiddenSize);
    k.addRows(x, this.#xStride, y, this.#xStride, nTokens, c.hiddenSize);
  }

  #tap(taps: readonly Tap[], at: TapPoint, layer: number, { first, nTokens, batch }: Wave, ptr: number, rowLength: number, nRows: number, round: ExpertRunInfo | null = null): void {
    for (const tap of taps) {
      if (tap.at !== at || (tap.layers !== undefined && !tap.layers.includes(layer))) continue;
      const { heap } = this.#p;
      const k = this.config.router.topK;
      const chosen = at === "selection";
      tap.run({
        layer, nTokens, timelines: this.#tokens.timelineIds(first, nTokens), positions: this.#tokens.positions(first, nTokens), rowLength,
        values: heap.f32.subarray(ptr / 4, ptr / 4 + nRows * rowLength),
        ids: chosen ? heap.u32.subarray(this.#at.ids / 4 + first * k, this.#at.ids / 4 + (first + nTokens) * k) : NO_IDS,
        weights: chosen ? heap.f32.subarray(this.#at.weights / 4 + first * k, this.#at.weights / 4 + (first + nTokens) * k) : NO_WEIGHTS,
        batch: at === "expertOutput" ? batch : null, round,
      });
    }
  }
}
