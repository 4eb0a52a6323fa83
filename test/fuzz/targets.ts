// What is fuzzed: every parser of bytes that come from a user or over a wire, with valid files to start from. A parser may take an input or
// refuse it by an error of ours whose message is a sentence; anything else (another error, a message without a place, taking long) is a find.
// Owns the targets. Refuses to judge what a damaged file that still parses means.

import { createTokenizer } from "../../model/tokenizer.ts";
import { ModelError } from "../../model/config.ts";
import { FRAME_HEADER_BYTES, decodeHeader, faultOfLists, faultOfPayload, payloadChecksum, requestLayout, sealRequest } from "../../durable/protocol.ts";
import { checksumWords } from "../../model/checksum.ts";
import { SourceError } from "../../formats/byte-source.ts";
import { openGguf } from "../../formats/gguf-checkpoint.ts";
import { readGgufHeader } from "../../formats/gguf.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { readSafetensorsFolder } from "../../formats/safetensors.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../support/tiny-models.ts";
import { tinyTokenizerJson } from "../support/tiny-tokenizer.ts";

export interface FuzzTarget {
  readonly name: string;
  /** Valid inputs. */
  readonly corpus: () => readonly Uint8Array[];
  /** Parses; throws what the parser throws. */
  parse(bytes: Uint8Array): void | Promise<void>;
  /** Makes an input pass checks that random change could never pass, such as checksums. */
  readonly repair?: (bytes: Uint8Array) => Uint8Array;
}

const encoder = new TextEncoder();
const FILE = "model.gguf";

/** A folder's files in one input, so that one change may touch any of them: {u32 length, bytes} each, in the order of `names`. */
function joinFiles(files: ReadonlyMap<string, Uint8Array>, names: readonly string[]): Uint8Array {
  const parts = names.map((name) => files.get(name)!);
  const out = new Uint8Array(parts.reduce((n, p) => n + 4 + p.length, 0));
  let at = 0;
  for (const part of parts) {
    new DataView(out.buffer).setUint32(at, part.length, true);
    out.set(part, at + 4);
    at += 4 + part.length;
  }
  return out;
}
function splitFiles(bytes: Uint8Array, names: readonly string[]): Map<string, Uint8Array> {
  const files = new Map<string, Uint8Array>();
  let at = 0;
  for (const name of names) {
    if (at + 4 > bytes.length) break;
    const length = Math.min(new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true), bytes.length - at - 4);
    files.set(name, bytes.slice(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return files;
}

const FOLDER = ["config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors"];
const TOKENIZER = encoder.encode(JSON.stringify(tinyTokenizerJson(97)));

function requestFrame(nRows: number, nTokens: number): Uint8Array {
  const shape = { nRows, nGroups: 2, nTokens, hidden: 64, activations: "qa8" as const };
  const { groups, tokens, frameBytes } = requestLayout(shape);
  const words = new Uint32Array(frameBytes / 4);
  words.set([3, 1, 7, nTokens - 1], groups / 4);
  const rows = new Uint16Array(words.buffer);
  for (let i = 1; i < nTokens; i++) rows[tokens / 2 + i] = i - 1;
  sealRequest(words, 0, shape, frameBytes, 1, 5, payloadChecksum(words.buffer));
  return new Uint8Array(words.buffer);
}

export const TARGETS: readonly FuzzTarget[] = [
  {
    name: "gguf-header",
    corpus: () => [tinyModel("olmoe", 1).ggufBytes(), tinyModel("mixtral", 2).ggufBytes({ version: 2, alignment: 64 })],
    async parse(bytes) { await readGgufHeader(new MemorySource(new Map([[FILE, bytes]])), FILE); },
  },
  {
    name: "gguf-checkpoint",
    corpus: () => TINY_ARCHITECTURES.map((architecture, i) => tinyModel(architecture, i).ggufBytes({ type: "F16" })),
    async parse(bytes) { await openGguf(new MemorySource(new Map([[FILE, bytes]])), FILE); },
  },
  {
    name: "safetensors",
    corpus: () => [tinyModel("olmoe", 1).huggingFaceFiles().get("model.safetensors")!, tinyModel("qwen3_moe", 2).huggingFaceFiles({ dtype: "F32" }).get("model.safetensors")!],
    async parse(bytes) { await readSafetensorsFolder(new MemorySource(new Map([["model.safetensors", bytes]]))); },
  },
  {
    name: "huggingface-folder",
    corpus: () => TINY_ARCHITECTURES.map((architecture, i) => joinFiles(tinyModel(architecture, i).huggingFaceFiles(), FOLDER)),
    async parse(bytes) { await openHuggingFace(new MemorySource(splitFiles(bytes, FOLDER).set("tokenizer.json", TOKENIZER)), "tiny"); },
  },
  {
    name: "tokenizer.json",
    corpus: () => [TOKENIZER, tinyModel("olmoe", 1).huggingFaceFiles().get("tokenizer.json")!],
    async parse(bytes) {
      const files = tinyModel("olmoe", 1).huggingFaceFiles().set("tokenizer.json", bytes);
      const { tokenizer } = await openHuggingFace(new MemorySource(files), "tiny");
      if (tokenizer === null) return;
      createTokenizer(JSON.parse(new TextDecoder().decode(tokenizer.json))).encodeText("a b <|endoftext|> \u{1f600}");
    },
  },
  {
    name: "frame",
    corpus: () => [requestFrame(4, 5), requestFrame(1, 2)],
    parse(bytes) {
      const decoded = decodeHeader(bytes.slice().buffer);
      if (!decoded.ok) throw new SourceError(decoded.message);
      const { header, buffer } = decoded;
      const damage = faultOfPayload(header, payloadChecksum(buffer));
      if (damage !== null) throw new SourceError(damage);
      if (header.kind !== "request") return;
      const at = requestLayout(header);
      const fault = faultOfLists(header, new Uint32Array(buffer), at.groups / 4, new Uint16Array(buffer), at.tokens / 2);
      if (fault !== null) throw new SourceError(fault);
    },
    // Half of the damage comes with checksums that hold, as from a peer that lies.
    repair(bytes) {
      if (bytes.length < FRAME_HEADER_BYTES || bytes.length % 16 !== 0) return bytes;
      const words = new Uint32Array(bytes.slice().buffer);
      words[13] = payloadChecksum(words.buffer);
      words[15] = checksumWords(words, 0, 15);
      return new Uint8Array(words.buffer);
    },
  },
];

/** A sentence: it starts as one, ends as one, and says more than a word. */
const isSentence = (message: string): boolean => /^[^\s].*\s.*[.!?)"]$/s.test(message) && !/\bundefined\b|\[object Object\]|is not a function|Cannot read/.test(message);

/** What is wrong with how the target took the input, or null. */
export async function problemOf(target: FuzzTarget, bytes: Uint8Array): Promise<string | null> {
  try {
    await target.parse(bytes);
    return null;
  } catch (error) {
    if (!(error instanceof ModelError) && !(error instanceof SourceError)) return error instanceof Error ? `${error.name}: ${error.message}\n${error.stack?.split("\n").slice(1, 6).join("\n")}` : String(error);
    return isSentence(error.message) ? null : `The message is no sentence: ${error.message}`;
  }
}
