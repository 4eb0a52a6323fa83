// `workers-moe verify <pack> [--source MODEL]`: reads every byte of a pack and checks every hash; the manifest's own checks (coverage, shapes,
// overlaps) run as it is opened. With the model it was made from, both read the same text and are compared: compare-models.ts.
// Refuses to repair, and a source that is another model.

import type { Command } from "commander";
import { readFileSync } from "node:fs";
import { type ByteSource, SourceError } from "../../formats/byte-source.ts";
import { blobHash } from "../../formats/blob-writer.ts";
import { type PackManifest, blobsOf } from "../../formats/manifest.ts";
import { type OpenPack, loadBlobs, openPack, readTokenizerJson } from "../../formats/pack-reader.ts";
import { ModelError } from "../../model/config.ts";
import { createTokenizer } from "../../model/tokenizer.ts";
import { type ModelAgreement, compareModels } from "../compare-models.ts";
import { FolderSource } from "../file-source.ts";
import { openCheckpoint } from "../open-model.ts";
import { positiveInteger } from "../positive-integer.ts";
import { startProgress } from "../progress.ts";
import { showBytes, showTable } from "../sizes.ts";
import { checkpointWeights, packWeights } from "../../passes/streamed-model.ts";

export interface Verification {
  readonly packHash: string;
  readonly parts: number;
  readonly blobs: number;
  readonly checkedBytes: number;
}

interface VerifyOptions {
  readonly source?: string;
  readonly text?: string;
  readonly tokens: number;
  readonly json?: boolean;
}

/** What is read where no text is given: enough kinds of tokens to meet many experts. */
const SAMPLE_TEXT = "The quick brown fox jumps over the lazy dog; 1,234 + 56 = 1,290. In 1905 he wrote: \"Why should it be so?\" "
  + "function add(a, b) { return a + b; } Der Zug nach Wien f\u00e4hrt um 17:45 Uhr ab. \u00bfQu\u00e9 hora es? "
  + "Water boils at 100 \u00b0C (212 \u00b0F) at sea level, and mountains, rivers and cities have names in every language. ";

export function register(program: Command): void {
  program.command("verify")
    .description("check every hash of a pack, and compare it with the model it was made from")
    .argument("<pack>", "folder of a pack")
    .option("--source <model>", "the model it was made from: Hugging Face folder or .gguf file; both are run and compared")
    .option("--text <file>", "UTF-8 text that both read (default: a few sentences)")
    .option("--tokens <n>", "most tokens of it", positiveInteger, 128)
    .option("--json", "print one JSON document")
    .action(async (path: string, options: VerifyOptions) => {
      const source = new FolderSource(path);
      const pack = await openPack(source);
      const quiet = options.json === true;
      const total = pack.manifest.parts.reduce((n, p) => n + p.bytes, 0) / 2 ** 20;
      const bar = startProgress({ label: `verifying ${pack.manifest.id}`, total, unit: "MiB", quiet });
      let found: Verification;
      try {
        found = await verify(source, pack, (bytes) => bar.update(bytes / 2 ** 20));
      } finally {
        bar.stop();
      }
      if (!quiet) process.stdout.write(`${pack.manifest.id}: ${found.blobs} blobs in ${found.parts} parts, ${showBytes(found.checkedBytes)}, all as the manifest says.\n`);
      const agreement = options.source === undefined ? null : await compareWithSource(source, pack, options.source, options, quiet);
      if (quiet) process.stdout.write(`${JSON.stringify({ ok: true, ...found, ...(agreement === null ? {} : { agreement }) })}\n`);
      else if (agreement !== null) process.stdout.write(agreementText(agreement, options.source!));
    });
}

