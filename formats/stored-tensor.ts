// One tensor of a checkpoint file: where its bytes are. What safetensors and GGUF readers deliver alike.
// Refuses decoding. Shapes are row-major, slowest dimension first, whatever the file's own order.

export interface StoredTensor {
  readonly name: string;
  readonly file: string;
  /** The file's own word for the element type, such as "BF16" or "Q4_K"; not all are StoredTypes. */
  readonly type: string;
  readonly shape: readonly number[];
  /** Absolute, in bytes from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** Throws (through `fail`) when two tensors of one file share bytes. */
export function refuseOverlaps(tensors: Iterable<StoredTensor>, fail: (message: string) => never): void {
  const byOffset = [...tensors].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let previous: StoredTensor | null = null;
  for (const t of byOffset) {
    if (previous !== null && t.offset < previous.offset + previous.bytes && t.bytes > 0) {
      fail(`tensor ${t.name} starts at byte ${t.offset}, inside tensor ${previous.name}, which ends at byte ${previous.offset + previous.bytes}`);
    }
    previous = t;
  }
}
