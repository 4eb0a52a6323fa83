// The errors of the way to one shard or stage: what failed for good, and whether asking again may help. Owns that each names the shard.
// Refuses to say what becomes of a step that met one (scheduler.ts), and what a shard itself answers (handshake.ts, protocol.ts).

/** A frame or a connection that failed for good: names shard, attempts and the last cause. */
export class ShardError extends Error {
  override readonly name = "ShardError";
  readonly shard: string;
  readonly retryable: boolean;
  constructor(shard: string, retryable: boolean, message: string) {
    super(message);
    this.shard = shard;
    this.retryable = retryable;
  }
}

/** Its shard is away, and whoever asked did not want to wait longer (step-terms.ts). */
export class AwayError extends ShardError {}

/** A cause as the end of a sentence: those that come from elsewhere may be sentences themselves. */
export const unended = (cause: string): string => cause.replace(/\.$/, "");
