// Every limit of the fleet in one frozen record, each with its reason.
// Owns the numbers that bound buffers, queues, waits and attempts of orchestrator, shards and the wire between them.
// Refuses: limits of the HTTP surface (worker/) and of the model itself (its manifest). Platform facts carry a date.

const KIB = 1024;
const MIB = 1024 * KIB;

export interface Limits {
  readonly isolateBytes: number;
  readonly memoryMaximumBytes: number;
  readonly readBufferBytes: number;
  readonly frameBytes: number;
  readonly inFlightBytes: number;
  readonly creditsPerSocket: number;
  readonly chunkTokens: number;
  readonly sharedChunkTokens: number;
  readonly draftTokens: number;
  readonly timelineLosses: number;
  readonly frameDeadlineMs: number;
  readonly prepareDeadlineMs: number;
  readonly drainMs: number;
  readonly frameAttempts: number;
  readonly backoffBaseMs: number;
  readonly warmingMs: number;
  readonly loadPollMs: number;
  readonly loadRetryMs: number;
  readonly shardNames: number;
  readonly activeGenerations: number;
  readonly queuedGenerations: number;
  readonly requestWaitMs: number;
  readonly generateBodyBytes: number;
  readonly stopIds: number;
  readonly logitBiases: number;
  readonly cacheScopeChars: number;
  readonly constraintChars: number;
  readonly compiledGrammars: number;
  readonly journalTokens: number;
  readonly journalMs: number;
  readonly reservationMs: number;
  readonly grammarBytes: number;
  readonly grammarMostBytes: number;
  readonly grammarStackBytes: number;
  readonly grammarDepth: number;
  readonly grammarRefs: number;
  readonly grammarRepeats: number;
  readonly grammarChars: number;
  readonly grammarWork: number;
  readonly topLogprobs: number;
  readonly resumeAttempts: number;
  readonly logitBytes: number;
  readonly lingerMs: number;
  readonly traceBytes: number;
}

