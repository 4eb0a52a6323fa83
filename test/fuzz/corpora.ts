// Valid files to start from, as small as files of their kind can be: every case copies one. Owns their choice: every architecture in both
// formats, both kinds of GGUF tokenizers, versions, alignments and value types. Refuses weights: the sources pretend to hold them.

import { requestLayout, sealReply, sealRequest, payloadChecksum, encodeRefusal, decodeHeader, replyFrameBytes, type RequestShape } from "../../durable/protocol.ts";
import { BYTE_ALPHABET } from "../../model/byte-alphabet.ts";
import { readGgufFile } from "../../formats/gguf-header.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { TOKEN_TYPES } from "../../formats/tokenizer-document.ts";
import { type GgufField, f32, flag, ggufFile, text, u32 } from "../support/gguf-writer.ts";
import { packToMemory, openTinyHuggingFace } from "../support/pack-to-memory.ts";
import { type TensorData, safetensorsFile, safetensorsFolder } from "../support/safetensors-writer.ts";
import { sentencePieceFile } from "../support/sentencepiece-writer.ts";
import { TINY_ARCHITECTURES, type TinyModel, type TinyOverrides, tinyModel } from "../support/tiny-models.ts";
import { TINY_CHAT_TEMPLATE, tinyTokenizerJson } from "../support/tiny-tokenizer.ts";
import { type PretendedFile, joinFiles } from "./joined-files.ts";

const encoder = new TextEncoder();
const json = (value: unknown): Uint8Array<ArrayBuffer> => encoder.encode(JSON.stringify(value)).slice();

/** Two experts in place of eight, four where they are in groups; else as all tests have them. */
function smallModel(architecture: (typeof TINY_ARCHITECTURES)[number], seed: number, more: TinyOverrides = {}): TinyModel {
  const { configJson } = tinyModel(architecture, seed);
  const key = ["num_experts", "num_local_experts", "n_routed_experts"].find((name) => configJson[name] !== undefined);
  const groups = key === "n_routed_experts" ? { n_group: 2, topk_group: 1, num_experts_per_tok: 2 } : {};
  return tinyModel(architecture, seed, { ...more, config: key === undefined ? {} : { [key]: key === "n_routed_experts" ? 4 : 2, ...groups } });
}

const plainTensor = (name: string, shape: readonly number[]) => ({ name, type: "F32", shape, bytes: new Uint8Array(4 * shape.reduce((n, d) => n * d, 1)) });
const FIELDS = new Map<string, GgufField>([
  ["general.architecture", text("llama")], ["n", u32(7)], ["big", { type: "u64", value: 2n ** 40n }], ["x", f32(0.5)], ["yes", flag(true)],
  ["words", { type: "strings", value: ["\u00e9", "", "\u0120a"] }], ["numbers", { type: "i32s", value: [-1, 2] }], ["factors", { type: "f32s", value: [0.5, 2] }],
]);

export const ggufHeaders = (): Uint8Array[] => [
  ggufFile(FIELDS, [plainTensor("a", [3, 5]), { name: "b", type: "Q8_0", shape: [2, 1, 64], bytes: new Uint8Array(136) }]),
  ggufFile(new Map([["general.architecture", text("olmoe")]]), [plainTensor("one", [8]), plainTensor("two", [1, 2, 2, 2])], { version: 2, alignment: 64 }),
  ggufFile(FIELDS, [{ name: "k", type: "Q4_K", shape: [1, 256], bytes: new Uint8Array(144) }, { name: "m", type: "MXFP4", shape: [1, 32], bytes: new Uint8Array(17) }]),
];

export const SPLIT_NAMES = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];

export const splitGgufs = (): Uint8Array[] => [joinFiles(SPLIT_NAMES.map((_, no): PretendedFile => ({
  bytes: ggufFile(new Map<string, GgufField>([["split.no", u32(no)], ["split.count", u32(3)], ["split.tensors.count", u32(4)]]),
    [plainTensor(`t${no}`, [1, 8]), ...(no === 0 ? [plainTensor("last", [2])] : [])]),
  zeros: 0,
})))];

