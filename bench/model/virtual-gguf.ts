// GGUF files that exist only while they are read: a real header, and data made on the fly from the place it is read at. Owns files of any size as a
// ByteSource, the same bytes at every read. Refuses quality: weights are drawn, and their blocks come from a small pool.

import { type ByteSource, SourceError } from "../../formats/byte-source.ts";
import { GGML_TYPES } from "../../formats/gguf-types.ts";
import { encodeRows, noLoss } from "../../formats/quantize.ts";
import { type Field, type HeaderTensor, ggufHeader, padded } from "./gguf-header.ts";
import { RandomSource, seedOf } from "./random-source.ts";

export type VirtualType = "F32" | "BF16" | "Q8_0" | "Q4_K" | "Q6_K";
const TYPE_IDS: Readonly<Record<VirtualType, number>> = { F32: 0, BF16: 30, Q8_0: 8, Q4_K: 12, Q6_K: 14 };

export interface VirtualTensor {
  readonly name: string;
  readonly type: VirtualType;
  /** Slowest dimension first. */
  readonly shape: readonly number[];
}

const CHUNK_BYTES = 1 << 20;
/** Values of the pool that a type's blocks are drawn from: a prime number of blocks, so that pages do not repeat in step with rows. */
const POOL_BLOCKS = 4099;

/** Blocks of normal weights of deviation 0.02. */
function poolOf(type: VirtualType): Uint8Array {
  const { elements } = GGML_TYPES.get(TYPE_IDS[type])!;
  const values = new Float32Array(POOL_BLOCKS * elements);
  new RandomSource(seedOf(type, 1)).fillNormal(values, 0.02);
  if (type !== "BF16") return encodeRows(type, "pool", values, POOL_BLOCKS, elements, noLoss());
  return new Uint8Array(Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16).buffer);
}

export class VirtualGguf implements ByteSource {
  readonly description = "virtual file";
  readonly hasRanges = true;
  readonly bytes: number;
  readonly #header: Uint8Array;
  readonly #tensors: readonly (HeaderTensor & { readonly type: VirtualType; readonly start: number })[];
  readonly #pools = new Map<VirtualType, Uint8Array>();

  constructor(metadata: Readonly<Record<string, Field>>, tensors: readonly VirtualTensor[]) {
    const sized = tensors.map((t) => {
      const { elements, bytes } = GGML_TYPES.get(TYPE_IDS[t.type])!;
      return { ...t, typeId: TYPE_IDS[t.type], bytes: (t.shape.reduce((n, d) => n * d, 1) / elements) * bytes };
    });
    this.#header = ggufHeader(metadata, sized);
    let at = this.#header.length;
    this.#tensors = sized.map((t) => {
      const start = at;
      at += padded(t.bytes);
      return { ...t, start };
    });
    this.bytes = at;
    for (const { type } of tensors) if (!this.#pools.has(type)) this.#pools.set(type, poolOf(type));
  }

  async size(name: string): Promise<number | null> {
    return name === "model.gguf" ? this.bytes : null;
  }

  async *read(name: string, offset = 0, length: number = this.bytes - offset): AsyncIterable<Uint8Array> {
    if (name !== "model.gguf" || offset + length > this.bytes) throw new SourceError(`${this.description} has no bytes ${offset} to ${offset + length} of ${name}.`);
    for (let at = offset; at < offset + length; at += CHUNK_BYTES) {
      const out = new Uint8Array(Math.min(CHUNK_BYTES, offset + length - at));
      this.#fill(out, at);
      yield out;
    }
  }

  #fill(out: Uint8Array, at: number): void {
    const end = at + out.length;
    if (at < this.#header.length) out.set(this.#header.subarray(at, end));
    let first = 0; // the last tensor that starts at or before `at`
    for (let high = this.#tensors.length - 1; first < high; ) {
      const middle = Math.ceil((first + high) / 2);
      if (this.#tensors[middle]!.start <= at) first = middle;
      else high = middle - 1;
    }
    for (let i = first; i < this.#tensors.length && this.#tensors[i]!.start < end; i++) {
      const { start, bytes, type } = this.#tensors[i]!;
      const pool = this.#pools.get(type)!;
      const blockBytes = GGML_TYPES.get(TYPE_IDS[type])!.bytes;
      // A page is the pool, turned by a number of blocks of its own: pages of one tensor, and of several, differ.
      for (let byte = Math.max(at, start) - start; byte < Math.min(end, start + bytes) - start; ) {
        const page = Math.floor(byte / pool.length);
        const turned = (byte - page * pool.length + ((page * 2654435761 + i * 40503) % POOL_BLOCKS) * blockBytes) % pool.length;
        const n = Math.min(pool.length - turned, (page + 1) * pool.length - byte, end - start - byte, bytes - byte);
        out.set(pool.subarray(turned, turned + n), start + byte - at);
        byte += n;
      }
    }
  }
}