export const LIMITS: Limits = Object.freeze({
  /** Weights, KV and frames of one object's isolate. The platform gives 128 MB to JS heap and WASM memory together (2026-11); the rest is code, JS heap and transient reads. */
  isolateBytes: 90 * MIB,
  /** Ceiling of the one linear memory, in shared mode where several objects live in one isolate: pointers are 32 bits and the last page stays unused. */
  memoryMaximumBytes: 4 * 1024 * MIB - 64 * KIB,
  /** Reads go through one reused buffer of this size: a bring-your-own-buffer read cannot fill WASM memory itself, which is not detachable (2026-11). */
  readBufferBytes: MIB,
  /** One frame, header included: far below the platform's 32 MiB, so that a frame never delays the next one for long. */
  frameBytes: MIB,
  /** Frames in flight from one isolate, requests and expected replies together: WebSockets here have no backpressure (2026-11). */
  inFlightBytes: 8 * MIB,
  /** Requests in flight per socket: one computing, one waiting, so the shard never idles and never queues more. */
  creditsPerSocket: 2,
  /** Tokens of one step: beyond this a step gains no speed and delays the others in the batch. */
  chunkTokens: 512,
  /** Prompt tokens of a step that also carries generations under way: each waits for the whole step, and pieces of eight fill up at this size too. */
  sharedChunkTokens: 128,
  /** Guesses after one generation's last token: with it they make one piece of eight, the widest the matrix products take at once. 0 = none. */
  draftTokens: 7,
  /** Times in a row that a generation's KV cache may be lost with a stage before it is given up: each costs the evaluation of all its tokens. */
  timelineLosses: 8,
  /** A frame not answered in this time is tried again: an abort may lose what was sent and a send on a dead socket succeeds silently (2026-11). */
  frameDeadlineMs: 5_000,
  /** A handshake call that does not answer: longer than a frame's, since the object may be starting in another place. */
  prepareDeadlineMs: 20_000,
  /** Pause in which queued messages are delivered before a deadline counts: a long computation in this isolate must not fail its neighbours. */
  drainMs: 10,
  /** Tries of one frame in all; a shard that fails four times in a row is not coming back within a step. */
  frameAttempts: 4,
  /** Full-jitter backoff: uniform in [0, base * 2^attempt). */
  backoffBaseMs: 50,
  /** How long a shard may keep answering that it is loading: 90 MiB at the slowest R2 rate seen (a few MiB/s, 2026-11), with room. */
  warmingMs: 120_000,
  /** How long `prepare` waits for a load to finish before it answers with progress, and the pause it then asks for. */
  loadPollMs: 250,
  /** After a failed load, being asked for health does not start another for this long: a damaged pack must not be read over and over. */
  loadRetryMs: 10_000,
  /** Names tried for a shard that keeps landing in a shared isolate (strict mode). */
  shardNames: 3,
  /** Generations in one batch: the decode tokens of one step. */
  activeGenerations: 32,
  /** Generations that wait for a place or for KV memory; beyond that a request is refused at once instead of timing out later. */
  queuedGenerations: 64,
  /** How long a request waits for a model that is loading before it gets a `warming` answer. */
  requestWaitMs: 20_000,
  /** JSON body of /generate: a prompt of token ids for the longest context served, twice over. */
  generateBodyBytes: 4 * MIB,
  /** Stop ids compared with every token. */
  stopIds: 64,
  /** Biased tokens of a request; more would be a mask, which a grammar is for. OpenAI names no number, its cookbook shows a handful. */
  logitBiases: 1024,
  /** A digest of a key, and what else must be alike. */
  cacheScopeChars: 256,
  /** A schema or grammar as text; compiling takes time on the thread of the token loop. OpenAI allows 15,000 characters of names. */
  constraintChars: 64 * 1024,
  /** Compiled grammars kept for the next request that asks for the same. */
  compiledGrammars: 16,
  /** Tokens of a reply between two writes of its journal: storage takes about 1,000 writes a second, and what is not written is drawn again. */
  journalTokens: 16,
  /** A stream that dropped may be continued for so long. */
  journalMs: 10 * 60_000,
  /** Tokens set aside for a reply whose Worker died come back after this long: three times the longest deadline of a request (worker/limits.ts), which few replies take. */
  reservationMs: 30 * 60_000,
  /** Memory of the grammar library, from which it forgets what it has compiled, and begins anew as soon as nobody uses it: it lies in the isolate's 128 MB beside weights and KV cache. */
  grammarBytes: 24 * MIB,
  /** And from which no new grammar is compiled while others are in use. */
  grammarMostBytes: 32 * MIB,
  /** Its stack. The 64 KiB it is built with are spent by 64 objects within each other, and what lies beyond is its own data (XGrammar 0.1.27, 2026-11). */
  grammarStackBytes: MIB,
  /** Brackets within brackets of a schema or a grammar: a ninth of what the stack has room for. */
  grammarDepth: 100,
  /** References of a schema, which may lead from one to the next: the stack has room for 800. */
  grammarRefs: 400,
  /** How often something may come in all where repetitions nest: twice 128, from where the library unfolds differently and takes minutes. */
  grammarRepeats: 128 * 128,
  /** Characters of a grammar with everything unfolded. */
  grammarChars: 512 * KIB,
  /** Wide character classes times tokens of the vocabulary: about 8 s of compiling on one core of an EPYC (Zen 3), during which nobody gets a token. */
  grammarWork: 2 ** 24,
  /** Alternatives reported per token, as the OpenAI API has it. */
  topLogprobs: 20,
  /** How often a broken stream is continued before the caller gets an error. */
  resumeAttempts: 4,
  /** Logit rows of one step when a prompt is scored: a long vocabulary times a whole chunk would not fit beside the weights. */
  logitBytes: 8 * MIB,
  /** How long sockets to shards stay open without work: an open one keeps this object in memory, and billed (2026-11). */
  lingerMs: 60_000,
  /** Sampled routing that is kept: the last 1,000 tokens of a model with 48 layers and 8 experts per token, in JS heap beside the 90 MiB. */
  traceBytes: 2 * MIB,
});