/** The header of a GGUF file, and its data as zeros. */
async function headerOnly(bytes: Uint8Array): Promise<PretendedFile> {
  const header = await readGgufFile(new MemorySource(new Map([["m.gguf", bytes]])), "m.gguf");
  const end = Math.ceil(header.bytes.length / 32) * 32;
  return { bytes: bytes.slice(0, end), zeros: bytes.length - end };
}

/** Every architecture; one with the other kind of tokenizer. */
export async function ggufModels(): Promise<Uint8Array[]> {
  const files = TINY_ARCHITECTURES.map((architecture, i) => smallModel(architecture, i).ggufBytes({ type: i % 2 === 0 ? "F16" : "Q8_0", ...(i % 3 === 0 ? { mla: "fused", experts: "fused" } as const : {}) }));
  const pieces = Array.from({ length: 97 }, (_, id) => (id === 0 ? "<unk>" : id < 94 ? String.fromCharCode(33 + id) : ["", "ab", "abc", "\u2581"][id - 93]!));
  files.push(smallModel("mixtral", 20).ggufBytes({ type: "F16", metadata: {
    "tokenizer.ggml.model": text("llama"), "tokenizer.ggml.tokens": { type: "strings", value: pieces }, "tokenizer.ggml.merges": null, "tokenizer.ggml.pre": null,
    "tokenizer.ggml.scores": { type: "f32s", value: pieces.map((_, id) => -id) }, "tokenizer.ggml.token_type": { type: "i32s", value: pieces.map((_, id) => (id === 0 ? 2 : id < 3 ? 3 : 1)) },
  } }));
  return Promise.all(files.map(async (file) => joinFiles([await headerOnly(file)])));
}

const TENSORS: TensorData[] = [["a", 3], ["b", 5], ["c", 1]].map(([name, n]) => ({ name: name as string, dtype: "F32", shape: [n as number, 2], bytes: new Uint8Array(8 * (n as number)) }));

export const safetensorsFiles = (): Uint8Array[] => [
  safetensorsFile(TENSORS),
  safetensorsFile([{ name: "w", dtype: "BF16", shape: [2, 4], bytes: new Uint8Array(16) }, { name: "q", dtype: "U8", shape: [3], bytes: new Uint8Array(3) }, { name: "f8", dtype: "F8_E4M3", shape: [2, 2], bytes: new Uint8Array(4) }]),
];

export const SHARD_NAMES = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

export const shardedFolders = (): Uint8Array[] => {
  const files = safetensorsFolder(TENSORS, 2);
  return [joinFiles(SHARD_NAMES.map((name) => ({ bytes: files.get(name)!, zeros: 0 })))];
};

/** A safetensors file's header, and its data as zeros. */
function safetensorsHeaderOnly(file: Uint8Array): PretendedFile {
  const end = 8 + Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  return { bytes: file.slice(0, end), zeros: file.length - end };
}

export const FOLDER_NAMES = ["config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors"];

export const modelFolders = (): Uint8Array[] => TINY_ARCHITECTURES.map((architecture, i) => {
  const files = smallModel(architecture, i, architecture === "gpt_oss" ? { exactIn: "MXFP4" } : {}).huggingFaceFiles(architecture === "deepseek_v3" ? { dtype: "F8_E4M3" } : { fused: i % 2 === 1 });
  return joinFiles(FOLDER_NAMES.map((name) => (name === "model.safetensors" ? safetensorsHeaderOnly(files.get(name)!) : { bytes: files.get(name)!, zeros: 0 })));
});

