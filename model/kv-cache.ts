// The KV cache: pages of 32 positions across all layers, and timelines that hold them.
// Owns reservation: a timeline gets all its pages when it opens, so a running request never meets a full cache.
// Refuses growth beyond the reservation. Layout and arithmetic: docs/arithmetic.md section 8.

import { latentDim, type ModelConfig } from "./config.ts";
import { CapacityError, type Heap } from "./heap.ts";
import { KV_BLOCK, kvLayerBytes, kvPageBytes, type KvFormat } from "./kernels.ts";

/** One mutable inference timeline: the evaluated tokens of one request. */
export interface Timeline {
  readonly id: number;
  /** Positions it may hold. */
  readonly maxTokens: number;
  /** Address of u32[pages]: page addresses by position / 32. */
  readonly pageTable: number;
  readonly pages: readonly number[];
  /** Added to a position to find its row of the rope table: the long frequencies' table where LongRoPE takes it (docs/arithmetic.md section 7). */
  readonly ropeOffset: number;
  /** Tokens evaluated so far; advanced by the engine when a step succeeds. */
  length: number;
}

export class KvCache {
  readonly pageBytes: number;
  readonly layerBytes: number;
  readonly #heap: Heap;
  readonly #contextLength: number;
  /** Sequences reserved for more positions take the long frequencies. */
  readonly #shortPositions: number;
  readonly #open = new Set<Timeline>();
  #nextId = 0;

  constructor(heap: Heap, config: ModelConfig, format: KvFormat, contextLength: number) {
    this.#heap = heap;
    this.#contextLength = contextLength;
    this.#shortPositions = config.rope.long?.fromPositions ?? Infinity;
    this.layerBytes = kvLayerBytes(format, config.nKvHeads, config.headDim, latentDim(config));
    this.pageBytes = kvPageBytes(format, config.nLayers, config.nKvHeads, config.headDim, latentDim(config));
  }

  get openTimelines(): number {
    return this.#open.size;
  }

  /** Reserves pages for `maxTokens` positions or throws CapacityError and reserves nothing. */
  open(maxTokens: number): Timeline {
    if (!Number.isInteger(maxTokens) || maxTokens < 1 || maxTokens > this.#contextLength)
      throw new CapacityError(`A timeline of ${maxTokens} tokens was asked for; this pack serves 1 to ${this.#contextLength}.`);
    const taken: number[] = [];
    try {
      const nPages = Math.ceil(maxTokens / KV_BLOCK);
      const pageTable = this.#heap.alloc(nPages * 4, "kv page table");
      taken.push(pageTable);
      for (let page = 0; page < nPages; page++) taken.push(this.#heap.alloc(this.pageBytes, "kv cache"));
      const pages = taken.slice(1);
      this.#heap.u32.set(pages, pageTable / 4);
      const timeline: Timeline = { id: this.#nextId++, maxTokens, pageTable, pages, ropeOffset: maxTokens > this.#shortPositions ? this.#contextLength : 0, length: 0 };
      this.#open.add(timeline);
      return timeline;
    } catch (error) {
      for (const ptr of taken) this.#heap.free(ptr);
      throw error;
    }
  }

  /** Gives the pages back; closing twice is harmless. */
  close(timeline: Timeline): void {
    if (!this.#open.delete(timeline)) return;
    for (const page of timeline.pages) this.#heap.free(page);
    this.#heap.free(timeline.pageTable);
  }
}
