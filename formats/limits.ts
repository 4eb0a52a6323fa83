// Limits of the formats, each with its reason. Refuses to be scattered: no other file of formats/ holds such a number.

const KiB = 1024;
const MiB = 1024 * KiB;

export const FORMAT_LIMITS = {
  /** Largest extent. One hash check and one copy; static assets and Durable Object values both hold it. */
  extentBytes: 4 * MiB,
  /** Largest part for static assets, which cannot be range-read, so that a part is never much more than what is needed. */
  assetPartBytes: 4 * MiB,
  /** Largest part for buckets: few objects, each well below any upload limit. */
  bucketPartBytes: 64 * MiB,
  /** Start of an extent within its part: a cache line. */
  extentAlignment: 64,
  /** Widest expert segment by default: at most 13.5 MiB of q4 for a hidden size of 4,096. */
  segmentWidth: 2048,
  /** Longest context of a pack unless --context says otherwise: the table and the KV cache must fit an isolate. */
  defaultContext: 4096,
  /** manifest.json: 6,144 experts take about 2.5 MiB; JSON of that size still parses in an isolate. */
  manifestBytes: 16 * MiB,
  /** tokenizer.json: the largest published vocabularies take about 20 MiB. */
  tokenizerBytes: 32 * MiB,
  /** config.json, tokenizer_config.json and other small JSON files; the index of a sharded model is the largest. */
  jsonBytes: 32 * MiB,
  /** routing-map.json: twenty classes of 48 layers of 128 experts take about 1 MiB; it is read whole into the isolate that serves it. */
  routingMapBytes: 4 * MiB,
  /** Objects and lists within each other in any of these: published files have 6. What walks them may then call itself. */
  jsonDepth: 64,
  /** Header of a safetensors file: the limit of the reference implementation. */
  safetensorsHeaderBytes: 100_000_000,
  /** A file of a canonical model: any file system holds it, and a transfer that breaks off repeats little. */
  safetensorsFileBytes: 4096 * MiB,
  /** Header of a GGUF file (metadata and tensor table, vocabulary included). */
  ggufHeaderBytes: 256 * MiB,
  /** Values of one metadata array of a GGUF file: the largest published lists of merges have about 500,000. */
  ggufArrayValues: 4 * 1024 * 1024,
  /** Metadata fields of a GGUF file: published ones have about 60. */
  ggufFields: 65_536,
  /** Tensors of a GGUF file: a model with every expert on its own has about 50,000. */
  ggufTensors: 262_144,
  /** Largest general.alignment of a GGUF file: pages of the largest systems; files have 32. */
  ggufAlignment: 65_536,
  /** Factors of rotary frequencies in a GGUF: half a head's dimensions in f32, and no head has 2,048. */
  ropeFactorBytes: 4096,
  /** Bytes of checkpoint rows held at a time while packing, per matrix. */
  rowBatchBytes: 1 * MiB,
  /** Attempts in a row without progress before a source over HTTP is given up: with the pauses about two minutes, a restart of a server. */
  httpAttempts: 8,
  /** Pause after the first failure; it doubles with each. */
  httpFirstPauseMs: 500,
  /** Longest pause, also where a server asks for more. */
  httpLongestPauseMs: 60_000,
  /** What counts as progress between two failures: below it, a connection that breaks each time would go on for ever. */
  httpProgressBytes: 256 * KiB,
  /** Bytes fetched at once where requests are dear, and how many such windows are held: gate, up and down of an expert are read in turns. */
  readAheadBytes: 8 * MiB,
  readAheadWindows: 4,
} as const;
