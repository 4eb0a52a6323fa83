// A model run layer by layer over texts, holding one layer's weights at a time and, last, the head's: each layer is an engine of one layer, whose
// embedding matrix are the rows that the layer before gave. The bits are those of one engine with all layers in memory. Weights are read about once,
// whatever the texts' length; of experts those that the texts ask for, as many as fit. A layer can be tried, with taps and with other weights, before the
// model goes on. Layers of product experts that share a router are run behind those before them in their group, whose routing they need. Owns that order and its memory.
// Refuses to generate: for every next token all layers would be read anew.

import { engineRegions, hiddenStride, type EngineRegions } from "../model/engine-regions.ts";
import { ModelError, sharesRouter, trunkTensors, type ModelConfig } from "../model/config.ts";
import { Engine } from "../model/engine.ts";
import type { GateAnswers } from "../model/gate-stage.ts";
import { Heap } from "../model/heap.ts";
import { activationFormatOf, formatCode, matrixBytes, type Kernels } from "../model/kernels.ts";
import { ExpertRunner, type SegmentWeights } from "../model/local-experts.ts";
import { Head } from "../model/logits.ts";
import { StreamedExperts } from "../model/streamed-experts.ts";
import { wholeModel } from "../model/stage-span.ts";
import { bindTrunk, type LoadedTensor } from "../model/trunk.ts";
import type { Tap, TapEvent, TapPoint } from "../model/taps.ts";
import { chooseKernels, type KernelModules, RESERVED_BYTES } from "../model/wasm-kernels.ts";
import type { WeightsByName } from "./streamed-model.ts";

/** A 32-bit WebAssembly memory ends here. */
const HEAP_LIMIT_BYTES = 4 * 1024 ** 3 - 2 * 65536;
const DEFAULT_LIMITS: LayeredLimits = { chunkTokens: 256, expertBytes: 1024 ** 3 };
const HEAD_TOKENS = 32;

export interface LayeredLimits {
  /** Experts are asked for once per so many tokens. */
  readonly chunkTokens: number;
  /** Of the memory, for experts of the layer at hand; one segment is always held. */
  readonly expertBytes: number;
  /** What every sequence says to gates that ask (model/gate-stage.ts), one for each; absent where no gate asks. */
  readonly answers?: readonly GateAnswers[];
}

/** How a layer is run: with other weights than the model's own, of the same shapes but for the feed-forward part, and with taps. */
export interface LayerTrial {
  readonly weights?: WeightsByName;
  readonly taps?: readonly LayerTap[];
}

/** As a tap of the engine (model/taps.ts), which is also told where the first of its tokens stands among those of all sequences. */
export interface LayerTap {
  readonly at: TapPoint;
  run(event: TapEvent, firstToken: number): void;
}

export class LayeredModel {
  readonly config: ModelConfig;
  readonly #weights: WeightsByName;
  /** Lengths of the sequences, in order. */
  readonly #lengths: readonly number[];
  readonly #heap: Heap;
  readonly #kernels: Kernels;
  readonly #limits: LayeredLimits;
  /** Rows that the next layer reads, f32 [tokens, hidden]. */
  #rows: Float32Array = new Float32Array(0);
  /** Layers that ran since the last one that shares no router with those before it, with their weights, and what the first of them read: more than none only within a group that shares a router. */
  #group: { readonly rows: Float32Array; readonly weights: readonly WeightsByName[] } = { rows: new Float32Array(0), weights: [] };

