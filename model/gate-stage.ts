// Score: from the rows of a wave to its router logits, by the layer's gate (gates/) and scope. Owns the rows that a gate reads where they are not the tokens' own,
// and the logits kept for conditions, which are the same for all tokens of a request. Refuses selection (router.ts).

import { activationRows, type ActivationRows, type RowProducts } from "./activation-rows.ts";
import { ModelError, type ModelConfig } from "./config.ts";
import { routerStride, routerWideStride, type EngineRegions } from "./engine-regions.ts";
import type { GateCall, GatedConfig } from "./gates/gate.ts";
import { numberOfCondition } from "./gates/conditions.ts";
import { branchConfigs, gateOf } from "./gates/index.ts";
import type { Heap } from "./heap.ts";
import { KV_BLOCK, type ActivationFormat, type Kernels, type KvFormat } from "./kernels.ts";
import { scopeRowOffset } from "./kv-page.ts";
import { gateInputSize, logitsOf, type RouterConfig } from "./router-config.ts";
import type { Span } from "./stage-span.ts";
import type { GateWeights, LayerWeights } from "./trunk.ts";

/** What a request says to a gate that asks: which task it is, or its condition f32 [size]. */
export interface GateAnswers {
  readonly task?: number;
  readonly condition?: Float32Array;
}

/** Throws ModelError unless the answers are what the model's gates ask for. */
export function checkAnswers(config: Pick<ModelConfig, "router">, answers: GateAnswers | undefined): void {
  const problem = answersProblem(config, answers);
  if (problem !== null) throw new ModelError(problem);
}

/** Why the gates cannot go by the answers, as a sentence; null where they can. */
export function answersProblem({ router: { gate, scope } }: { readonly router: Pick<RouterConfig, "gate" | "scope"> }, { task, condition }: GateAnswers = {}): string | null {
  const nTasks = gate?.kind === "tasks" ? gate.nTasks : null;
  if (nTasks !== null && !(Number.isInteger(task) && task! >= 0 && task! < nTasks)) return `This model routes by task, and the task is ${task ?? "not said"}; expected a whole number from 0 to ${nTasks - 1}.`;
  if (nTasks === null && task !== undefined) return `Task ${task} was asked for, but this model's routers know no tasks.`;
  const size = scope?.kind === "condition" ? scope.size : null;
  if (size !== null && (condition?.length !== size || !condition.every(Number.isFinite))) return `This model routes by a condition, and ${condition === undefined ? "none was given" : `one of ${condition.length} numbers was given${condition.length === size ? ", not all of them finite" : ""}`}; expected ${size} numbers.`;
  if (gate?.kind === "conditions" && numberOfCondition(gate.conditions, condition!) < 0) return `This model has experts for ${gate.conditions.length} conditions, and the one given is none of them; the first is ${JSON.stringify(gate.conditions[0])}.`;
  return size === null && condition !== undefined ? "A condition was given, but this model's routers read tokens." : null;
}

/** A wave of tokens before its layer's gate. */
export interface GateWave {
  readonly first: number;
  readonly nTokens: number;
  /** Of each token of the wave. */
  readonly tokenIds: Uint32Array;
  /** Where in the heap's u32 their page tables' addresses and their positions are. */
  readonly pageTables: number;
  readonly positions: number;
  readonly answers: (token: number) => GateAnswers | undefined;
}

/** Conditions whose logits are kept: a denoiser has tens of steps, and each is one. */
const KEPT_CONDITIONS = 256;

export interface GateStageParts {
  readonly config: ModelConfig;
  readonly kernels: Kernels;
  readonly heap: Heap;
  readonly at: EngineRegions;
  readonly maxTokens: number;
  /** Of the engine's pages, and the layers they are of. */
  readonly kvFormat: KvFormat;
  readonly layers: Span;
  readonly products: RowProducts;
}

export class GateStage {
  readonly #p: GateStageParts;
  /** By branch: the config as its gate sees it. */
  readonly #branches: readonly GatedConfig[];
  /** Rows of the gate's own. */
  readonly #own: ActivationRows;
  /** What the gate reads where it is not the tokens' rows. */
  readonly #scoped: ActivationRows;
  /** By the condition's bits: logits of each layer, f32. */
  readonly #kept = new Map<string, Map<number, Float32Array>>();
  readonly #tasks: Uint32Array;
  /** Rows that went through a gate, for tests and figures: none where all was kept. */
  gatedRows = 0;

