// Expert rows that nobody computed in a step whose generations allow it: taken out of the sum, and counted by position. A row left out is one of zeros; the weights of the
// others stay as they are. Where a segment of an expert is missing the whole expert is, in that round: part of an expert is no expert.
// Owns the tap that does it. Refuses to be in steps of anybody else (scheduler.ts).

import type { Tap, TapEvent } from "../model/taps.ts";

export class LeftOutRows {
  readonly #counts = new Map<number, Map<number, number>>();
  /** Called between computing rows and adding them up: what it writes is what counts (docs/architecture.md). */
  readonly tap: Tap = { at: "expertOutput", run: (event) => this.#leaveOut(event) };

  /** Rows missing in positions [from, to) of a timeline: one for each token, layer and expert. */
  between(timeline: number, from: number, to: number): number {
    let rows = 0;
    for (const [position, missing] of this.#counts.get(timeline) ?? []) if (position >= from && position < to) rows += missing;
    return rows;
  }

  #leaveOut({ batch, round, values, rowLength, timelines, positions }: TapEvent): void {
    if (batch == null || round?.missing === undefined) return;
    const experts = new Set(round.missing.map((group) => batch.groupExpert[group]!));
    for (let group = 0; group < batch.nGroups; group++) {
      if (!experts.has(batch.groupExpert[group]!)) continue;
      const [first, end] = [batch.groupStart[group]!, batch.groupStart[group + 1]!];
      const row = batch.groupRow[group]!;
      values.fill(0, row * rowLength, (row + end - first) * rowLength);
      if (batch.groupSegment[group] !== 0) continue; // counted with its expert's first
      for (let i = first; i < end; i++) {
        const token = batch.groupTokens[i]!;
        const counts = this.#counts.get(timelines[token]!) ?? new Map<number, number>();
        this.#counts.set(timelines[token]!, counts.set(positions[token]!, (counts.get(positions[token]!) ?? 0) + 1));
      }
    }
  }
}
