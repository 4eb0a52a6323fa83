// What is fuzzed: every parser of bytes that come from a user or over a wire. A parser may take an input or refuse it by an error of ours whose
// message is one printable sentence; anything else (another error, a message without a place, time or memory beyond measure) is a find.
// Owns the targets, and how each format is changed in ways that keep most of it valid. Refuses to judge what a damaged file that still parses means.

import { FRAME_HEADER_BYTES, decodeHeader, faultOfLists, faultOfPayload, payloadChecksum, refusalMessage, requestLayout } from "../../durable/protocol.ts";
import { SourceError } from "../../formats/byte-source.ts";
import { openGguf } from "../../formats/gguf-checkpoint.ts";
import { readGgufHeader } from "../../formats/gguf.ts";
import { HttpSource } from "../../formats/http-source.ts";
import { openHuggingFace, readTokenizer } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { openPack, planReads } from "../../formats/pack-reader.ts";
import { blobsOf } from "../../formats/manifest.ts";
import { readBytes } from "../../formats/read-bytes.ts";
import { readSafetensorsFolder } from "../../formats/safetensors.ts";
import { tokenizerBytes } from "../../formats/tokenizer-document.ts";
import { readSentencePiece, sentencePieceFileDocument } from "../../formats/tokenizer-sentencepiece.ts";
import { readRanks } from "../../formats/tokenizer-tiktoken.ts";
import { renderChat } from "../../model/chat-template.ts";
import { checksumWords } from "../../model/checksum.ts";
import { createTokenizer } from "../../model/tokenizer.ts";
import { chatSchema, completionSchema, parseBody } from "../../worker/schemas.ts";
import { tinyModel } from "../support/tiny-models.ts";
import * as corpora from "./corpora.ts";
import { type PretendedFile, PretendingSource, joinFiles, splitFiles } from "./joined-files.ts";
import { changeJson } from "./json-mutations.ts";
import type { Mutator, Spot } from "./mutations.ts";
import { ggufSpots, protobufSpots, wordSpots } from "./spots.ts";

export interface FuzzTarget {
  readonly name: string;
  /** Part of all cases that this target gets, in proportion to the others'. */
  readonly share: number;
  /** Valid inputs. */
  corpus(): readonly Uint8Array[] | Promise<readonly Uint8Array[]>;
  /** A change that knows the format, in place or as a copy. `original` is the valid input that `bytes` was. */
  change(bytes: Uint8Array, mutator: Mutator, original: Uint8Array): Uint8Array;
  /** Parses; throws what the parser throws. */
  parse(bytes: Uint8Array): void | Promise<void>;
  /** Messages end in the words of a library, or of the input itself. */
  readonly quotes?: true;
  /** Makes an input pass checks that random change could never pass, such as checksums. */
  readonly repair?: (bytes: Uint8Array) => Uint8Array;
}

const GGUF = "model.gguf";
const SAFETENSORS = "model.safetensors";
const memory = (name: string, bytes: Uint8Array): MemorySource => new MemorySource(new Map([[name, bytes]]));

/** Sets numbers where they stand in the original; `find` is asked once for each. */
function atSpots(find: (bytes: Uint8Array) => readonly Spot[]): FuzzTarget["change"] {
  const known = new Map<Uint8Array, readonly Spot[]>();
  return (bytes, mutator, original) => {
    let spots = known.get(original);
    if (spots === undefined) known.set(original, spots = find(original));
    mutator.setSpot(bytes, spots);
    return bytes;
  };
}

const inJson: FuzzTarget["change"] = (bytes, mutator) => changeJson(bytes, mutator);

/** The header of a safetensors file, whose length is set right again but now and then. */
const inSafetensors: FuzzTarget["change"] = (bytes, mutator) => {
  if (bytes.length < 8 || mutator.below(8) === 0) {
    mutator.setSpot(bytes, [{ at: 0, bytes: 8 }]);
    return bytes;
  }
  const end = 8 + Math.min(new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true), bytes.length - 8);
  const header = changeJson(bytes.slice(8, end), mutator);
  const out = new Uint8Array(8 + header.length + bytes.length - end);
  out.set(header, 8);
  out.set(bytes.subarray(end), 8 + header.length);
  new DataView(out.buffer).setUint32(0, header.length, true);
  return out;
};

/** One of the joined files, by what its name says; or its length as the source tells it. */
function inFolder(names: readonly string[], other: FuzzTarget["change"]): FuzzTarget["change"] {
  const known = new Map<Uint8Array, readonly PretendedFile[]>();
  return (joined, mutator, original) => {
    let originals = known.get(original);
    if (originals === undefined) known.set(original, originals = splitFiles(original));
    const files = splitFiles(joined);
    const i = mutator.below(files.length);
    const file = files[i];
    if (file === undefined || originals[i] === undefined) return joined;
    const change = names[i]!.endsWith(".json") ? inJson : names[i]!.endsWith(".safetensors") ? inSafetensors : other;
    const zeros = mutator.below(20) === 0 ? mutator.pick([0, file.zeros + 1, Math.max(0, file.zeros - 1), file.zeros * 2]) : file.zeros;
    files[i] = { bytes: change(file.bytes, mutator, originals[i].bytes), zeros };
    if (mutator.below(40) === 0) files.length = i; // those behind it are not there
    return joinFiles(files);
  };
}

