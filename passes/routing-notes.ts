// What the taps of a step tell of routing, as records of the trace: choices and weights, logits, norms of what experts gave, and how far they turned the residual.
// Owns the notes of one step of one sequence. Refuses steps of several timelines. Formulas: norms and cosine as EASY-EP's score reads them (2025).

import type { TraceColumn, TraceRecord } from "../formats/trace.ts";
import type { ModelConfig } from "../model/config.ts";
import { NO_EXPERT } from "../model/expert-batch.ts";
import type { Tap, TapEvent } from "../model/taps.ts";

interface Note {
  readonly token: number;
  readonly layer: number;
  ids: number[];
  weights: number[];
  /** Its selection was seen. */
  isRouted: boolean;
  logits?: number[];
  norms?: number[];
  cosine?: number[];
  /** Residual before the experts; only where its angle is asked for. */
  residual?: Float32Array;
}

export class RoutingNotes {
  readonly taps: readonly Tap[];
  readonly #config: ModelConfig;
  readonly #columns: ReadonlySet<TraceColumn>;
  readonly #notes = new Map<number, Note>();

  constructor(config: ModelConfig, columns: readonly TraceColumn[]) {
    this.#config = config;
    this.#columns = new Set(columns);
    const wants = (...any: readonly TraceColumn[]): boolean => any.some((column) => this.#columns.has(column));
    this.taps = [
      ...(wants("cosine") ? [{ at: "input", run: (event: TapEvent) => this.#each(event, (note, t) => { note.residual = rowOf(event, t); }) } as const] : []),
      ...(wants("logits") ? [{ at: "logits", run: (event: TapEvent) => this.#each(event, (note, t) => { note.logits = Array.from(rowOf(event, t).subarray(0, config.nExperts)); }) } as const] : []),
      { at: "selection", run: (event) => this.#each(event, (note, t) => {
        const { topK } = config.router;
        const ranks = Array.from({ length: topK }, (_, rank) => t * topK + rank).filter((at) => event.ids[at] !== NO_EXPERT);
        [note.ids, note.weights, note.isRouted] = [ranks.map((at) => event.ids[at]!), ranks.map((at) => event.weights[at]!), true];
      }) },
      ...(wants("norms", "cosine") ? [{ at: "expertOutput", run: (event: TapEvent) => this.#outputs(event) } as const] : []),
    ];
  }

  /** Notes so far, by token, then layer; they are forgotten. */
  take(request: number): TraceRecord[] {
    const records = [...this.#notes.values()].filter(({ isRouted }) => isRouted).sort((a, b) => a.token - b.token || a.layer - b.layer)
      .map(({ residual: _, isRouted: __, ...note }): TraceRecord => ({ request, ...note }));
    this.#notes.clear();
    return records;
  }

  #each({ layer, nTokens, positions }: TapEvent, run: (note: Note, t: number) => void): void {
    for (let t = 0; t < nTokens; t++) run(this.#note(layer, positions[t]!), t);
  }

  #note(layer: number, token: number): Note {
    const key = token * this.#config.nLayers + layer;
    let note = this.#notes.get(key);
    if (note === undefined) this.#notes.set(key, (note = { token, layer, ids: [], weights: [], isRouted: false }));
    return note;
  }

  #outputs({ layer, positions, values, rowLength: n, batch, nTokens }: TapEvent): void {
    const { residualMultiplier } = this.#config;
    // [token][rank], summed over an expert's segments.
    const outputs = Array.from({ length: nTokens }, (_, t) => this.#note(layer, positions[t]!).ids.map(() => new Float64Array(n)));
    for (let group = 0; group < batch!.nGroups; group++) {
      const expert = batch!.groupExpert[group]!;
      for (let i = batch!.groupStart[group]!, row = batch!.groupRow[group]!; i < batch!.groupStart[group + 1]!; i++, row++) {
        const t = batch!.groupTokens[i]!;
        const sum = outputs[t]![this.#note(layer, positions[t]!).ids.indexOf(expert)]!;
        for (let j = 0; j < n; j++) sum[j]! += values[row * n + j]!;
      }
    }
    for (let t = 0; t < nTokens; t++) {
      const note = this.#note(layer, positions[t]!);
      const of = outputs[t]!;
      if (this.#columns.has("norms")) note.norms = of.map((y) => Math.sqrt(y.reduce((sum, x) => sum + x * x, 0)));
      if (!this.#columns.has("cosine")) continue;
      let [xx, xy, yy] = [0, 0, 0];
      for (let j = 0; j < n; j++) {
        const x = note.residual![j]!;
        const y = x + residualMultiplier * of.reduce((sum, output, rank) => sum + note.weights[rank]! * output[j]!, 0);
        xx += x * x;
        xy += x * y;
        yy += y * y;
      }
      note.cosine = [xx === 0 || yy === 0 ? 0 : xy / Math.sqrt(xx * yy)];
    }
  }
}

const rowOf = ({ values, rowLength }: TapEvent, t: number): Float32Array => values.slice(t * rowLength, (t + 1) * rowLength);