/** Vocabularies of a few tokens, with every part that a tokenizer.json may have. */
export function tokenizerDocuments(): Uint8Array[] {
  const added = (id: number, content: string, special: boolean) => ({ id, content, single_word: false, lstrip: false, rstrip: true, normalized: false, special });
  const bpe = (more: object): object => ({
    version: "1.0", truncation: null, padding: null, added_tokens: [added(6, "<s>", true), added(7, "<own>", false)], normalizer: { type: "NFC" },
    pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "Split", pattern: { Regex: "\\p{N}{1,3}|\\s+(?!\\S)|\\s+" }, behavior: "Isolated", invert: false }, { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false }] },
    post_processor: { type: "TemplateProcessing", single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }], pair: [], special_tokens: { "<s>": { id: "<s>", ids: [6], tokens: ["<s>"] } } },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: "BPE", dropout: null, unk_token: null, fuse_unk: false, byte_fallback: false, ignore_merges: false, vocab: { a: 0, b: 1, c: 2, ab: 3, abc: 4, "\u0120": 5 }, merges: ["a b", "ab c", "a bc"], ...more },
  });
  return [
    json(tinyTokenizerJson(97)), json(bpe({})), json(bpe({ ignore_merges: true, merges: [["a", "b"], ["ab", "c"]] })),
    json({
      ...bpe({ unk_token: "b", byte_fallback: true, fuse_unk: true }), normalizer: { type: "Sequence", normalizers: [{ type: "Prepend", prepend: "\u2581" }, { type: "Replace", pattern: { String: " " }, content: "\u2581" }] },
      pre_tokenizer: null, decoder: { type: "Sequence", decoders: [{ type: "Replace", pattern: { String: "\u2581" }, content: " " }, { type: "ByteFallback" }, { type: "Fuse" }, { type: "Strip", content: " ", start: 1, stop: 0 }] },
    }),
    json({ ...bpe({}), model: { type: "Unigram", unk_id: 0, vocab: [["<unk>", 0], ["a", -1], ["b", -2.5]] } }),
  ];
}

export const sentencePieceModels = (): Uint8Array[] => [sentencePieceFile([
  ["<unk>", 0, TOKEN_TYPES.unknown], ["<s>", 0, TOKEN_TYPES.control], ["<0x0A>", 0, TOKEN_TYPES.byte], ["ab", -1, 1], ["\u2581a", -2, 1], ["\u2581ab", -3, 1], ["<own>", 0, TOKEN_TYPES.userDefined],
  ["ba", -0.5, TOKEN_TYPES.unused], ["a", -4, 1], ["b", -5, 1], ["\u2581", -6, 1],
])];

const RANKED = [...Array.from({ length: 256 }, (_, b) => String.fromCharCode(b)), "ab", "abc"];
export const rankFiles = (): Uint8Array[] => [encoder.encode(RANKED.map((token, rank) => `${btoa(token)} ${rank}\n`).join(""))];

export const VOCABULARY_NAMES = ["tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json"];

/** A vocabulary in files of its own, as older folders have it. */
export const splitVocabulary = (): Record<string, Uint8Array> => ({
  "tokenizer_config.json": json({ tokenizer_class: "Qwen2Tokenizer", eos_token: "<|end|>", added_tokens_decoder: { 258: { content: "<|end|>", special: true } } }),
  "vocab.json": json(Object.fromEntries([...BYTE_ALPHABET, "ab", "abc"].map((token, id) => [token, id]))),
  "merges.txt": encoder.encode("#version: 0.2\na b\nab c\n"),
  "added_tokens.json": json({ "<|x|>": 258 }),
});
export function vocabularies(): Uint8Array[] {
  const files = splitVocabulary();
  return [joinFiles(VOCABULARY_NAMES.map((name) => ({ bytes: files[name]!, zeros: 0 })))];
}

