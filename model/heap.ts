// The one allocator over a kernel memory: weights, KV pages, scratch and frames all take their bytes here.
// Owns addresses and the account of bytes by purpose. Refuses to exceed its limit: the error carries the numbers.
// First fit over a sorted free list; allocations are few and large (blobs, pages, regions), never per token.

const ALIGN = 64;
const WASM_PAGE = 65536;

/** What an allocation of `bytes` takes from a heap. */
export const allocatedBytes = (bytes: number): number => Math.max(ALIGN, Math.ceil(bytes / ALIGN) * ALIGN);

/** A reservation does not fit the limit of this memory. Nothing was allocated. */
export class CapacityError extends Error {
  override readonly name = "CapacityError";
}

interface Span {
  start: number;
  end: number;
}

export class Heap {
  readonly memory: WebAssembly.Memory;
  readonly limitBytes: number;
  #free: Span[];
  #live = new Map<number, { bytes: number; purpose: string }>();
  #usedBytes = 0;
  #buffer: ArrayBuffer | null = null;
  #u8 = new Uint8Array(0);
  #u16 = new Uint16Array(0);
  #u32 = new Uint32Array(0);
  #f32 = new Float32Array(0);

  /** Hands out [base, base + limitBytes) of `memory`, growing it as needed. */
  constructor(memory: WebAssembly.Memory, base: number, limitBytes: number) {
    this.memory = memory;
    this.limitBytes = limitBytes;
    const start = Math.ceil(base / ALIGN) * ALIGN;
    this.#free = [{ start, end: start + limitBytes }];
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Bytes in use by purpose, for /health and error messages. */
  account(): Record<string, number> {
    const out: Record<string, number> = {};
    for (const { bytes, purpose } of this.#live.values()) out[purpose] = (out[purpose] ?? 0) + bytes;
    return out;
  }

  /** Address of `bytes` fresh bytes, 64-aligned, content undefined. Throws CapacityError. */
  alloc(bytes: number, purpose: string): number {
    const size = allocatedBytes(bytes);
    const at = this.#free.findIndex((span) => span.end - span.start >= size);
    const span = this.#free[at];
    if (span === undefined) throw this.#capacityError(size, purpose);
    const ptr = span.start;
    this.#ensure(ptr + size, purpose);
    span.start += size;
    if (span.start === span.end) this.#free.splice(at, 1);
    this.#live.set(ptr, { bytes: size, purpose });
    this.#usedBytes += size;
    return ptr;
  }

  /** Gives an allocation back. */
  free(ptr: number): void {
    const live = this.#live.get(ptr);
    if (live === undefined) throw new Error(`Heap.free got address ${ptr}, which is not a live allocation.`);
    this.#live.delete(ptr);
    this.#usedBytes -= live.bytes;
    let at = this.#free.findIndex((span) => span.start > ptr);
    if (at < 0) at = this.#free.length;
    this.#free.splice(at, 0, { start: ptr, end: ptr + live.bytes });
    for (let i = Math.max(0, at - 1); i < this.#free.length - 1 && i <= at; ) {
      const [here, next] = [this.#free[i]!, this.#free[i + 1]!];
      if (here.end === next.start) {
        here.end = next.end;
        this.#free.splice(i + 1, 1);
      } else i++;
    }
  }

  get u8(): Uint8Array<ArrayBuffer> { this.#refresh(); return this.#u8; }
  get u16(): Uint16Array<ArrayBuffer> { this.#refresh(); return this.#u16; }
  get u32(): Uint32Array<ArrayBuffer> { this.#refresh(); return this.#u32; }
  get f32(): Float32Array<ArrayBuffer> { this.#refresh(); return this.#f32; }

  /** Views become stale when the memory grows, so they are compared by buffer at each use. */
  #refresh(): void {
    const buffer = this.memory.buffer as ArrayBuffer;
    if (buffer === this.#buffer) return;
    this.#buffer = buffer;
    this.#u8 = new Uint8Array(buffer);
    this.#u16 = new Uint16Array(buffer);
    this.#u32 = new Uint32Array(buffer);
    this.#f32 = new Float32Array(buffer);
  }

  #ensure(end: number, purpose: string): void {
    const missing = end - this.memory.buffer.byteLength;
    if (missing <= 0) return;
    try {
      this.memory.grow(Math.ceil(missing / WASM_PAGE));
    } catch (cause) {
      throw new CapacityError(`The WebAssembly memory could not grow to ${end} bytes for ${purpose}: it has ${this.memory.buffer.byteLength}.`, { cause });
    }
  }

  #capacityError(bytes: number, purpose: string): CapacityError {
    const account = Object.entries(this.account()).map(([key, value]) => `${key} ${value}`).join(", ");
    return new CapacityError(
      `${purpose} needs ${bytes} bytes of kernel memory; ${this.limitBytes - this.#usedBytes} of ${this.limitBytes} are free (in use: ${account || "nothing"}).`);
  }
}
