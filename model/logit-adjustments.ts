// What a request does to logits before they are sampled: a bias for single tokens, and penalties for tokens that were there already.
// Owns their arithmetic and order: bias, then repetition, then frequency and presence, each rounded to f32. Refuses anything that looks at
// other requests or at the batch: an adjusted row is a function of the row, the parameters and the tokens before it.
// Sources: repetition penalty: CTRL (arXiv 1909.05858, section 4.1), over prompt and reply; frequency and presence: OpenAI's API reference, over the reply.

const fround = Math.fround;

export interface LogitAdjustments {
  /** Added to the logits of single tokens: [id, value]. */
  readonly bias: readonly (readonly [id: number, value: number])[];
  /** Positive logits of known tokens are divided by it, negative ones multiplied; 1 = none. */
  readonly repetitionPenalty: number;
  /** Taken off once for each time a token is in the reply; 0 = none. */
  readonly frequencyPenalty: number;
  /** Taken off once where a token is in the reply; 0 = none. */
  readonly presencePenalty: number;
}

/** Something between a generation's logits and its sampling. It sees every token of the reply, in order. */
export interface LogitStage {
  /** A row [vocab] to sample from instead, good until a stage is asked again; the given one is left as it is. -Infinity forbids a token; at least one is left. */
  apply(row: Float32Array): Float32Array;
  /** The tokens that `apply` leaves, ascending, where they are few; null or absent where they are many, or nobody counts. Good until the next `push`. */
  readonly candidates?: Uint32Array | null;
  push(id: number): void;
  /** Nothing may follow: the reply is complete. */
  readonly isComplete: boolean;
  /** Lets go of what it holds. Nothing is called after it. */
  dispose(): void;
}

/** Which tokens a generation has seen, kept up token by token. */
export class TokenHistory {
  readonly #prompt: ReadonlySet<number>;
  /** How often each token is in the reply. */
  readonly #reply = new Map<number, number>();

  constructor(promptIds: readonly number[]) {
    this.#prompt = new Set(promptIds);
  }

  push(id: number): void {
    this.#reply.set(id, (this.#reply.get(id) ?? 0) + 1);
  }

  /** Ids of prompt and reply, each once. */
  *known(): Generator<number> {
    yield* this.#prompt;
    for (const id of this.#reply.keys()) if (!this.#prompt.has(id)) yield id;
  }

  /** [id, times] of the reply. */
  reply(): Iterable<readonly [number, number]> {
    return this.#reply;
  }
}

/** The stage of adjustments for one generation. */
export function adjustmentStage(adjustments: LogitAdjustments, promptIds: readonly number[]): LogitStage {
  const history = new TokenHistory(promptIds);
  return { apply: (row) => adjustedLogits(row, adjustments, history), push: (id) => history.push(id), isComplete: false, dispose: () => {} };
}

/** Stages one after another; null where there are none. */
export function stagesInOrder(stages: readonly LogitStage[]): LogitStage | null {
  if (stages.length === 0) return null;
  return {
    apply: (row) => stages.reduce((last, stage) => stage.apply(last), row),
    get candidates() { return stages.at(-1)!.candidates ?? null; },
    push: (id) => { for (const stage of stages) stage.push(id); },
    get isComplete() { return stages.some((stage) => stage.isComplete); },
    dispose: () => { for (const stage of stages) stage.dispose(); },
  };
}

/** A copy of the row [vocab] with everything applied. Ids beyond the row are refused at the API, and skipped here. */
export function adjustedLogits(row: Float32Array, { bias, repetitionPenalty, frequencyPenalty, presencePenalty }: LogitAdjustments, history: TokenHistory): Float32Array {
  const out = row.slice();
  for (const [id, value] of bias) if (id < out.length) out[id]! += value;
  if (repetitionPenalty !== 1) {
    for (const id of history.known()) if (id < out.length) out[id] = out[id]! > 0 ? out[id]! / repetitionPenalty : out[id]! * repetitionPenalty;
  }
  if (frequencyPenalty !== 0 || presencePenalty !== 0) {
    for (const [id, times] of history.reply()) if (id < out.length) out[id]! -= fround(fround(frequencyPenalty * times) + presencePenalty);
  }
  return out;
}