/** Runs both over the same tokens. Throws ModelError when the pack was made from something else. */
export async function compareWithSource(source: ByteSource, pack: OpenPack, model: string, options: Pick<VerifyOptions, "text" | "tokens">, quiet = true): Promise<ModelAgreement> {
  const { manifest } = pack;
  const checkpoint = await openCheckpoint(model);
  if (checkpoint.sha256 !== manifest.source.sha256) {
    throw new ModelError(`Pack ${manifest.id} was made from ${manifest.source.name} (${manifest.source.sha256.slice(0, 12)}); ${model} is another model (${checkpoint.sha256.slice(0, 12)}).`);
  }
  const ids = (await tokensOf(source, manifest, options.text)).slice(0, Math.min(options.tokens, manifest.contextLength));
  const bar = startProgress({ label: "comparing with its source", total: manifest.config.nLayers + 1, unit: "layers", quiet });
  try {
    return await compareModels([checkpointWeights(checkpoint, manifest.contextLength), packWeights(source, manifest)], ids, (layers) => bar.update(layers));
  } finally {
    bar.stop();
  }
}

/** Ids of the text; where the pack has no tokenizer, ids spread over the vocabulary. */
async function tokensOf(source: ByteSource, manifest: PackManifest, file: string | undefined): Promise<number[]> {
  const json = await readTokenizerJson(source, manifest);
  if (json === null) {
    if (file !== undefined) throw new ModelError(`Pack ${manifest.id} has no tokenizer, so ${file} cannot be read with it; leave --text out.`);
    return Array.from({ length: 4096 }, (_, i) => (i * i * 31 + i * 7 + 1) % manifest.config.vocabSize);
  }
  const ids = createTokenizer(json).encodeText(file === undefined ? SAMPLE_TEXT.repeat(8) : readFileSync(file, "utf8"));
  const bos = manifest.tokenizer?.addBos === true ? manifest.config.bosTokenId : null;
  if (ids.length === 0) throw new ModelError(`${file ?? "The sample text"} makes no token; at least one is needed to compare.`);
  return bos === null ? ids : [bos, ...ids];
}

function agreementText(a: ModelAgreement, model: string): string {
  const worst = a.layers.reduce((x, y) => (y.meanCosine < x.meanCosine ? y : x));
  return showTable([
    ["compared with", `${model}, at full precision, over ${a.tokens} tokens`],
    ...a.layers.map(({ layer, meanCosine, leastCosine }): [string, string] => [`  layer ${layer}`, `cosine ${meanCosine.toFixed(6)} on average, ${leastCosine.toFixed(6)} at least`]),
    ["worst layer", `${worst.layer}`],
    ["logits", `${(100 * a.logitError).toFixed(3)} % relative error (root mean square)`],
    ["next token", `KL ${a.klMean.toExponential(2)} nats on average, ${a.klMost.toExponential(2)} at most; the same most likely token at ${(100 * a.sameTop).toFixed(1)} %`],
    ["perplexity", `${a.perplexity[0].toFixed(3)} of the source, ${a.perplexity[1].toFixed(3)} of the pack`],
  ]);
}

/** Throws SourceError at the first thing that is not as the manifest says. */
export async function verify(
  source: ByteSource, { manifest, packHash }: OpenPack, onProgress: (checkedBytes: number) => void = () => {},
): Promise<Verification> {
  const where = `Pack ${manifest.id} (${source.description})`;
  for (const part of manifest.parts) {
    const found = await source.size(part.name);
    if (found !== part.bytes) {
      throw new SourceError(`${where}, ${part.name} ${found === null ? "is missing" : `has ${found} bytes`}, expected ${part.bytes} bytes.`);
    }
  }
  await readTokenizerJson(source, manifest);
  const targets = [...blobsOf(manifest)].map((b) => ({ ...b, write(): void {} }));
  for (const { name, blob } of targets) {
    const found = await blobHash(blob.extents);
    if (found !== blob.hash) throw new SourceError(`${where}, blob ${name}: the hashes of its extents give ${found}, expected ${blob.hash}.`);
  }
  let checkedBytes = 0;
  await loadBlobs(source, manifest, targets, { onProgress: (bytes) => onProgress((checkedBytes = bytes)) });
  return { packHash, parts: manifest.parts.length, blobs: targets.length, checkedBytes };
}
