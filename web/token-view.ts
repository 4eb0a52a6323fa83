// The text on the page as tokens, and how a layer colours them. Traces of all layers stay here, so moving the slider recolours at once.
// Owns the spans of the output, the one that is looked at, and the shares of the experts. Refuses to know the network.

import { barOf, tintOf } from "./colours.ts";
import type { TokenTrace, TraceFrame } from "../worker/wire-types.ts";

export interface Trace {
  /** Expert ids in rank order, per MoE layer: [layer][rank]. */
  readonly experts: readonly (readonly number[])[];
  /** Their weights in the same order, summing to 1 in each layer. */
  readonly weights: readonly (readonly number[])[];
  /** The shard of each, in the same order, null in the orchestrator itself; undefined where the server tells none. */
  readonly shards: TokenTrace["shards"];
  /** The frames that took the token to them, per layer; undefined where the server tells none. */
  readonly frames: readonly (readonly TraceFrame[])[] | undefined;
}

/** A trace as the API sends it. Weights are normalised; where a server leaves them out, the rank stands in (1, 1/2, 1/3 ...). */
export function traceOf(sent: TokenTrace): Trace {
  const weights = sent.experts.map((experts, layer) => {
    const given = sent.weights?.[layer] ?? experts.map((_, rank) => 1 / (rank + 1));
    const total = given.reduce((sum, weight) => sum + weight, 0) || 1;
    return given.map((weight) => weight / total);
  });
  return { experts: sent.experts, weights, shards: sent.shards, frames: sent.frames };
}

export interface ShownToken {
  readonly id: number;
  readonly text: string;
  readonly trace: Trace | null;
  readonly span: HTMLSpanElement;
}

export class TokenView {
  readonly tokens: ShownToken[] = [];
  layer = 0;
  /** Only tokens that use this expert are shown in full colour; null = all. */
  onlyExpert: number | null = null;
  /** The token whose experts the heat map outlines: the newest one, or the one looked at since. */
  lit: ShownToken | null = null;
  onLook: (token: ShownToken | null) => void = () => {};
  #output: HTMLElement;
  #looked: ShownToken | null = null;
  /** Summed weights of all tokens, [layer][expert]: kept up, so that a long text costs no more per token than a short one. */
  #sums: number[][] = [];
  readonly #ofSpan = new Map<EventTarget, ShownToken>();

  constructor(output: HTMLElement) {
    this.#output = output;
    output.addEventListener("pointerover", (event) => this.#look(this.#tokenOf(event.target)));
    output.addEventListener("click", (event) => this.#look(this.#tokenOf(event.target)));
    output.addEventListener("keydown", (event) => {
      const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
      const traced = this.tokens.filter((token) => token.trace !== null);
      if (step === 0 || traced.length === 0) return;
      event.preventDefault();
      const at = this.#looked === null ? (step > 0 ? -1 : traced.length) : traced.indexOf(this.#looked);
      const next = traced[Math.min(traced.length - 1, Math.max(0, at + step))]!;
      this.#look(next);
      next.span.scrollIntoView({ block: "nearest" });
    });
  }

  clear(): void {
    this.tokens.length = 0;
    this.#sums = [];
    this.#ofSpan.clear();
    this.#output.replaceChildren();
    this.#looked = null;
    this.lit = null;
    this.onLook(null);
  }

  /** Adds a token to `parent`, a block inside the output. */
  add(parent: HTMLElement, id: number, text: string, trace: Trace | null): void {
    const span = document.createElement("span");
    span.className = trace === null ? "token plain" : "token";
    span.textContent = text;
    // A token that ends a line would leave nothing to point at: its mark shows where it is.
    if (trace !== null && /^\n+$/.test(text)) span.dataset["mark"] = "↵";
    const token = { id, text, trace, span };
    this.tokens.push(token);
    if (trace !== null) {
      this.#ofSpan.set(span, token);
      this.lit = token;
    }
    trace?.experts.forEach((experts, layer) => {
      const sums = (this.#sums[layer] ??= []);
      experts.forEach((expert, i) => (sums[expert] = (sums[expert] ?? 0) + (trace.weights[layer]?.[i] ?? 0)));
    });
    this.#paint(token);
    parent.append(span);
  }

  repaint(): void {
    this.tokens.forEach((token) => this.#paint(token));
    this.onLook(this.#looked);
  }

  /** Share of each expert's weight in a layer over all traced tokens, [nExperts], summing to 1; to 0 where there are none. */
  shares(nExperts: number, layer = this.layer): number[] {
    const sums = Array.from({ length: nExperts }, (_, expert) => this.#sums[layer]?.[expert] ?? 0);
    const total = sums.reduce((sum, share) => sum + share, 0) || 1;
    return sums.map((share) => share / total);
  }

  #tokenOf(target: EventTarget | null): ShownToken | null {
    return target === null ? null : this.#ofSpan.get(target) ?? null;
  }

  #look(token: ShownToken | null): void {
    if (token === null || token === this.#looked) return;
    this.#looked?.span.classList.remove("looked");
    token.span.classList.add("looked");
    this.#looked = token;
    this.lit = token;
    this.onLook(token);
  }

  #paint({ span, trace }: ShownToken): void {
    const experts = trace?.experts[this.layer];
    const weights = trace?.weights[this.layer];
    if (experts === undefined || weights === undefined) return;
    if (experts.length === 0) {
      // It did without all experts of this layer: nothing of another layer's may stay.
      for (const property of ["--tint", "--bar"]) span.style.removeProperty(property);
      span.classList.toggle("dimmed", this.onlyExpert !== null);
      return;
    }
    const total = weights.reduce((sum, weight) => sum + weight, 0) || 1;
    span.style.setProperty("--tint", tintOf(experts[0]!, weights[0]! / total));
    span.style.setProperty("--bar", barOf(experts, weights));
    span.classList.toggle("dimmed", this.onlyExpert !== null && !experts.includes(this.onlyExpert));
  }
}
