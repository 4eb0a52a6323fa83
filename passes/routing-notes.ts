// What the taps of a step tell of routing, as records of the trace: choices and weights, logits, norms of what experts gave, and how far they turned the residual.
// Owns the notes of one step of one sequence. Refuses steps of several timelines. Formulas: norms and cosine as EASY-EP's score reads them (2025).

import type { TraceColumn, TraceRecord } from "../formats/trace.ts";
import type { ModelConfig } from "../model/config.ts";
import type { Tap, TapEvent } from "../model/taps.ts";

interface Note {
  readonly token: number;
  readonly layer: number;
  ids: number[];
  weights: number[];
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
        note.ids = Array.from(event.ids.subarray(t * topK, (t + 1) * topK));
        note.weights = Array.from(event.weights.subarray(t * topK, (t + 1) * topK));
      }) },
      ...(wants("norms", "cosine") ? [{ at: "expertOutput", run: (event: TapEvent) => this.#outputs(event) } as const] : []),
    ];
  }

  /** Notes so far, by token, then layer; they are forgotten. */
  take(request: number): TraceRecord[] {
    const records = [...this.#notes.values()].filter(({ ids }) => ids.length > 0).sort((a, b) => a.token - b.token || a.layer - b.layer)
      .map(({ residual: _, ...note }): TraceRecord => ({ request, ...note }));
    this.#notes.clear();
    return records;
  }

  #each({ layer, nTokens, positions }: TapEvent, run: (note: Note, t: number) => void): void {
    for (let t = 0; t < nTokens; t++) run(this.#note(layer, positions[t]!), t);
  }

  #note(layer: number, token: number): Note {
    const key = token * this.#config.nLayers + layer;
    let note = this.#notes.get(key);
    if (note === undefined) this.#notes.set(key, (note = { token, layer, ids: [], weights: [] }));
    return note;
  }

  #outputs({ layer, positions, values, rowLength: n, batch, nTokens }: TapEvent): void {
    const { router: { topK }, residualMultiplier } = this.#config;
    // [token][rank], summed over an expert's segments.
    const outputs = Array.from({ length: nTokens }, () => Array.from({ length: topK }, () => new Float64Array(n)));
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
