// Whose the tokens of a step are: timelines, positions, page addresses, and what each one's request says to gates and of product experts.
// Owns these arrays and their check. Refuses rows of numbers: residual-rows.ts has them.

import { ModelError, type ModelConfig } from "./config.ts";
import type { EngineRegions } from "./engine-regions.ts";
import { checkAnswers, type GateAnswers, type GateWave } from "./gate-stage.ts";
import type { Heap } from "./heap.ts";
import { KV_BLOCK } from "./kernels.ts";
import { layerMasks, type LayerMask } from "./product-mask.ts";
import { answersOf } from "./request-routing.ts";
import { isEmpty, type StageSpan } from "./stage-span.ts";
import type { PassEntry } from "./step.ts";

export interface StepTokensParts {
  readonly config: ModelConfig;
  readonly heap: Heap;
  readonly at: EngineRegions;
  readonly span: StageSpan;
  readonly maxTokens: number;
}

export class StepTokens {
  readonly #p: StepTokensParts;
  readonly #timelineIds: Uint32Array;
  readonly #ids: Uint32Array;
  readonly #answers: (GateAnswers | undefined)[] = [];
  /** Masks of product experts by layer; null where no entry has one. */
  #masks: (ReadonlyMap<number, LayerMask> | null)[] | null = null;

  constructor(parts: StepTokensParts) {
    this.#p = parts;
    this.#timelineIds = new Uint32Array(parts.maxTokens);
    this.#ids = new Uint32Array(parts.maxTokens);
  }

  /** Takes the entries' tokens, behind each other, and returns their number. Throws where one is not the model's, or has no room. */
  fill(entries: readonly PassEntry[]): number {
    const { config: c, heap, at, span: { layers, embeddingRows }, maxTokens } = this.#p;
    if (isEmpty(layers) && isEmpty(embeddingRows)) throw new Error("A pass was asked of a stage that holds head rows only; nothing passes through it.");
    const hasLayers = !isEmpty(layers);
    let t = 0;
    for (const { timeline, ids, routing } of entries) {
      const answers = routing == null ? undefined : answersOf(routing);
      checkAnswers(c, answers);
      if (timeline.length + ids.length > timeline.maxTokens)
        throw new Error(`Timeline ${timeline.id} holds ${timeline.length} of ${timeline.maxTokens} reserved tokens; ${ids.length} more were submitted.`);
      if (t + ids.length > maxTokens)
        throw new Error(`A step of more than ${maxTokens} tokens was submitted.`);
      for (let i = 0; i < ids.length; i++, t++) {
        const position = timeline.length + i;
        const id = ids[i]!;
        if (!Number.isInteger(id) || id < 0 || id >= c.vocabSize)
          throw new ModelError(`Token id ${id} at position ${position} is outside the vocabulary of ${c.vocabSize}.`);
        if (!hasLayers) continue;
        heap.u32[at.positions / 4 + t] = position;
        heap.u32[at.ropePositions / 4 + t] = position + timeline.ropeOffset;
        heap.u32[at.pages / 4 + t] = timeline.pages[Math.floor(position / KV_BLOCK)]!;
        heap.u32[at.pageTables / 4 + t] = timeline.pageTable;
        this.#timelineIds[t] = timeline.id;
        this.#ids[t] = id;
        this.#answers[t] = answers;
      }
    }
    this.#masks = masksOf(c, entries);
    return t;
  }

  /** Of tokens [first, first + nTokens): ids of their timelines, a view. */
  timelineIds(first: number, nTokens: number): Uint32Array { return this.#timelineIds.subarray(first, first + nTokens); }

  /** Their positions, a view. */
  positions(first: number, nTokens: number): Uint32Array {
    const from = this.#p.at.positions / 4 + first;
    return this.#p.heap.u32.subarray(from, from + nTokens);
  }

  /** As a gate takes them. */
  forGate(first: number, nTokens: number): GateWave {
    const { at } = this.#p;
    return { first, nTokens, tokenIds: this.#ids.subarray(first, first + nTokens), pageTables: at.pageTables / 4 + first, positions: at.positions / 4 + first, answers: (token) => this.#answers[first + token] };
  }

  /** Masks of a layer's product experts, one of each token; null where no entry has one. */
  productMasks(layer: number, first: number, nTokens: number): (LayerMask | null)[] | null {
    return this.#masks?.slice(first, first + nTokens).map((of) => of?.get(layer) ?? null) ?? null;
  }
}

/** Of each token; null where no entry has one. Throws ModelError where the model has no such experts. */
function masksOf(c: ModelConfig, entries: readonly PassEntry[]): (ReadonlyMap<number, LayerMask> | null)[] | null {
  if (entries.every(({ routing }) => routing?.productMask === undefined)) return null;
  return entries.flatMap(({ ids, routing }) => {
    const masks = routing?.productMask === undefined ? null : layerMasks(c, routing.productMask);
    return Array.from(ids, () => masks);
  });
}
