// The same function in another basis of the residual: outliers of single channels are spread over all, so that rounding loses less (QuaRot, 2024; MoEQuant, 2025,
// rotates first). What reads the residual behind a norm takes the norm's weights into itself and is turned back; what writes it is turned; norms become ones.
// Owns which matrix reads and which writes. Refuses LayerNorm, whose mean is one of the old basis. Everything it touches is written as f32: rounding is the next pass's.

import { afterPass, type TensorToWrite, unchanged, writeCanonical } from "../formats/canonical-writer.ts";
import { type Checkpoint, type MatrixPlace, rowsPerBatch } from "../formats/checkpoint.ts";
import { decodeRows } from "../formats/dequantize.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { auxiliariesOf, ModelError, type ModelConfig } from "../model/config.ts";
import { type Rotation, rotationOf, type RotationName } from "./rotation.ts";
import { requireOwnExperts } from "./own-experts.ts";

export interface RotateOptions {
  readonly by: RotationName;
  readonly seed: number;
}

export interface RotateReport {
  /** Tensors in the new basis, norms not counted. */
  readonly rotated: number;
  /** Whether the head, which was the embedding, is one of its own now: the last norm is in it. */
  readonly untied: boolean;
}

/** How a tensor meets the residual: its rows are multiplied with it behind a norm; its columns, or it as a vector, are added to it; it is the embedding; a norm. */
type Meeting = { readonly as: "reads"; readonly norm: string } | { readonly as: "writes" } | { readonly as: "rows" } | { readonly as: "norm" } | null;

/** null: it stands between others and never sees the residual. */
function meetingOf(name: string, { mla, latentExperts, router }: ModelConfig): Meeting {
  if (name === "embed") return { as: "rows" };
  if (name === "head") return { as: "reads", norm: "norm" };
  if (name === "norm" || /^layers\.\d+\.(attnNorm|ffnNorm)$/.test(name)) return { as: "norm" };
  const [, at, rest] = /^(layers\.\d+\.)(.+)$/.exec(name) ?? [];
  if (rest === undefined) return null;
  const readsAttention = mla === null ? ["q", "k", "v"] : [...(mla.qLoraRank === null ? ["q"] : ["qA"]), "kvA"];
  if (readsAttention.includes(rest)) return { as: "reads", norm: `${at}attnNorm` };
  // Latent experts read what their group's matrix makes of the residual.
  if (latentExperts !== undefined && /^experts\.\d+\.(gate|up)$/.test(rest)) return null;
  // A gate of two layers reads the residual with the first; one that reads a request's condition never sees it.
  const gateReads = router.scope?.kind === "condition" ? /^$/ : router.gate?.kind === "mlp" || router.gate?.kind === "cosine" ? /^routerHidden$/ : /^(router|taskRouter\.\d+)$/;
  if (gateReads.test(rest) || rest === "sharedGate" || /^latent\.\d+$/.test(rest) || /^(shared|experts\.\d+)\.(gate|up)$/.test(rest)) return { as: "reads", norm: `${at}ffnNorm` };
  if (rest === "o" || rest === "oBias" || /^(shared|experts\.\d+)\.(down|downBias)$/.test(rest)) return { as: "writes" };
  return null;
}

/** Writes the model in the new basis; its logits are the same but for rounding in f32. */
export async function rotateModel(checkpoint: Checkpoint, sink: PackSink, { by, seed }: RotateOptions, onTensor: (done: number) => void = () => {}): Promise<RotateReport> {
  const { config, description } = checkpoint;
  requireOwnExperts(checkpoint, "rotate");
  if (config.norm !== "rms") throw new ModelError(`${description} has LayerNorm, which subtracts a mean over the old basis; only models with RMSNorm can be rotated.`);
  if (config.router.gate?.kind === "sparsity") throw new ModelError(`${description} has a router that reads squares of single channels; only routers that read the residual by products can be rotated.`);
  if (auxiliariesOf(config.router) > 0) throw new ModelError(`${description} has auxiliary experts, whose vectors scale single channels of the old basis; rotate the model they were fitted to.`);
  if (config.onlinePruning?.keepRouter === true) throw new ModelError(`${description} has a mask router, which was fitted to the old basis; rotate first and calibrate online pruning afterwards.`);
  if (config.productExperts !== undefined) throw new ModelError(`${description} has product experts, whose halves write halves of the old basis; a model without them was expected.`);
  const rotate = rotationOf(by, config.hiddenSize, seed);
  const untied = config.tieWordEmbeddings;
  let rotated = 0;
  const tensors = [...checkpoint.places()].flatMap((place): TensorToWrite[] => {
    const meeting = meetingOf(place.name, config);
    if (meeting === null) return [unchanged(checkpoint, place.name)];
    if (meeting.as !== "norm") rotated++;
    return [{ name: place.name, type: "F32", nRows: place.nRows, nCols: place.nCols, read: () => inNewBasis(checkpoint, place, meeting, rotate) }];
  });
  if (untied) {
    // With the last norm's weights in it, the head is no longer what tokens are embedded with.
    const embed = checkpoint.place("embed");
    rotated++;
    tensors.push({ name: "head", type: "F32", nRows: embed.nRows, nCols: embed.nCols, read: () => inNewBasis(checkpoint, embed, { as: "reads", norm: "norm" }, rotate) });
  }
  const model = afterPass(checkpoint, { pass: "rotate", options: { by, seed } });
  let done = 0;
  await writeCanonical(sink, { ...model, config: { ...config, tieWordEmbeddings: false } }, tensors, { onTensor: () => onTensor(done++) });
  return { rotated, untied };
}

const bytesOf = (values: Float32Array<ArrayBuffer>): Uint8Array => new Uint8Array(values.buffer);

async function* inNewBasis(checkpoint: Checkpoint, place: MatrixPlace, meeting: NonNullable<Meeting>, rotate: Rotation): AsyncIterable<Uint8Array> {
  const { name, nRows, nCols, type, rowBytes } = place;
  if (meeting.as === "norm") return yield bytesOf(new Float32Array(nRows * nCols).fill(1));
  if (meeting.as === "writes" && nRows > 1) {
    const values = await checkpoint.readF32(name);
    const out = new Float32Array(nRows * nCols);
    const column = new Float64Array(nRows);
    for (let c = 0; c < nCols; c++) {
      for (let r = 0; r < nRows; r++) column[r] = values[r * nCols + c]!;
      rotate(column);
      for (let r = 0; r < nRows; r++) out[r * nCols + c] = column[r]!;
    }
    return yield bytesOf(out);
  }
  const norm = meeting.as === "reads" ? await checkpoint.readF32(meeting.norm) : null;
  const batch = rowsPerBatch(rowBytes, 1);
  const row = new Float64Array(nCols);
  for (let first = 0; first < nRows; first += batch) {
    const n = Math.min(batch, nRows - first);
    const values = decodeRows(type, await checkpoint.readRows(place, first, n), n, nCols);
    const out = new Float32Array(n * nCols);
    for (let r = 0; r < n; r++) {
      for (let i = 0; i < nCols; i++) row[i] = values[r * nCols + i]! * (norm === null ? 1 : norm[i]!);
      rotate(row);
      out.set(row, r * nCols);
    }
    yield bytesOf(out);
  }
}
