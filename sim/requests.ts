// What simulated readers ask for, and the right answers: the same requests on an engine with all experts beside it, no wire and no company.
// Owns the catalogue of requests (a fixed one, so that each answer is computed once) and what of an answer counts: tokens, the bits of log-probabilities, how it ends.
// Refuses what may differ between right answers: pace, frames, guesses, cached tokens.

import { SeededRandom } from "../durable/clock.ts";
import type { GenerateEvent, GenerateRequest } from "../durable/generate.ts";
import type { Isolate } from "../durable/isolate.ts";
import { Scheduler } from "../durable/scheduler.ts";
import { loadModel } from "../formats/load-model.ts";
import { MemorySource } from "../formats/memory-source.ts";
import { Engine } from "../model/engine.ts";
import { ExpertRunner, LocalExperts } from "../model/local-experts.ts";
import { SIM_LIMITS } from "./machines.ts";
import { steeringOf } from "./steered-requests.ts";
import type { TinyPack } from "./tiny-model.ts";
import { VirtualTime } from "./virtual-time.ts";

/** Requests in the catalogue. */
export const N_REQUESTS = 192;

/** Requests `from` to `from + N_REQUESTS - 1`: those below N_REQUESTS, and the same with something asked of routing. */
export const STEERED_FROM = N_REQUESTS;

/** Request `number` of the catalogue, steered or not. */
export const requestOf = (number: number, vocabSize: number): GenerateRequest =>
  (number < STEERED_FROM ? plainRequest(number, vocabSize) : { ...plainRequest(number - STEERED_FROM, vocabSize), routing: steeringOf(number - STEERED_FROM) });

/** At least 8 tokens, prompts from one token to what takes several steps. */
function plainRequest(number: number, vocabSize: number): GenerateRequest {
  const random = new SeededRandom(number + 1);
  const whole = (from: number, to: number): number => from + Math.floor(random.next() * (to - from + 1));
  const length = whole(1, 4) === 1 ? whole(12, 40) : whole(1, 8);
  // A few words over and over, so that there is something to guess.
  const words = Array.from({ length: whole(2, 8) }, () => whole(1, vocabSize - 1));
  const promptIds = Array.from({ length }, (_, i) => (number % 3 === 0 ? words[i % words.length]! : whole(0, vocabSize - 1)));
  const greedy = random.next() < 0.5;
  return {
    promptIds, maxTokens: whole(8, 12), stopIds: [],
    sampling: { temperature: greedy ? 0 : 0.9, topK: whole(0, 2) * 8, typicalP: 1, topP: 1, minP: 0, seed: number, adjustments: null },
    ...(random.next() < 0.6 ? { logprobs: whole(0, 2) } : {}),
    ...(random.next() < 0.15 ? { echo: true } : {}),
    ...(random.next() < 0.3 ? { cacheScope: "readers" } : {}),
    ...(random.next() < 0.3 ? { draftTokens: 0 } : {}),
  };
}

/** What counts of the events of an answer, in words that are equal exactly when it is. Numbers are written with all their bits. */
export function answerOf(events: readonly GenerateEvent[]): string[] {
  return events.flatMap((event) => {
    switch (event.type) {
      // However they are cut into events.
      case "prompt": return event.tokens.map(({ id, logprob, top }, i) => `prompt ${event.start + i} ${id} ${JSON.stringify([logprob, top])}`);
      case "token": return [`token ${event.index} ${event.id} ${JSON.stringify([event.logprob ?? null, event.top ?? null])}`];
      case "end": return [`end ${event.reason} ${event.stopId} ${event.promptTokens} ${event.completionTokens}`];
      case "error": return [`error ${event.code}`];
      case "embedding": return [`embedding ${JSON.stringify(event.values)}`];
    }
  });
}

/** The right answers, each computed when it is first asked for. */
export class Oracle {
  readonly #engine: Engine;
  readonly #vocabSize: number;
  readonly #known = new Map<number, readonly string[]>();

  private constructor(engine: Engine, vocabSize: number) {
    this.#engine = engine;
    this.#vocabSize = vocabSize;
  }

  static async open(isolate: Isolate, { manifest, files }: TinyPack): Promise<Oracle> {
    const { heap, kernels } = isolate;
    const { config } = manifest;
    const { trunk, lookup, segmentCounts, shared, maxSegmentWidth } = await loadModel(new MemorySource(files), manifest, heap);
    const runner = new ExpertRunner(kernels, heap, config, maxSegmentWidth, SIM_LIMITS.chunkTokens);
    return new Oracle(new Engine({
      config, kernels, heap, trunk, segmentCounts, shared, kvFormat: manifest.kvFormat, activations: manifest.activations, maxChunkTokens: 64,
      experts: new LocalExperts(runner, lookup),
    }), config.vocabSize);
  }

  request(number: number): GenerateRequest { return requestOf(number, this.#vocabSize); }

  async answer(number: number): Promise<readonly string[]> {
    let answer = this.#known.get(number);
    if (answer === undefined) this.#known.set(number, (answer = await this.answerTo(this.request(number))));
    return answer;
  }

  async answerTo(request: GenerateRequest): Promise<readonly string[]> {
    const time = new VirtualTime();
    const events: GenerateEvent[] = [];
    const { cacheScope: _, ...alone } = request;
    const generation = new Scheduler(this.#engine, time, SIM_LIMITS).submit({ ...alone, draftTokens: 0 }, (event) => events.push(event));
    const ended = (): boolean => events.at(-1)?.type === "end" || events.at(-1)?.type === "error";
    const { kind } = await time.run(ended, 1000);
    const refusal = await generation.accepted;
    if (kind !== "done" || refusal !== null || events.at(-1)!.type !== "end") {
      throw new Error(`The request ${JSON.stringify(request)} has no answer on one machine (${kind}): ${JSON.stringify(refusal ?? events.at(-1))}`);
    }
    // What the scheduler does behind the last event is still to come.
    await time.run(() => false, 1000);
    return answerOf(events);
  }
}
