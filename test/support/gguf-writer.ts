// Writes GGUF files for tests, version 2 or 3 (ggml's docs/gguf.md): metadata, tensor table, aligned data.
// Written independently of the reader; another reader (@huggingface/gguf) checks it. Refuses nothing.

const TYPE_IDS: Readonly<Record<string, number>> = {
  F32: 0, F16: 1, Q4_0: 2, Q4_1: 3, Q5_0: 6, Q5_1: 7, Q8_0: 8, Q2_K: 10, Q3_K: 11, Q4_K: 12, Q5_K: 13, Q6_K: 14, IQ4_NL: 20, IQ4_XS: 23, BF16: 30, MXFP4: 39,
};

export interface GgufTensor {
  readonly name: string;
  readonly type: string;
  /** Written in place of the type's number, for files with types this version does not read. */
  readonly typeId?: number;
  /** Row-major shape, slowest first, as [experts, rows, cols]; the file holds it reversed. */
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** A metadata value; numbers are written as the type says. */
export type GgufField =
  | { readonly type: "u32" | "f32"; readonly value: number }
  | { readonly type: "u64"; readonly value: bigint }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | { readonly type: "strings"; readonly value: readonly string[] }
  | { readonly type: "f32s" | "i32s"; readonly value: readonly number[] };

export const u32 = (value: number): GgufField => ({ type: "u32", value });
export const f32 = (value: number): GgufField => ({ type: "f32", value });
export const text = (value: string): GgufField => ({ type: "string", value });
export const flag = (value: boolean): GgufField => ({ type: "bool", value });

class Bytes {
  #chunks: Uint8Array[] = [];
  length = 0;

  raw(bytes: Uint8Array): void {
    this.#chunks.push(bytes);
    this.length += bytes.length;
  }

  number(size: 1 | 4 | 8, set: (view: DataView) => void): void {
    const bytes = new Uint8Array(size);
    set(new DataView(bytes.buffer));
    this.raw(bytes);
  }

  u32(value: number): void { this.number(4, (v) => v.setUint32(0, value, true)); }
  f32(value: number): void { this.number(4, (v) => v.setFloat32(0, value, true)); }
  u64(value: number | bigint): void { this.number(8, (v) => v.setBigUint64(0, BigInt(value), true)); }

  string(value: string): void {
    const bytes = new TextEncoder().encode(value);
    this.u64(bytes.length);
    this.raw(bytes);
  }

  pad(to: number): void { this.raw(new Uint8Array((to - (this.length % to)) % to)); }

  join(): Uint8Array {
    const out = new Uint8Array(this.length);
    let at = 0;
    for (const c of this.#chunks) {
      out.set(c, at);
      at += c.length;
    }
    return out;
  }
}

function writeField(out: Bytes, f: GgufField): void {
  const array = (elementType: number, n: number) => { out.u32(9); out.u32(elementType); out.u64(n); };
  switch (f.type) {
    case "u32": out.u32(4); out.u32(f.value); break;
    case "f32": out.u32(6); out.f32(f.value); break;
    case "u64": out.u32(10); out.u64(f.value); break;
    case "bool": out.u32(7); out.raw(Uint8Array.of(f.value ? 1 : 0)); break;
    case "string": out.u32(8); out.string(f.value); break;
    case "strings": array(8, f.value.length); for (const s of f.value) out.string(s); break;
    case "f32s": array(6, f.value.length); for (const x of f.value) out.f32(x); break;
    case "i32s": array(5, f.value.length); for (const x of f.value) out.number(4, (v) => v.setInt32(0, x, true)); break;
  }
}

export function ggufFile(metadata: ReadonlyMap<string, GgufField>, tensors: readonly GgufTensor[], { version = 3, alignment = 32 } = {}): Uint8Array {
  const fields = new Map(metadata);
  if (alignment !== 32) fields.set("general.alignment", u32(alignment));
  const head = new Bytes();
  head.raw(new TextEncoder().encode("GGUF"));
  head.u32(version);
  head.u64(tensors.length);
  head.u64(fields.size);
  for (const [key, field] of fields) {
    head.string(key);
    writeField(head, field);
  }
  const data = new Bytes();
  for (const t of tensors) {
    data.pad(alignment);
    head.string(t.name);
    head.u32(t.shape.length);
    for (const n of t.shape.toReversed()) head.u64(n);
    head.u32(t.typeId ?? TYPE_IDS[t.type]!);
    head.u64(data.length);
    data.raw(t.bytes);
  }
  head.pad(alignment);
  data.pad(alignment);
  head.raw(data.join());
  return head.join();
}
