// Expert rows that nobody computed in a step whose generations allow it: taken out of the sum, and counted by position. A row left out is one of zeros; the weights of the
// others stay as they are. Where a segment of an expert is missing the whole expert is, in that round: part of an expert is no expert.
// Owns the tap that does it, what other stages of a ring say of theirs, and that nothing is counted twice: of a layer that is run again the last time counts, and of a timeline that is
// evaluated again what is missing beyond what was told. Refuses to be in steps of anybody else (scheduler.ts).

import type { Tap, TapEvent } from "../model/taps.ts";

/** Expert rows that are missing at one position: one for each layer and expert. */
export interface LeftOut {
  readonly timeline: number;
  readonly position: number;
  readonly rows: number;
}

export class LeftOutRows {
  /** By timeline, position and layer. */
  readonly #counts = new Map<number, Map<number, Map<number, number>>>();
  /** By timeline and position: what was told of an earlier evaluation. */
  readonly #told = new Map<number, ReadonlyMap<number, number>>();
  /** Called between computing rows and adding them up: what it writes is what counts (docs/architecture.md). */
  readonly tap: Tap = { at: "expertOutput", run: (event) => this.#leaveOut(event) };

  /** Rows missing in positions [from, to) of a timeline: one for each token, layer and expert. */
  between(timeline: number, from: number, to: number): number {
    let rows = 0;
    for (const [position, layers] of this.#counts.get(timeline) ?? []) if (position >= from && position < to) rows += Math.max(0, sumOf(layers) - (this.#told.get(timeline)?.get(position) ?? 0));
    return rows;
  }

  get all(): LeftOut[] {
    return [...this.#counts].flatMap(([timeline, positions]) => [...positions].map(([position, layers]) => ({ timeline, position, rows: sumOf(layers) })).filter(({ rows }) => rows > 0));
  }

  /** What another stage left out in its layers, of which `layer` is one. */
  add(layer: number, rows: readonly LeftOut[]): void {
    for (const { timeline, position, rows: n } of rows) this.#add(timeline, position, layer, n);
  }

  /** What was told before of this timeline's positions counts no more. */
  except(timeline: number, told: ReadonlyMap<number, number>): void {
    this.#told.set(timeline, told);
  }

  #leaveOut({ batch, round, layer, nTokens, values, rowLength, timelines, positions }: TapEvent): void {
    if (batch == null || round == null) return;
    // A pass that failed half way is done again where its plan has changed meanwhile (epoch-switch.ts).
    if (this.#counts.size > 0) for (let token = 0; token < nTokens; token++) this.#counts.get(timelines[token]!)?.get(positions[token]!)?.delete(layer);
    if (round.missing === undefined) return;
    const experts = new Set(round.missing.map((group) => batch.groupExpert[group]!));
    for (let group = 0; group < batch.nGroups; group++) {
      if (!experts.has(batch.groupExpert[group]!)) continue;
      const [first, end] = [batch.groupStart[group]!, batch.groupStart[group + 1]!];
      const row = batch.groupRow[group]!;
      values.fill(0, row * rowLength, (row + end - first) * rowLength);
      if (batch.groupSegment[group] !== 0) continue; // counted with its expert's first
      for (let i = first; i < end; i++) this.#add(timelines[batch.groupTokens[i]!]!, positions[batch.groupTokens[i]!]!, layer, 1);
    }
  }

  #add(timeline: number, position: number, layer: number, rows: number): void {
    const positions = this.#counts.get(timeline) ?? new Map<number, Map<number, number>>();
    const layers = positions.get(position) ?? new Map<number, number>();
    this.#counts.set(timeline, positions.set(position, layers.set(layer, (layers.get(layer) ?? 0) + rows)));
  }
}

/** What generations were told is missing, by position, as long as they live. */
export class ToldRows {
  readonly #of = new WeakMap<object, Map<number, number>>();

  /** Of a generation that was told nothing: nothing. */
  of(generation: object): ReadonlyMap<number, number> {
    return this.#of.get(generation) ?? new Map<number, number>();
  }

  /** What `rows` has of positions [from, to) of the generation's timeline was told. */
  note(generation: object, rows: LeftOutRows, timeline: number, from: number, to: number): void {
    for (const { position } of rows.all.filter((row) => row.timeline === timeline && row.position >= from && row.position < to)) {
      const told = this.#of.get(generation) ?? new Map<number, number>();
      this.#of.set(generation, told.set(position, (told.get(position) ?? 0) + rows.between(timeline, position, position + 1)));
    }
  }
}

const sumOf = (layers: ReadonlyMap<number, number>): number => [...layers.values()].reduce((sum, rows) => sum + rows, 0);
