// What a stage's routing looked like, as words of a frame: for traces of a ring, whose taps are where tokens are drawn. Owns both directions: notes that taps take
// during a pass, and the same events told to the taps of the step. Refuses to be on the path where nothing is traced. docs/protocol.md section 6, `routes`.

import type { ExpertBatch } from "../model/experts.ts";
import type { Tap, TapEvent } from "../model/taps.ts";

const SELECTION = 1;
const EXPERT_OUTPUT = 2;
const NO_VALUES = new Float32Array(0);
const NO_IDS = new Uint32Array(0);

/** Takes notes of one pass. */
export class RouteNotes {
  readonly #words: number[] = [];
  readonly taps: readonly Tap[] = [
    {
      at: "selection",
      run: ({ layer, nTokens, timelines, positions, ids, weights }) => {
        const bits = new Uint32Array(weights.buffer, weights.byteOffset, weights.length);
        this.#words.push(SELECTION, layer, nTokens, nTokens === 0 ? 0 : ids.length / nTokens, ...timelines, ...positions, ...ids, ...bits);
      },
    },
    {
      at: "expertOutput",
      run: ({ layer, nTokens, timelines, positions, batch, round }) => {
        if (batch == null || round == null) return;
        const { partStart, nGroups, groupExpert, groupSegment, groupStart, groupTokens } = batch;
        const nRows = groupStart[nGroups]!;
        this.#words.push(EXPERT_OUTPUT, layer, nTokens, partStart.length, nGroups, nRows, round.parts.length, ...timelines, ...positions, ...partStart,
          ...groupExpert.subarray(0, nGroups), ...groupSegment.subarray(0, nGroups), ...groupStart.subarray(0, nGroups + 1), ...groupTokens.subarray(0, nRows),
          ...round.parts.flatMap(({ part, ms, bytes }) => [part, Math.round(ms), bytes]));
      },
    },
  ];

  get words(): Uint32Array { return Uint32Array.from(this.#words); }
}

/** Tells the taps what the notes say, in their order. Throws RangeError where the words are no notes. */
export function tellRoutes(words: Uint32Array, taps: readonly Tap[]): void {
  let at = 0;
  const take = (count: number): Uint32Array => {
    if (at + count > words.length) throw new RangeError(`Notes of routing end at word ${words.length}; ${at + count} were expected.`);
    return words.subarray(at, at += count);
  };
  const tell = (point: Tap["at"], event: TapEvent): void => {
    for (const tap of taps) if (tap.at === point && (tap.layers === undefined || tap.layers.includes(event.layer))) tap.run(event);
  };
  while (at < words.length) {
    const [kind, layer, nTokens] = take(3) as unknown as [number, number, number];
    if (kind === SELECTION) {
      const [topK] = take(1) as unknown as [number];
      const [timelines, positions, ids] = [take(nTokens), take(nTokens), take(nTokens * topK)];
      const bits = take(nTokens * topK);
      tell("selection", { layer, nTokens, timelines, positions, values: NO_VALUES, rowLength: 0, ids, weights: new Float32Array(bits.slice().buffer), batch: null, round: null });
    } else if (kind === EXPERT_OUTPUT) {
      const [nPartStarts, nGroups, nRows, nParts] = take(4) as unknown as [number, number, number, number];
      const [timelines, positions] = [take(nTokens), take(nTokens)];
      const batch = {
        layer, step: 0, nTokens, activations: 0, activationStride: 0, rowsPerToken: 1, nGroups, partStart: take(nPartStarts), groupExpert: take(nGroups), groupSegment: take(nGroups), groupStart: take(nGroups + 1),
        groupTokens: take(nRows), groupInput: NO_IDS, groupRow: NO_IDS, rows: 0,
      } satisfies ExpertBatch;
      const raw = take(3 * nParts);
      const parts = Array.from({ length: nParts }, (_, i) => ({ part: raw[3 * i]!, ms: raw[3 * i + 1]!, bytes: raw[3 * i + 2]! }));
      tell("expertOutput", { layer, nTokens, timelines, positions, values: NO_VALUES, rowLength: 0, ids: NO_IDS, weights: NO_VALUES, batch, round: { frames: nParts, bytes: 0, retries: 0, hedges: 0, parts } });
    } else throw new RangeError(`Notes of routing have kind ${kind} at word ${at - 3}; expected ${SELECTION} or ${EXPERT_OUTPUT}.`);
  }
}
