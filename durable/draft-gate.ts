// Decides whether drafts pay. A drafted step saves round trips when its guesses hold and costs extra experts and products when they do
// not; which side wins depends on the model, the fleet and the company in the batch, so both are measured while serving.
// Owns running milliseconds per token with and without drafts, by the number of generations in a step, and one generation's draft length.
// Refuses any influence on results: a draft never changes what is said (docs/architecture.md), only when.

/** What makes one measurement: enough steps to even out, enough time to stand clear of a clock of one millisecond. */
const WINDOW_STEPS = 4;
const WINDOW_MS = 25;
/** Windows of the better way before the other is looked at again. A look that changes nothing doubles the pause, up to the second figure. */
const FIRST_PAUSE_WINDOWS = 16;
const LAST_PAUSE_WINDOWS = 1024;

interface Measured {
  ms: number;
  tokens: number;
  steps: number;
}
const nothing = (): Measured => ({ ms: 0, tokens: 0, steps: 0 });

/** One size of company: 1, 2-3, 4-7, ... generations in a step. */
class Company {
  /** Milliseconds per token of the last full window, plain and drafted; null before there is one. */
  readonly #msPerToken: [number | null, number | null] = [null, null];
  readonly #window: [Measured, Measured] = [nothing(), nothing()];
  #sinceLook = 0;
  #pause = FIRST_PAUSE_WINDOWS;

  /** Whether drafts were faster when both ways were last measured; null before they were. */
  get #draftsAreFaster(): boolean | null {
    const [plain, drafted] = this.#msPerToken;
    return plain === null || drafted === null ? null : drafted < plain;
  }

  get drafts(): boolean {
    // Drafts cannot be had at will, plain steps can: measure them first.
    const faster = this.#draftsAreFaster ?? this.#msPerToken[0] !== null;
    return this.#sinceLook >= this.#pause ? !faster : faster;
  }

  note(way: 0 | 1, ms: number, tokens: number): void {
    const window = this.#window[way];
    window.ms += ms;
    window.tokens += tokens;
    window.steps++;
    if (window.steps < WINDOW_STEPS || window.ms < WINDOW_MS) return;
    const before = this.#draftsAreFaster;
    this.#msPerToken[way] = window.ms / window.tokens;
    this.#window[way] = nothing();
    const after = this.#draftsAreFaster;
    if (before === null) return;
    if ((way === 1) === before) {
      this.#sinceLook++;
      return;
    }
    this.#sinceLook = 0;
    this.#pause = before === after ? Math.min(LAST_PAUSE_WINDOWS, 2 * this.#pause) : FIRST_PAUSE_WINDOWS;
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