  constructor(parts: GateStageParts) {
    this.#p = parts;
    const { config, heap, at, maxTokens } = parts;
    const gate = gateOf(config);
    this.#branches = branchConfigs(config);
    this.#own = activationRows(heap, at.gateOwnF32 === 0 ? 0 : maxTokens, gate.ownColumns(config), { f32: at.gateOwnF32, qa8: at.gateOwnQa8, f32Ptrs: at.gateOwnF32Ptrs, qa8Ptrs: at.gateOwnQa8Ptrs });
    this.#scoped = activationRows(heap, at.gateInF32 === 0 ? 0 : config.router.scope?.kind === "condition" ? 1 : maxTokens, gateInputSize(config),
      { f32: at.gateInF32, qa8: at.gateInQa8, f32Ptrs: at.gateInF32Ptrs, qa8Ptrs: at.gateInQa8Ptrs });
    this.#tasks = new Uint32Array(config.router.gate?.kind === "tasks" ? maxTokens : 0);
  }

  /** Formats in which it reads the normed rows. */
  takes({ gates }: LayerWeights): readonly ActivationFormat[] {
    return gates.flatMap((w, branch) => {
      const of = this.#branches[branch]!;
      const { scope } = of.router;
      return scope === undefined ? gateOf(of).takes(w) : scope.kind === "sequence" ? ["f32"] : [];
    });
  }

  /** Logits of the wave's tokens to `logits`, rows of routerStride, the branches' one after the other. `normed` are the layer's rows. */
  run(layer: number, { gates }: LayerWeights, normed: ActivationRows, wave: GateWave, logits: number): void {
    gates.forEach((w, branch) => {
      const of = this.#branches[branch]!;
      const { scope } = of.router;
      const own = logits + branch * of.nExperts * 4;
      if (scope?.kind === "condition") return this.#conditioned(layer, w, wave, own);
      if (scope !== undefined) this.#meanRows(layer, scope.tokens, normed, wave);
      this.#gate(of, w, scope === undefined ? normed : this.#scoped, wave, own);
    });
  }

  /**
   * Row t of the scoped ones becomes the mean, in f32, of the normed rows at positions 0 to min(own, tokens - 1) of its sequence, added in this order. Every token writes its own
   * row to its page first: tokens of a step come in ascending positions, so the rows before are there, whatever step wrote them.
   */
  #meanRows(layer: number, tokens: number, normed: ActivationRows, { first, nTokens, pageTables, positions }: GateWave): void {
    const { config: c, heap: { f32, u32 }, kvFormat, layers: [start, end] } = this.#p;
    const rowAt = (t: number, position: number): number =>
      (u32[u32[pageTables + t]! / 4 + Math.floor(position / KV_BLOCK)]! + scopeRowOffset(c, kvFormat, end - start, layer - start, position)) / 4;
    for (let t = 0; t < nTokens; t++) {
      const [position, from] = [u32[positions + t]!, (normed.f32 + (first + t) * normed.f32Stride) / 4];
      if (position < tokens) f32.copyWithin(rowAt(t, position), from, from + c.hiddenSize);
      const n = Math.min(position + 1, tokens);
      const to = (this.#scoped.f32 + (first + t) * this.#scoped.f32Stride) / 4;
      f32.fill(0, to, to + c.hiddenSize);
      for (let seen = 0; seen < n; seen++) {
        const row = rowAt(t, seen);
        for (let i = 0; i < c.hiddenSize; i++) f32[to + i] = f32[to + i]! + f32[row + i]!;
      }
      for (let i = 0; i < c.hiddenSize; i++) f32[to + i] = f32[to + i]! / n;
    }
    this.#scoped.quantised = false;
  }

  #gate(of: GatedConfig, w: GateWeights, rows: ActivationRows, { first, nTokens, tokenIds, answers }: Pick<GateWave, "first" | "nTokens" | "tokenIds" | "answers">, logits: number): void {
    const { config, kernels, heap, at, products } = this.#p;
    const stride = routerStride(config);
    const tasks = this.#tasks.subarray(0, nTokens);
    for (let t = 0; t < tasks.length; t++) tasks[t] = answers(t)!.task!;
    const call: GateCall = {
      config: of, w, kernels, heap, products, rows, first, nTokens, logits, stride, own: this.#own,
      wide: at.routerWide + first * routerWideStride(config), wideStride: routerWideStride(config), tokenIds, tasks,
    };
    gateOf(of).run(call);
    if (w.routerBias !== 0) kernels.addBiasRows(logits, stride, w.routerBias, nTokens, logitsOf(of));
    this.gatedRows += nTokens;
  }

  /** One row through the gate for each condition and layer that was not met before; all tokens of the request get its logits. */
  #conditioned(layer: number, w: GateWeights, { nTokens, answers }: GateWave, logits: number): void {
    const { config, heap } = this.#p;
    const stride = routerStride(config);
    let [condition, row]: [Float32Array | null, Float32Array] = [null, new Float32Array(0)];
    for (let t = 0; t < nTokens; t++) {
      const asked = answers(t)!.condition!;
      if (asked !== condition) row = this.#conditionLogits(layer, w, asked);
      condition = asked;
      heap.f32.set(row, (logits + t * stride) / 4);
    }
  }

  #conditionLogits(layer: number, w: GateWeights, condition: Float32Array): Float32Array {
    const { config, heap, at } = this.#p;
    const key = new Uint32Array(condition.slice().buffer).join();
    const layers = this.#kept.get(key) ?? new Map<number, Float32Array>();
    // The one used longest ago is the first of the map.
    this.#kept.delete(key);
    if (this.#kept.size >= KEPT_CONDITIONS) this.#kept.delete(this.#kept.keys().next().value!);
    this.#kept.set(key, layers);
    const known = layers.get(layer);
    if (known !== undefined) return known;
    heap.f32.set(condition, this.#scoped.f32 / 4);
    this.#scoped.quantised = false;
    this.#gate(this.#branches[0]!, w, this.#scoped, { first: 0, nTokens: 1, tokenIds: new Uint32Array(1), answers: () => ({ condition }) }, at.conditionLogits);
    const row = heap.f32.slice(at.conditionLogits / 4, at.conditionLogits / 4 + logitsOf(config));
    layers.set(layer, row);
    return row;
  }
}