/** Lines of a text taken away, doubled, exchanged, or with other numbers. */
const inLines: FuzzTarget["change"] = (bytes, mutator) => {
  const lines = new TextDecoder("latin1").decode(bytes).split("\n");
  const [i, j] = [mutator.below(lines.length), mutator.below(lines.length)];
  const line = lines[i]!;
  switch (mutator.below(5)) {
    case 0: lines.splice(i, 1); break;
    case 1: lines.splice(j, 0, line); break;
    case 2: [lines[i], lines[j]] = [lines[j]!, line]; break;
    case 3: lines[i] = line.replace(/\d+$/, () => mutator.pick(["-1", "1e9", "99999999999999999999", "0", "", "00", String(mutator.below(300))])); break;
    default: lines[i] = mutator.pick([`${line} `, ` ${line}`, `${line} 1`, line.slice(1), line.slice(0, -1), "=".repeat(5), "A".repeat(4000), "\u00ff", "#version"]);
  }
  return Uint8Array.from(lines.join("\n"), (c) => c.charCodeAt(0));
};

/** Pieces of templates in each other's places. */
const inTemplate: FuzzTarget["change"] = (bytes, mutator) => {
  const words = new TextDecoder().decode(bytes).split(/(\{[{%]-?|-?[%}]\}|\s+|[.()[\]|,'+~=]|\b)/).filter((word) => word !== "");
  const i = mutator.below(words.length);
  const NEW = ["{%", "%}", "{{", "}}", "(", ")", "[", "]", "|", ".", "'", "+", "-", "~", "==", "is", "not", "in", "and", "or", "if", "else", "endif", "for", "endfor", "set", "macro", "endmacro",
    "none", "0", "-1", "99999999", "1e9", "loop", "loop.index0", "messages", "tools", "namespace()", "range(5)", "tojson", "length", "upper", "split('')", "raise_exception('no')", "strftime_now('%Y')", "::", "{#", "{'a': 1}"];
  switch (mutator.below(4)) {
    case 0: words.splice(i, 1 + mutator.below(4)); break;
    case 1: words.splice(i, 0, ...words.slice(mutator.below(words.length)).slice(0, 1 + mutator.below(8))); break;
    case 2: words.splice(i, 0, " ", mutator.pick(NEW), " "); break;
    default: words[i] = mutator.pick([mutator.pick(NEW), mutator.pick(words)]);
  }
  return new TextEncoder().encode(words.join(""));
};

const config = { ...tinyModel("olmoe", 1).config, vocabSize: 300 };

/** What becomes of any tokenizer in the end: text of every kind through it. */
function useTokenizer(json: Uint8Array): void {
  const tokenizer = createTokenizer(JSON.parse(new TextDecoder().decode(json)));
  tokenizer.decode(tokenizer.encodeText("a b <|endoftext|> \u{1f600}").slice(0, 20));
}

interface Answer {
  readonly status?: unknown;
  readonly range?: unknown;
  readonly etag?: unknown;
  readonly retryAfter?: unknown;
  readonly bytes?: unknown;
}

/** A server that gives the answers of a JSON list one after the other, then the last of them. */
function answering(bytes: Uint8Array): HttpSource {
  let answers: unknown;
  try {
    answers = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    answers = [];
  }
  const list = Array.isArray(answers) ? answers : [answers];
  let n = 0;
  return new HttpSource(new URL("https://example.test/folder/"), {
    wait: async () => undefined,
    fetch: async () => {
      const answer = (list[Math.min(n++, list.length - 1)] ?? {}) as Answer;
      const status = typeof answer.status === "number" && answer.status >= 200 && answer.status <= 599 ? Math.floor(answer.status) : 206;
      const headers = new Headers();
      const set = (name: string, value: unknown): void => { if ((typeof value === "string" || typeof value === "number") && /^[\x20-\x7e]*$/.test(String(value))) headers.set(name, String(value)); };
      set("content-range", answer.range);
      set("etag", answer.etag);
      set("retry-after", answer.retryAfter);
      const length = typeof answer.bytes === "number" ? Math.min(1000, Math.max(0, Math.floor(answer.bytes))) : 0;
      return new Response([204, 205, 304].includes(status) || answer.bytes === undefined ? null : new Uint8Array(length), { status, headers });
    },
  });
}

export const TARGETS: readonly FuzzTarget[] = [
  {
    name: "gguf-header", share: 20, corpus: corpora.ggufHeaders, change: atSpots(ggufSpots),
    async parse(bytes) { await readGgufHeader(memory(GGUF, bytes), GGUF); },
  },
  {
    name: "gguf-split", share: 3, corpus: corpora.splitGgufs, change: inFolder(corpora.SPLIT_NAMES, atSpots(ggufSpots)),
    async parse(bytes) { await readGgufHeader(PretendingSource.of(corpora.SPLIT_NAMES, bytes), corpora.SPLIT_NAMES[1]!); },
  },
  {
    name: "gguf-model", share: 8, corpus: corpora.ggufModels,
    change: inFolder([GGUF], atSpots(ggufSpots)),
    async parse(bytes) {
      const { tokenizer } = await openGguf(PretendingSource.of([GGUF], bytes), GGUF);
      if (tokenizer !== null) useTokenizer(tokenizer.json);
    },
  },
  {
    name: "safetensors", share: 20, corpus: corpora.safetensorsFiles, change: inSafetensors,
    async parse(bytes) { await readSafetensorsFolder(memory(SAFETENSORS, bytes)); },
  },
  {
    name: "safetensors-shards", share: 3, corpus: corpora.shardedFolders, change: inFolder(corpora.SHARD_NAMES, inJson),
    async parse(bytes) { await readSafetensorsFolder(PretendingSource.of(corpora.SHARD_NAMES, bytes)); },
  },
  {
    name: "model-folder", share: 8, corpus: corpora.modelFolders, change: inFolder(corpora.FOLDER_NAMES, inJson),
    async parse(bytes) { await openHuggingFace(PretendingSource.of(corpora.FOLDER_NAMES, bytes), "tiny"); },
  },
  {
    name: "tokenizer.json", share: 12, corpus: corpora.tokenizerDocuments, change: inJson,
    async parse(bytes) {
      const { tokenizer } = await readTokenizer(memory("tokenizer.json", bytes), config, []);
      if (tokenizer !== null) useTokenizer(tokenizer.json);
    },
  },
  {
    name: "tokenizer.model", share: 5, corpus: corpora.sentencePieceModels, change: atSpots(protobufSpots),
    parse(bytes) {
      const source = memory("tokenizer.model", bytes);
      useTokenizer(tokenizerBytes(sentencePieceFileDocument(source, "tokenizer.model", readSentencePiece(source, "tokenizer.model", bytes), [], true)));
    },
  },
  {
    name: "tiktoken", share: 2, corpus: corpora.rankFiles, change: inLines,
    parse(bytes) { readRanks(memory("qwen.tiktoken", bytes), "qwen.tiktoken", bytes); },
  },
  {
    name: "vocab.json", share: 2, corpus: corpora.vocabularies, change: inFolder(corpora.VOCABULARY_NAMES, inLines),
    async parse(bytes) {
      const { tokenizer } = await readTokenizer(PretendingSource.of(corpora.VOCABULARY_NAMES, bytes), config, []);
      if (tokenizer !== null) useTokenizer(tokenizer.json);
    },
  },
  {
    name: "manifest.json", share: 3, corpus: corpora.packs, change: inJson,
    async parse(bytes) {
      const { manifest } = await openPack(memory("manifest.json", bytes));
      planReads(manifest, [...blobsOf(manifest)].map((blob) => ({ ...blob, write: () => undefined })), false);
    },
  },
  {
    name: "http", share: 3, corpus: corpora.httpAnswers, change: inJson,
    async parse(bytes) {
      const source = answering(bytes);
      if ((await source.size("f")) !== null) await readBytes(source, "f", 10, 30);
    },
  },
  {
    name: "chat-template", share: 2, quotes: true, corpus: corpora.chatTemplates, change: inTemplate,
    parse(bytes) {
      renderChat(new TextDecoder().decode(bytes), [{ role: "system", content: "s" }, { role: "user", content: "u" }, { role: "assistant", content: "<think>t</think>a" }, { role: "user", content: "v" }],
        { addGenerationPrompt: true, date: new Date(0), bosToken: "<s>", eosToken: null, variables: { enable_thinking: false } });
    },
  },
  {
    name: "request", share: 2, corpus: corpora.requestBodies, change: inJson,
    async parse(bytes) {
      const request = (): Request => new Request("https://example.test/", { method: "POST", body: bytes.slice() });
      await parseBody(request(), new TextDecoder().decode(bytes).includes("prompt") ? completionSchema : chatSchema);
    },
  },
  {
    name: "frame", share: 12, corpus: corpora.frames, change: atSpots(wordSpots),
    parse(bytes) {
      const decoded = decodeHeader(bytes.slice().buffer);
      if (!decoded.ok) throw new SourceError(decoded.message);
      const { header, buffer } = decoded;
      const damage = faultOfPayload(header, payloadChecksum(buffer));
      if (damage !== null) throw new SourceError(damage);
      if (header.kind === "refusal") refusalMessage(buffer);
      if (header.kind !== "request") return;
      const at = requestLayout(header);
      const fault = faultOfLists(header, new Uint32Array(buffer), at.groups / 4, new Uint16Array(buffer), at.tokens / 2);
      if (fault !== null) throw new SourceError(fault);
    },
    // Most of the damage comes with checksums that hold, as from a peer that lies.
    repair(bytes) {
      if (bytes.length < FRAME_HEADER_BYTES || bytes.length % 16 !== 0) return bytes;
      const words = new Uint32Array(bytes.slice().buffer);
      words[13] = payloadChecksum(words.buffer);
      words[15] = checksumWords(words, 0, 15);
      return new Uint8Array(words.buffer);
    },
  },
];
