// Decides whether drafts pay. A drafted step saves round trips when its guesses hold and costs extra experts and products when they do
// not; which side wins depends on the model, the fleet and the company in the batch, so both are measured while serving.
// Owns running milliseconds per token with and without drafts, by the number of generations in a step, and one generation's draft length.
// Refuses any influence on results: a draft never changes what is said (docs/architecture.md), only when.

/** Steps that make one measurement: their sum stands clear of a clock of one millisecond. */
const WINDOW_STEPS = 16;
/** Windows of the better way between two looks at the other: a sixteenth of the time is spent on learning. */
const WINDOWS_PER_LOOK = 16;

interface Measured {
  ms: number;
  tokens: number;
  steps: number;
}

/** One size of company: 1, 2-3, 4-7, ... generations in a step. */
class Company {
  /** Milliseconds per token of the last full window, plain and drafted; null before there is one. */
  readonly msPerToken: [number | null, number | null] = [null, null];
  readonly #window: [Measured, Measured] = [{ ms: 0, tokens: 0, steps: 0 }, { ms: 0, tokens: 0, steps: 0 }];
  #windowsSinceLook = 0;

  get drafts(): boolean {
    const [plain, drafted] = this.msPerToken;
    if (drafted === null) return true;
    if (plain === null) return false;
    const better = drafted < plain;
    return this.#windowsSinceLook >= WINDOWS_PER_LOOK ? !better : better;
  }

  note(way: 0 | 1, ms: number, tokens: number): void {
    const window = this.#window[way];
    window.ms += ms;
    window.tokens += tokens;
    if (++window.steps < WINDOW_STEPS) return;
    const [plain, drafted] = this.msPerToken;
    const isLook = plain !== null && drafted !== null && (way === 1) !== (drafted < plain);
    this.#windowsSinceLook = isLook ? 0 : this.#windowsSinceLook + 1;
    this.msPerToken[way] = window.ms / window.tokens;
    this.#window[way] = { ms: 0, tokens: 0, steps: 0 };
  }
}

export class DraftGate {
  readonly #companies: Company[] = [];

  /** Whether the next step of `nGenerations` may carry drafts. */
  allows(nGenerations: number): boolean {
    return this.#company(nGenerations).drafts;
  }

  /** A step without prompts took `ms` and said `tokens` tokens; `drafted` when it carried at least one guess. */
  note(nGenerations: number, drafted: boolean, ms: number, tokens: number): void {
    this.#company(nGenerations).note(drafted ? 1 : 0, ms, tokens);
  }

  #company(nGenerations: number): Company {
    const at = 31 - Math.clz32(nGenerations);
    return (this.#companies[at] ??= new Company());
  }
}

/** Length of one generation's next draft: it grows while whole drafts hold and shrinks when nothing of one does. */
export class DraftLength {
  readonly #most: number;
  #now: number;

  constructor(most: number) {
    this.#most = most;
    this.#now = Math.min(2, most);
  }

  get tokens(): number { return this.#now; }

  note(drafted: number, held: number): void {
    if (held === drafted) this.#now = Math.min(this.#most, 2 * this.#now + 1);
    else if (held === 0) this.#now = Math.max(1, this.#now >> 1);
  }
}
