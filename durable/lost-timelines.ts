// What an engine says when the KV cache behind its timelines is gone: a stage of the ring was reset. Owns the word alone.
// The scheduler rebuilds such timelines from their tokens, which it has; the numbers are the same, so nobody but the clock notices.

export class LostTimelinesError extends Error {
  override readonly name = "LostTimelinesError";
}
