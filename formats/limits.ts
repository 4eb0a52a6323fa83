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
  /** Header of a safetensors file: the limit of the reference implementation. */
  safetensorsHeaderBytes: 100_000_000,
  /** Header of a GGUF file (metadata and tensor table, vocabulary included). */
  ggufHeaderBytes: 256 * MiB,
  /** Bytes of checkpoint rows held at a time while packing, per matrix. */
  rowBatchBytes: 1 * MiB,
} as const;
