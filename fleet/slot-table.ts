// Who holds each segment: the plan's slots turned round, for the step's look-ups. Owns the order of holders (ascending shard numbers).
// Refuses to choose among them: that depends on who is there at the moment (durable/).

import type { PlannedRange } from "./plan.ts";

const NOBODY: readonly number[] = Object.freeze([]);

export class SlotTable {
  readonly #nExperts: number;
  readonly #nSegments: number;
  readonly #holders: (readonly number[])[];

  /** `parts`: slots of each part, a shard or the caller itself. */
  constructor(parts: readonly (readonly PlannedRange[])[]) {
    const most = (of: (range: PlannedRange) => number): number => parts.reduce((all, ranges) => ranges.reduce((max, range) => Math.max(max, of(range)), all), 0);
    this.#nExperts = most(({ expert }) => expert + 1);
    this.#nSegments = most(({ segments: [, end] }) => end);
    this.#holders = new Array<readonly number[]>(most(({ layer }) => layer + 1) * this.#nExperts * this.#nSegments).fill(NOBODY);
    parts.forEach((ranges, part) => {
      for (const { layer, expert, segments: [first, end] } of ranges) {
        for (let segment = first; segment < end; segment++) {
          const at = (layer * this.#nExperts + expert) * this.#nSegments + segment;
          if (this.#holders[at]!.at(-1) !== part) this.#holders[at] = [...this.#holders[at]!, part];
        }
      }
    });
  }

  /** Parts that hold a segment, ascending; empty where nobody does. */
  holdersOf(layer: number, expert: number, segment: number): readonly number[] {
    if (expert >= this.#nExperts || segment >= this.#nSegments) return NOBODY;
    return this.#holders[(layer * this.#nExperts + expert) * this.#nSegments + segment] ?? NOBODY;
  }
}
