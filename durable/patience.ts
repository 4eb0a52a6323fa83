// How long a frame or a `connect` goes on with shards that fail it: wrong answers are counted, silence is timed. docs/protocol.md section 3 ("Lost lines", "Wrong answers").
// Owns both counts, and that even a wrong answer ends a silence. Refuses who else may answer meanwhile, and the errors that come of it (outgoing-frame.ts, shard-line.ts).

import type { Limits } from "./limits.ts";

export class Patience {
  /** Wrong answers, as opposed to none. */
  wrong = 0;
  /** Since when nobody answers; -1 while somebody does. */
  lostSinceMs = -1;

  /** `before`: whose counts it goes on with. */
  constructor(before: Readonly<Patience> | null = null) {
    if (before === null) return;
    this.wrong = before.wrong;
    this.lostSinceMs = before.lostSinceMs;
  }

  /** It has failed once more. `answered`: wrongly, by somebody; otherwise nobody answered. */
  failed(answered: boolean, nowMs: number): void {
    if (answered) {
      this.wrong++;
      this.lostSinceMs = -1;
    } else if (this.lostSinceMs < 0) this.lostSinceMs = nowMs;
  }

  /** How long nobody has answered by now, in milliseconds. */
  lostMs(nowMs: number): number {
    return this.lostSinceMs < 0 ? 0 : nowMs - this.lostSinceMs;
  }

  hadEnoughOfAnswers({ frameAttempts }: Pick<Limits, "frameAttempts">): boolean {
    return this.wrong >= frameAttempts;
  }

  hadEnoughOfSilence({ outageMs }: Pick<Limits, "outageMs">, nowMs: number): boolean {
    return this.lostMs(nowMs) >= outageMs;
  }
}
