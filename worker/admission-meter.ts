// Counts what a reply really uses while it is said: the pieces that pass through its form, as `usage` would count them. Owns the end of the count, which comes
// once: with the reply's last piece, its failure, or its reader's leaving. Refuses to change anything of the reply.

import type { Piece } from "./generation.ts";
import type { Reply, ReplyForm } from "./reply-form.ts";

export interface Meter {
  /** The reply, counted as it is read. */
  readonly reply: Reply;
  /** Tokens of the prompts and of the longest replies. */
  readonly mostTokens: number;
  /** Tokens used, once the reply has ended. */
  readonly ended: Promise<number>;
  end(): void;
}

export function meterOf(reply: Reply): Meter {
  const { choices } = reply;
  /** A prompt counts once, however many choices it has. */
  const prompts = new Map(choices.map(({ promptIndex, input }) => [promptIndex, input.request.promptIds.length]));
  const sum = (counts: Iterable<number>): number => [...counts].reduce((total, n) => total + n, 0);
  const begun = new Set<number>();
  const said = choices.map(() => 0);
  let settle!: (usedTokens: number) => void;
  const ended = new Promise<number>((resolve) => { settle = resolve; });
  const end = (): void => settle(sum([...begun].map((index) => prompts.get(index)!)) + sum(said));
  const count = (index: number, piece: Piece): void => {
    // The echo of a prompt is shown before anything is evaluated.
    if (piece.kind === "prompt" && piece.tokens.length === 0) return;
    begun.add(choices[index]!.promptIndex);
    if (piece.kind === "token") said[index]!++;
  };
  const metered = (form: ReplyForm): ReplyForm => {
    const last = <T>(value: T): T => {
      end();
      return value;
    };
    return {
      opening: () => form.opening(),
      add: (index, piece) => {
        count(index, piece);
        return form.add(index, piece);
      },
      closing: () => last(form.closing()),
      failure: (error) => last(form.failure(error)),
      document: () => last(form.document()),
    };
  };
  return { reply: { ...reply, form: (head) => metered(reply.form(head)) }, mostTokens: sum(prompts.values()) + sum(choices.map(({ input }) => input.request.maxTokens)), ended, end };
}
