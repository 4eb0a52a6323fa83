// Whole rows of logits of a model that is cut by a plan's stages, in this process: an engine for each stage with a memory of its own, residual rows and answers handed on as bare arrays.
// Owns the walk round the ring and the comparison, bit by bit, with a file of rows as `workers-moe logits` writes it. Refuses wires and shards: experts are computed by their stage.
// What a log-probability tells of all logits of its row together, this tells of each.

import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { kernelModules } from "../cli/open-pack.ts";
import type { ByteSource } from "../formats/byte-source.ts";
import { loadModel } from "../formats/load-model.ts";
import type { PackManifest } from "../formats/manifest.ts";
import { Engine } from "../model/engine.ts";
import type { StepEntry } from "../model/step.ts";
import { Heap } from "../model/heap.ts";
import { ExpertRunner, LocalExperts } from "../model/local-experts.ts";
import type { HeadPart } from "../model/ring-logits.ts";
import { isEmpty, type StageSpan } from "../model/stage-span.ts";
import { chooseKernels, RESERVED_BYTES } from "../model/wasm-kernels.ts";

const HEAP_LIMIT_BYTES = 4 * 1024 ** 3 - 2 * 65536;
/** Tokens of a step: other chunks than the command's, which must not matter. */
const STEP_TOKENS = 48;

async function openStage(source: ByteSource, manifest: PackManifest, span: StageSpan): Promise<Engine> {
  const memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / 65536, maximum: 65536 });
  const { kernels } = chooseKernels({ modules: kernelModules(), memory });
  const heap = new Heap(memory, RESERVED_BYTES, HEAP_LIMIT_BYTES);
  const { trunk, lookup, segmentCounts, shared, maxSegmentWidth } = await loadModel(source, manifest, heap, undefined, span);
  const { config, kvFormat, activations } = manifest;
  const runner = new ExpertRunner(kernels, heap, config, maxSegmentWidth, STEP_TOKENS);
  return new Engine({
    config, kernels, heap, trunk, segmentCounts, shared, kvFormat, activations, maxChunkTokens: STEP_TOKENS, experts: new LocalExperts(runner, lookup),
  });
}

/** Evaluates `ids` as one sequence round the ring; hands out the logits of every position in order, f32 [vocabulary] each. */
export async function evaluateCut(source: ByteSource, manifest: PackManifest, spans: readonly StageSpan[], ids: readonly number[], onLogits: (position: number, logits: Float32Array) => void): Promise<void> {
  const { vocabSize } = manifest.config;
  const engines: Engine[] = [];
  for (const span of spans) engines.push(await openStage(source, manifest, span));
  const [first] = engines;
  const timelines = engines.map(({ kv }) => kv.open(ids.length));
  for (let done = 0; done < ids.length; done += STEP_TOKENS) {
    const entriesOf = (stage: number): StepEntry[] => [{ timeline: timelines[stage]!, ids: ids.slice(done, done + STEP_TOKENS), logits: "all" }];
    const plan = first!.plan(entriesOf(0));
    const asks = plan.rows.map(({ ask }) => ask);
    let rows: Float32Array | null = null;
    for (const [stage, engine] of engines.entries()) {
      if (isEmpty(engine.span.layers) && isEmpty(engine.span.embeddingRows)) continue;
      rows = (await engine.pass({ entries: entriesOf(stage), rows, asked: asks.map(({ token }) => token) })).rows;
    }
    const parts = engines.filter(({ span }) => !isEmpty(span.headRows)).map((engine): HeadPart => ({ headRows: engine.span.headRows, answers: engine.answers(asks, rows!) }));
    const { logits } = first!.conclude(plan, rows!, parts)[0]!;
    for (let i = 0; i * vocabSize < logits.length; i++) onLogits(done + i, logits.subarray(i * vocabSize, (i + 1) * vocabSize));
  }
}

/** Rows of f32 in a file, little-endian, read one by one. Throws where the file has not the length of so many. */
export class RowFile {
  readonly #file: number;
  readonly #row: Float32Array<ArrayBuffer>;

  constructor(path: string, nRows: number, rowLength: number) {
    this.#file = openSync(path, "r");
    this.#row = new Float32Array(rowLength);
    const { size } = fstatSync(this.#file);
    if (size !== nRows * rowLength * 4) throw new Error(`${path} holds ${size} bytes; ${nRows * rowLength * 4} were expected, ${nRows} rows of ${rowLength} numbers.`);
  }

  /** Good until the next call. */
  row(number: number): Float32Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.#row.buffer);
    for (let at = 0; at < bytes.length;) {
      const read = readSync(this.#file, bytes, at, bytes.length - at, number * bytes.length + at);
      if (read === 0) throw new Error(`Row ${number} of a file of logits ends after ${at} of ${bytes.length} bytes.`);
      at += read;
    }
    return this.#row;
  }

  close(): void { closeSync(this.#file); }
}

/** Places where two rows have not the same bits. Both begin at a multiple of four bytes. */
export function otherBits(a: Float32Array, b: Float32Array): number[] {
  if (a.length !== b.length) throw new RangeError(`A row of ${a.length} numbers was compared with one of ${b.length}.`);
  const [left, right] = [new Uint32Array(a.buffer, a.byteOffset, a.length), new Uint32Array(b.buffer, b.byteOffset, b.length)];
  const found: number[] = [];
  for (let i = 0; i < left.length; i++) if (left[i] !== right[i]) found.push(i);
  return found;
}
