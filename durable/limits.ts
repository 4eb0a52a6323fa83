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
  readonly ringProbeMs: number;
  readonly ringSilenceMs: number;
  readonly ringStepMs: number;
  readonly stageFiguresMs: number;
  readonly frameDeadlineMs: number;
  readonly prepareDeadlineMs: number;
  readonly drainMs: number;
  readonly frameAttempts: number;
  readonly backoffBaseMs: number;
  readonly backoffMostMs: number;
  readonly outageMs: number;
  readonly degradeAfterMs: number;
  readonly latencySamples: number;
  readonly latencyLeastSamples: number;
  readonly deadlineFactor: number;
  readonly deadlineFloorMs: number;
  readonly hedgeFloorMs: number;
  readonly directoryMs: number;
  readonly warmingMs: number;
  readonly loadPollMs: number;
  readonly loadRetryMs: number;
  readonly shardNames: number;
  readonly servedEpochs: number;
  readonly donorReadBytes: number;
  readonly donorReads: number;
  readonly donorDeadlineMs: number;
  readonly donorFaults: number;
  readonly storeAttempts: number;
  readonly storeStallMs: number;
  readonly cacheRowBytes: number;
  readonly cacheBatchBytes: number;
  readonly cachePauseMs: number;
  readonly cachePauses: number;
  readonly cacheBytes: number;
  readonly manifestMs: number;
  readonly keepWarmMs: number;
  readonly keepWarmCheckMs: number;
  readonly keepWarmRestMs: number;
  readonly activeGenerations: number;
  readonly queuedGenerations: number;
  readonly requestWaitMs: number;
  readonly generateBodyBytes: number;
  readonly stopIds: number;
  readonly logitBiases: number;
  readonly cacheScopeChars: number;
  readonly interventions: number;
  readonly routingChars: number;
  readonly profiles: number;
  readonly profileBytes: number;
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
  readonly directoryPauseMs: number;
  readonly directoryPauseMostMs: number;
  readonly planWarmMs: number;
  readonly adoptDeadlineMs: number;
  readonly laneLeaseMs: number;
  readonly planDrainMs: number;
  readonly planRetireMs: number;
  readonly pastChanges: number;
  readonly recentFaults: number;
  readonly knownLanes: number;
  readonly replicaTickMs: number;
  readonly pingEveryMs: number;
  readonly pingDeadlineMs: number;
  readonly laneTableMs: number;
  readonly laneTableOldMs: number;
  readonly coldWaitMs: number;
  readonly breaksHere: number;
  readonly silentMs: number;
  readonly reportMs: number;
  readonly reportKeepMs: number;
  readonly lineFaults: number;
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
  /** While steps are under way and nothing comes from the ring for so long, it is asked whether it stands. */
  ringProbeMs: 2_000,
  /** A ring that does not answer for so long is built anew: longer than a stage computes without a pause (a prompt's chunk on a slow core). */
  ringSilenceMs: 10_000,
  /** A step that has not come back by then is sent again in a new ring: what a stage may wait for a shard (outageMs), and some more. */
  ringStepMs: 90_000,
  /** How long a report, or whoever asks for metrics, waits for the counters of the other stages: those that were heard last will do. */
  stageFiguresMs: 1_000,
  /** Longest time to an answer before a frame counts as lost: an abort may lose what was sent and a send on a dead socket succeeds silently (2026-11). */
  frameDeadlineMs: 5_000,
  /** A handshake call that does not answer: longer than a frame's, since the object may be starting in another place. */
  prepareDeadlineMs: 20_000,
  /** Pause in which queued messages are delivered before a deadline counts: a long computation in this isolate must not fail its neighbours. */
  drainMs: 10,
  /** Wrong answers to one frame; a shard that errs four times in a row will not be right within a step. */
  frameAttempts: 4,
  /** Full-jitter backoff: uniform in [0, base * 2^failures). */
  backoffBaseMs: 50,
  /** Ceiling of that backoff: a process that comes back after seconds is found soon after. */
  backoffMostMs: 2_000,
  /** How long a line that cannot be opened, or says nothing, holds a step up before it fails: a process or object that restarts takes seconds, reading its weights again has `warmingMs`. */
  outageMs: 60_000,
  /** How long a shard may be away before steps of those who rather go on without its experts do: a socket that broke is back in tens of milliseconds, an evicted object with its weights in a cache in about a second. */
  degradeAfterMs: 2_000,
  /** Round trips remembered of each line and size class: a few steps' worth, so that a shard that grows slow is known as such soon. */
  latencySamples: 64,
  /** Fewest of them that say anything: a 95th percentile of less is the largest by chance. */
  latencyLeastSamples: 16,
  /** A frame's deadline over the longest recent round trip: a reconnect repeats all that was under way. */
  deadlineFactor: 4,
  /** Shortest deadline: a garbage collection, a neighbour's computation or the whole-millisecond clock (2026-11) must not look like a dead socket. */
  deadlineFloorMs: 1_000,
  /** Soonest hedge: two drains, below which a clock of whole milliseconds that stands still during computation (2026-11) tells nothing. */
  hedgeFloorMs: 20,
  /** How long an orchestrator that starts waits for the directory: losing it freezes scaling only. */
  directoryMs: 2_000,
  /** How long a shard may keep answering that it is loading: 90 MiB at the slowest R2 rate seen (a few MiB/s, 2026-11), with room. */
  warmingMs: 120_000,
  /** How long `prepare` waits for a load to finish before it answers with progress, and the pause it then asks for. */
  loadPollMs: 250,
  /** After a failed load, being asked for health does not start another for this long: a damaged pack must not be read over and over. */
  loadRetryMs: 10_000,
  /** Names tried for a shard that keeps landing in a shared isolate (strict mode). */
  shardNames: 3,
  /** Epochs one shard serves at a time: the one in force, the next, and those of lanes that lag; more means that nobody retires them. */
  servedEpochs: 8,
  /** Bytes of one answer between shards: an extent, the unit that has a hash. */
  donorReadBytes: 4 * MIB,
  /** Such answers on their way to one shard: each lies in its JS heap beside the 90 MiB. */
  donorReads: 2,
  /** A donor that does not answer: 4 MiB between regions at the slowest rate seen of the store, which is asked next. */
  donorDeadlineMs: 3_000,
  /** Times a donor may have nothing to give before it is passed over for the rest of a load; a lie, a failure and silence count as so many. */
  donorFaults: 3,
  /** Tries of one read of the store, jittered as those of a frame; what came before a failure is not read again where the store has ranges. */
  storeAttempts: 4,
  /** A read of the store in which not a byte comes for so long is begun again: R2 shows 4 s at its 95th percentile (2026-11). */
  storeStallMs: 10_000,
  /** One row of the weight cache: the platform allows 2 MB (2026-11), and half a row less is copied at a time. */
  cacheRowBytes: MIB,
  /** Written to the cache in one turn: at least one extent; messages sent meanwhile wait for it. */
  cacheBatchBytes: 4 * MIB,
  /** Between two such writes. */
  cachePauseMs: 50,
  /** A shard that answers frames puts a write off so often: three seconds in all. */
  cachePauses: 60,
  /** Weights above this are not cached: no isolate of the platform holds as much, so they lie on a local machine with the store beside them. */
  cacheBytes: 128 * MIB,
  /** How long an object that has a manifest of its own waits for the store's: R2 shows 4 s at its 95th percentile for far more bytes (2026-11). */
  manifestMs: 5_000,
  /** Between calls that keep an object's memory (KEEP_WARM): the platform hibernates after 10 s (2026-11), and a call may be late. The price goes by it (fleet/prices.ts). */
  keepWarmMs: 8_000,
  /** How often an orchestrator that is kept warm asks the store whether its revision is still the current one. */
  keepWarmCheckMs: 10 * 60_000,
  /** Pause after which an object that nobody asks anything has lost its memory: the platform evicts after 140 s at the latest (2026-11). */
  keepWarmRestMs: 180_000,
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
  /** Interventions of a request, those of its profile included: each is looked at for every token and layer. */
  interventions: 16,
  /** What a request asks of routing, as JSON: half of the experts of 94 layers with 128 are named in 22 KiB. It goes round a ring with every step, and 32 of them leave a quarter of a frame. */
  routingChars: 24 * KIB,
  /** Profiles of routing that a deployment keeps: a person chooses among them by name. */
  profiles: 64,
  /** One of them: what it does (routingChars), and how it was found, such as a number for each expert of 48 layers with 128. A row of SQLite takes 2 MB (2026-11). */
  profileBytes: 128 * KIB,
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
  /** The directory asks again after so long, twice as long after each time that brought nothing, jittered: loading takes seconds. */
  directoryPauseMs: 250,
  /** And at most after so long: an alarm is a billed request, and nobody waits for a change of plan. */
  directoryPauseMostMs: 5_000,
  /** A change whose shards are not warm by then is given up: five times the longest load of one shard (warmingMs), since all load at the same time. */
  planWarmMs: 10 * 60_000,
  /** One call of `adopt`: it connects warm shards and waits for the end of a step, which may be one of 512 tokens on slow shards. */
  adoptDeadlineMs: 60_000,
  /** An orchestrator that has neither called nor answered for so long is gone: it registers again before it serves. Twice what one call of `adopt` may take. */
  laneLeaseMs: 120_000,
  /** Between the last flip and the first retire: frames that are hedged or repeated are answered instead of refused. */
  planDrainMs: 1_000,
  /** Shards that cannot be told to let go of an old epoch by then hold it until the next change, which costs memory and nothing else. */
  planRetireMs: 60_000,
  /** Ended changes of plan that are remembered. */
  pastChanges: 20,
  /** Faults of shards that are remembered, the latest. */
  recentFaults: 32,
  /** Orchestrators of one fleet: lanes times stages, far below the calls one invocation may make. */
  knownLanes: 256,
  /** How often the directory looks at the load for replicas: their decayed counts follow the load over minutes. */
  replicaTickMs: 30_000,
  /** How often regions are asked for a round trip, by each isolate of the Worker that has requests and by each region's first orchestrator: a ping is a billed request. */
  pingEveryMs: 30_000,
  /** A ping not answered by then counts as a failure of its region: half the earth and back takes a third of a second. */
  pingDeadlineMs: 3_000,
  /** How often the Worker asks the directory for its lanes' free memory while it has requests for several lanes. */
  laneTableMs: 5_000,
  /** Older reports say nothing: a lane is then chosen by its prefix alone. */
  laneTableOldMs: 30_000,
  /** How long a request waits for a model that is loading where another lane or region may be ready: reading weights from memory or SQLite takes less. */
  coldWaitMs: 500,
  /** Breaks in a row after which a stream goes on elsewhere: the first is most often an object that was reset and is back at once. */
  breaksHere: 2,
  /** Silence after which an orchestrator that is not the only one is asked whether it is there: steps take well under a second, but for prompts. */
  silentMs: 10_000,
  /** Between two reports of an orchestrator that works: three for each look at the load, and a call every ten seconds is nothing beside frames. */
  reportMs: 10_000,
  /** An orchestrator that has reported nothing for so long has nothing to do, and its load says nothing of the next minutes. */
  reportKeepMs: 5 * 60_000,
  /** Faults remembered of one line to a shard, the latest: more in ten seconds tell nothing new. */
  lineFaults: 8,
});
