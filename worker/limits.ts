// Every limit of the edge in one record, each with its reason. Limits of frames, KV and memory live with their owners in durable/ and model/.

export const EDGE_LIMITS = {
  /** One isolate has 128 MB for all requests in it; the longest context of any pack fits many times over. */
  bodyBytes: 1024 * 1024,
  /** Evaluation harnesses send 8 to 32 prompts at once; more only wait in the queue and hold memory. */
  promptsPerRequest: 64,
  /** OpenAI allows 128; each choice is a generation of its own here. */
  choicesPerPrompt: 8,
  /** Generations of one request that run at the same time; the rest wait their turn, so that one request cannot fill the batch alone. */
  generationsAtOnce: 8,
  /** OpenAI's number. Each is searched for after every token. */
  stopStrings: 4,
  /** Text held back while it might still become a stop string is at most this long. */
  stopStringChars: 256,
  /** OpenAI's number for completions. */
  completionLogprobs: 5,
  /** OpenAI's number for chat. */
  chatTopLogprobs: 20,
  /** OpenAI's number. Their descriptions count as prompt. */
  tools: 128,
  /** A conversation longer than this does not fit any context this server holds. */
  messages: 1024,
  /** A reply that is not streamed and takes longer writes a space per token, to notice a reader who left. */
  quietReplyMs: 500,
  /** Keys of each scope. Several, so that one can be replaced while another is in use; every request is compared with all of them. */
  apiKeys: 64,
  /** The rate binding counts this many units a minute, of which a request takes its key's share (docs/deploy.md): no key can have more requests. */
  requestsPerMinute: 60_000,
  /** Calls of a budget object that fails: it may be reset or moved under one, which the next finds in its new place. */
  budgetAttempts: 3,
  /** The longest a request may ask its replies to be worked on: a reply that is kept for resumption is kept no longer either. */
  deadlineMs: 10 * 60_000,
} as const;