  private constructor(weights: WeightsByName, lengths: readonly number[], modules: KernelModules, limits: LayeredLimits) {
    const memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / 65536, maximum: 65536 });
    this.config = weights.config;
    this.#weights = weights;
    this.#lengths = lengths;
    this.#limits = limits;
    this.#heap = new Heap(memory, RESERVED_BYTES, HEAP_LIMIT_BYTES);
    this.#kernels = chooseKernels({ modules, memory }).kernels;
  }

  /** The model before its first layer, over the given sequences of ids, each a context of its own. Throws SourceError or ModelError. */
  static async open(weights: WeightsByName, sequences: readonly (readonly number[])[], modules: KernelModules, limits: Partial<LayeredLimits> = {}): Promise<LayeredModel> {
    if (weights.config.router.gate?.kind === "hash") throw new ModelError("This model's routers go by ids of tokens, which a layer on its own does not see; it cannot be run layer by layer.");
    const lengths = sequences.map(({ length }) => length);
    const most = Math.max(0, ...lengths);
    if (lengths.length === 0 || lengths.includes(0) || most > weights.contextLength) throw new ModelError(`Sequences of ${Math.min(...lengths, most)} to ${most} tokens were given; expected 1 to ${weights.contextLength}.`);
    const model = new LayeredModel(weights, lengths, modules, { ...DEFAULT_LIMITS, ...limits });
    const rows = await weights.embedding(sequences.flat(), model.#heap, model.#kernels);
    const { embeddingMultiplier } = model.config;
    model.#rows = embeddingMultiplier === 1 ? rows : rows.map((x) => x * embeddingMultiplier);
    return model;
  }

  /** What the next layer reads, f32 [tokens, hidden], the sequences one after the other. */
  get rows(): Float32Array { return this.#rows; }

  /** Kernel memory in use: nothing between layers, the head once it is open. */
  get usedBytes(): number { return this.#heap.usedBytes; }

  /** Runs layer `layer`, the next one, and goes on behind it; its output, f32 [tokens, hidden]. Throws CapacityError where one layer is larger than a WebAssembly memory. */
  async runLayer(layer: number, how: LayerTrial = {}): Promise<Float32Array> {
    const out = await this.tryLayer(layer, how);
    const { rows, weights } = this.#groupOf(layer);
    this.#group = { rows, weights: [...weights, how.weights ?? this.#weights] };
    return (this.#rows = out);
  }

  /** As runLayer, but the model stays before the layer. Taps see the tokens of one sequence at a time, in order. */
  async tryLayer(layer: number, { weights = this.#weights, taps = [] }: LayerTrial = {}): Promise<Float32Array> {
    const heap = this.#heap;
    const { hiddenSize } = this.config;
    const longest = Math.max(...this.#lengths);
    const chunk = Math.min(this.#limits.chunkTokens, longest);
    const group = this.#groupOf(layer);
    const ofLayers = [...group.weights, weights];
    const firstLayer = layer - group.weights.length;
    const config = layersAlone(weights.config, firstLayer, ofLayers.length, chunk);
    const taken: number[] = [];
    const alloc = (bytes: number): number => {
      const ptr = heap.alloc(bytes, "weights");
      taken.push(ptr);
      return ptr;
    };
    const embed = alloc(matrixBytes("f32", chunk, hiddenSize));
    const loaded = new Map<string, LoadedTensor>([["embed", { ptr: embed, format: "f32", nRows: chunk, nCols: hiddenSize }]]);
    for (const name of ["rope", ...trunkTensors(config).map((t) => t.name).filter((name) => name !== "embed")]) {
      const [, number, rest] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? [];
      const { load, bytes, ...tensor } = number === undefined ? weights.tensor(name) : ofLayers[Number(number)]!.tensor(`layers.${firstLayer + Number(number)}.${rest}`);
      const ptr = alloc(bytes);
      await load(heap, ptr);
      loaded.set(name, { ...tensor, ptr });
    }
    const shared: SegmentWeights[][] = [];
    for (const [n, of] of ofLayers.entries()) {
      shared.push([]);
      for (const { load, bytes, ...segment } of of.shared(heap, firstLayer + n)) {
        const ptr = alloc(bytes);
        await load(ptr);
        shared[n]!.push({ ...segment, ptr });
      }
    }
    const { kvFormat, activations, segmentCounts, widestSegment } = weights;
    const runner = new ExpertRunner(this.#kernels, heap, config, widestSegment, chunk);
    const experts = new StreamedExperts(runner, heap, this.#limits.expertBytes, (n, expert, segment) => ofLayers[n]!.expert(heap, firstLayer + n, expert, segment));
    const engine = new Engine({
      config, kernels: this.#kernels, heap, kvFormat, activations, maxChunkTokens: chunk, segmentCounts: ofLayers.map((_, n) => segmentCounts[firstLayer + n]!), shared, experts,
      trunk: bindTrunk(config, (name) => loaded.get(name)),
    });
    const out = new Float32Array(this.#rows.length);
    let before = 0;
    for (const [sequence, length] of this.#lengths.entries()) {
      const answers = this.#limits.answers?.[sequence];
      const timeline = engine.kv.open(length);
      for (let done = 0; done < length; done += chunk) {
        const nTokens = Math.min(chunk, length - done);
        const first = before + done;
        this.#placeRows(group.rows, embed, first, nTokens);
        const own: LayerTap = { at: "layerOutput", run: ({ values }) => out.set(values.subarray(0, nTokens * hiddenSize), first * hiddenSize) };
        await engine.step([{ timeline, ids: Array.from({ length: nTokens }, (_, i) => i), logits: "none", ...(answers === undefined ? {} : { answers }) }],
          [...taps, own].map((tap): Tap => ({ at: tap.at, layers: [ofLayers.length - 1], run: (event) => tap.run({ ...event, layer: 0 }, first) })));
      }
      engine.kv.close(timeline);
      before += length;
    }
    engine.close();
    experts.close();
    runner.close();
    for (const ptr of taken) heap.free(ptr);
    return out;
  }

  /** What has to run before a layer, and from where: nothing, but where it shares the router of an earlier one. */
  #groupOf(layer: number): { readonly rows: Float32Array; readonly weights: readonly WeightsByName[] } {
    return sharesRouter(this.config, layer) ? this.#group : { rows: this.#rows, weights: [] };
  }

  /** Rows [first, first + nTokens) as an f32 matrix in tile layout: 32 rows of a column lie together. */
  #placeRows(rows: Float32Array, ptr: number, first: number, nTokens: number): void {
    const { hiddenSize } = this.config;
    const f32 = this.#heap.f32;
    for (let t = 0; t < nTokens; t++) {
      const at = ptr / 4 + (t >> 5) * 32 * hiddenSize + (t & 31);
      const from = (first + t) * hiddenSize;
      for (let col = 0; col < hiddenSize; col++) f32[at + 32 * col] = rows[from + col]!;
    }
  }

  /** After the last layer: loads the head; `logits` then gives f32 [nTokens, vocab] of tokens [first, first + nTokens), at most HEAD_TOKENS. */
  async openHead(): Promise<{ readonly maxTokens: number; readonly logits: (first: number, nTokens: number) => Float32Array }> {
    const heap = this.#heap;
    const c = this.config;
    const regions = engineRegions(c, { nTokens: HEAD_TOKENS, maxSegments: 1, sharedSegmentWidth: 0 });
    const at = Object.fromEntries(Object.entries(regions).map(([name, bytes]) => [name, bytes === 0 ? 0 : heap.alloc(bytes, "engine scratch")])) as unknown as EngineRegions;
    const tensor = async (name: string): Promise<LoadedTensor> => {
      const { load, bytes, ...of } = this.#weights.tensor(name);
      const ptr = heap.alloc(bytes, "weights");
      await load(heap, ptr);
      return { ...of, ptr };
    };
    const vector = async (name: string, has: boolean): Promise<number> => (has ? (await tensor(name)).ptr : 0);
    const { format, ...matrix } = await tensor(c.tieWordEmbeddings ? "embed" : "head");
    if (format === "f32-vector") throw new ModelError(`The head is ${format}; a matrix was expected.`);
    const head = new Head(c, this.#kernels, heap, {
      span: wholeModel(c), head: { ...matrix, code: formatCode(format), takes: activationFormatOf(format) }, norm: await vector("norm", true), normBias: await vector("normBias", c.norm === "layer"),
      headBias: await vector("headBias", c.headBias),
    }, at);
    return {
      maxTokens: HEAD_TOKENS,
      logits: (first, nTokens) => {
        const stride = hiddenStride(c) / 4;
        for (let t = 0; t < nTokens; t++) heap.f32.set(this.#rows.subarray((first + t) * c.hiddenSize, (first + t + 1) * c.hiddenSize), at.x / 4 + t * stride);
        return head.run([{ ids: new Uint32Array(nTokens), logits: "all" }])[0]!.logits;
      },
    };
  }
}

/** Layers [layer, layer + n) as a model of their own, which reads rows for tokens. */
function layersAlone(c: ModelConfig, layer: number, n: number, nRows: number): ModelConfig {
  const { productExperts, ...others } = c;
  const layerFfns = c.layerFfns.slice(layer, layer + n);
  return {
    ...others, ...(layerFfns.includes("product") ? { productExperts: productExperts! } : {}), nLayers: n, vocabSize: nRows, slidingWindows: c.slidingWindows.slice(layer, layer + n), layerFfns,
    embeddingMultiplier: 1, tieWordEmbeddings: true, headBias: false,
  };
}
