// A generation on the in-process engine: prefill, then token by token. Owns the timeline between turns of a chat: what was evaluated already is
// kept when the next prompt begins with it. Refuses batches and sockets: serving is the orchestrator's.

import type { Timeline } from "../model/kv-cache.ts";
import { adjustmentStage } from "../model/logit-adjustments.ts";
import { logitsRequest } from "../model/logits.ts";
import type { RequestRouting } from "../model/request-routing.ts";
import { decidingForm, sampleForm, type LogitsForm, type SamplingParams, type TopLogits } from "../model/sampling.ts";
import type { LocalModel } from "./open-pack.ts";

export class LocalGeneration {
  readonly #model: LocalModel;
  readonly #routing: RequestRouting | undefined;
  #timeline: Timeline | null = null;
  /** Ids whose keys and values are in the cache, in order. */
  #evaluated: number[] = [];

  /** `routing`: what is asked of it; absent: nothing. */
  constructor(model: LocalModel, routing?: RequestRouting) {
    this.#model = model;
    this.#routing = routing;
  }

  /** Yields generated ids until a stop id, `maxTokens`, the end of the context, or an aborted signal. The stop id is not yielded. */
  async *run(promptIds: readonly number[], maxTokens: number, sampling: SamplingParams, signal: AbortSignal): AsyncGenerator<number> {
    const { engine } = this.#model;
    if (promptIds.length >= engine.contextLength) {
      throw new Error(`The conversation takes ${promptIds.length} tokens; this pack's context is ${engine.contextLength}. Start a new one.`);
    }
    const timeline = this.#continueOrOpen(promptIds);
    const end = Math.min(engine.contextLength, promptIds.length + maxTokens);
    let next = promptIds.slice(this.#evaluated.length);
    const stage = sampling.adjustments === null ? null : adjustmentStage(sampling.adjustments, promptIds);
    const form = decidingForm(sampling, null, engine.config.vocabSize, stage);
    for (let position = promptIds.length; position < end && !signal.aborted; position++) {
      const found = await this.#advance(timeline, next, form, signal);
      if (found === null) return;
      const { id } = sampleForm(form, found.row, found.top, 0, sampling, 0, position, null, stage);
      stage?.push(id);
      if (engine.config.eosTokenIds.includes(id)) return;
      yield id;
      next = [id];
    }
  }

  /** Evaluates `ids` in chunks; the logits of the last in the given form, or null when aborted. */
  async #advance(timeline: Timeline, ids: readonly number[], form: LogitsForm, signal: AbortSignal): Promise<{ row: Float32Array; top: TopLogits | null } | null> {
    const { engine } = this.#model;
    for (let done = 0; ; ) {
      if (signal.aborted) return null;
      const chunk = ids.slice(done, done + engine.maxChunkTokens);
      done += chunk.length;
      const isLast = done === ids.length;
      const { logits, tops } = await engine.step([{ timeline, ids: chunk, logits: isLast ? logitsRequest(form, "last") : "none", routing: this.#routing }]);
      this.#evaluated.push(...chunk);
      if (isLast) return { row: logits[0]!, top: tops[0]! };
    }
  }

  #continueOrOpen(promptIds: readonly number[]): Timeline {
    const { engine } = this.#model;
    const continues = this.#timeline !== null && this.#evaluated.length < promptIds.length && this.#evaluated.every((id, i) => promptIds[i] === id);
    if (this.#timeline !== null && continues) return this.#timeline;
    this.close();
    this.#timeline = engine.kv.open(engine.contextLength);
    return this.#timeline;
  }

  close(): void {
    if (this.#timeline !== null) this.#model.engine.kv.close(this.#timeline);
    this.#timeline = null;
    this.#evaluated = [];
  }
}
