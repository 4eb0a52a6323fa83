// `node test/stories-model.ts OUT`: stories260K, a dense model whose greedy text is known, with its tokenizer, as a canonical model that passes take. Reads models/llama2c of
// WORKERS_MOE_DATA (test/support/llama2c.ts). Owns nothing but the way from one form to the other. Refuses an OUT that exists.

import { FolderSink } from "../cli/file-source.ts";
import { sentencePieceDocument, TOKEN_TYPES, tokenizerBytes } from "../formats/tokenizer-document.ts";
import { readDenseStories } from "./support/llama2c.ts";
import { plainCheckpoint, writePlain } from "./support/plain-checkpoint.ts";

const out = process.argv[2];
if (out === undefined) throw new Error("node test/stories-model.ts OUT: a folder to write was expected.");
const { config, weights, pieces } = readDenseStories();
// tok512.bin: one unknown token, BOS and EOS between line ends, 256 bytes, then pieces in the order in which they are joined, spaces as they are.
const tokens = pieces.map((piece) => Buffer.from(piece, "latin1").toString("utf8").replaceAll("\n", "").replaceAll(" ", "\u2581"));
const types = tokens.map((_, id) => (id === 0 ? TOKEN_TYPES.unknown : id < 3 ? TOKEN_TYPES.control : id < 259 ? TOKEN_TYPES.byte : TOKEN_TYPES.normal));
const json = tokenizerBytes(sentencePieceDocument({ tokens, types, where: "tok512.bin" }, { scores: tokens.map((_, id) => -id), unknownId: 0, byteFallback: true, spacePrefix: "each" }));
const tokenizer = { json, kind: "SentencePiece BPE (tok512.bin)", chatTemplate: null, bosToken: "<s>", eosToken: "</s>", addBos: true };
await writePlain(await FolderSink.create(out), plainCheckpoint(config, weights), "stories260K", tokenizer);