/** Frames of every kind. */
export function frames(): Uint8Array[] {
  const request = (nRows: number, nTokens: number): ArrayBuffer => {
    const shape: RequestShape = { nRows, nGroups: 2, nTokens, hidden: 64, input: 64, activations: "qa8" };
    const { groups, tokens, frameBytes } = requestLayout(shape);
    const words = new Uint32Array(frameBytes / 4);
    words.set([3, 1, 7, nTokens - 1], groups / 4);
    const rows = new Uint16Array(words.buffer);
    for (let i = 1; i < nTokens; i++) rows[tokens / 2 + i] = i - 1;
    sealRequest(words, 0, shape, frameBytes, 1, 5, payloadChecksum(words.buffer));
    return words.buffer;
  };
  const asked = decodeHeader(request(1, 2));
  if (!asked.ok) throw new Error(asked.message);
  const reply = new Uint32Array(replyFrameBytes(2, 64) / 4);
  sealReply(reply, 0, asked.header, 7, payloadChecksum(reply.buffer));
  return [request(4, 5), request(1, 2), reply.buffer, encodeRefusal(asked.header, "warming", "The shard is warming.", 250)].map((buffer) => new Uint8Array(buffer));
}

/** A pack's manifest and its one part. */
export async function packs(): Promise<Uint8Array[]> {
  const out: Uint8Array[] = [];
  for (const architecture of ["olmoe", "qwen2_moe"] as const) {
    const { files } = await packToMemory(await openTinyHuggingFace(smallModel(architecture, 30)), { quant: "q4" });
    out.push(files.get("manifest.json")!);
  }
  return out;
}

/** What a server answers, request by request. */
export const httpAnswers = (): Uint8Array[] => [
  json([{ status: 206, range: "bytes 0-0/100", etag: "\"a\"", bytes: 1 }, { status: 206, range: "bytes 10-39/100", etag: "\"a\"", bytes: 30 }]),
  json([{ status: 503, retryAfter: "1" }, { status: 206, range: "bytes 0-0/100", bytes: 1 }, { status: 206, range: "bytes 10-39/100", bytes: 12 }, { status: 206, range: "bytes 22-39/100", bytes: 18 }]),
  json([{ status: 416, range: "bytes */0" }]),
  json([{ status: 404 }]),
];

const QWEN_LIKE = "{%- for m in messages %}{%- if m.role == 'system' or loop.first %}{{ '<|im_start|>' + m.role + '\\n' + m.content|trim + '<|im_end|>\\n' }}{%- elif m.tool_calls %}"
  + "{%- for call in m.tool_calls %}{{ '<tool_call>' ~ (call.function.arguments | tojson) ~ '</tool_call>' }}{%- endfor %}{%- else %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}{%- endif %}{%- endfor %}"
  + "{%- macro show(x, n=2) %}{{ x[:n] }}{%- endmacro %}{% set ns = namespace(i=0) %}{% for k in range(3) %}{% set ns.i = ns.i + k %}{% endfor %}{{ show(bos_token or '') }}"
  + "{%- if tools is defined and tools %}{{ tools | tojson(indent=2) }}{%- endif %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- if enable_thinking is false %}<think></think>{%- endif %}{%- endif %}";
export const chatTemplates = (): Uint8Array[] => [encoder.encode(TINY_CHAT_TEMPLATE), encoder.encode(QWEN_LIKE)];

export const requestBodies = (): Uint8Array[] => [
  json({
    model: "tiny", messages: [{ role: "system", content: "Be brief." }, { role: "user", content: [{ type: "text", text: "a" }] }, { role: "assistant", content: null, tool_calls: [{ id: "1", type: "function", function: { name: "f", arguments: "{}" } }] }, { role: "tool", content: "x", tool_call_id: "1" }],
    max_tokens: 5, temperature: 0.5, top_p: 0.9, stop: ["x"], stream: true, stream_options: { include_usage: true }, seed: 7, tools: [{ type: "function", function: { name: "f", parameters: {} } }], chat_template_kwargs: { enable_thinking: false }, logprobs: true, top_logprobs: 3,
    moe: { trace: true, date: "2026-01-02", draft_tokens: 0 },
  }),
  json({ model: "tiny", prompt: [[1, 2], [3]], max_tokens: 3, n: 2, logprobs: 2, echo: true, stop: "a", min_p: 0.1, top_k: 4, logit_bias: {}, presence_penalty: 0 }),
];
