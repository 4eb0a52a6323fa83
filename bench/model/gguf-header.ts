// The head of a GGUF file of version 3: metadata, tensor table, and the padding before the data.
// Owns the layout (ggml's docs/gguf.md) and the offsets of the tensors. Refuses values; whoever has them writes them after the head, each
// tensor padded to the alignment.

export const ALIGNMENT = 32;

export type Field =
  | { readonly type: "u32" | "f32"; readonly value: number }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | { readonly type: "strings"; readonly value: readonly string[] }
  | { readonly type: "i32s"; readonly value: readonly number[] };

export interface HeaderTensor {
  readonly name: string;
  /** ggml's number of the element type. */
  readonly typeId: number;
  /** Slowest dimension first, as [experts, rows, cols]; the file holds it reversed. */
  readonly shape: readonly number[];
  readonly bytes: number;
}

const VALUE_TYPES = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const;

export const padded = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

export function ggufHeader(metadata: Readonly<Record<string, Field>>, tensors: readonly HeaderTensor[]): Uint8Array {
  const pieces: Uint8Array[] = [];
  const number = (bytes: 1 | 4 | 8, set: (view: DataView) => void): void => {
    const piece = new Uint8Array(bytes);
    set(new DataView(piece.buffer));
    pieces.push(piece);
  };
  const u32 = (value: number): void => number(4, (view) => view.setUint32(0, value, true));
  const u64 = (value: number): void => number(8, (view) => view.setBigUint64(0, BigInt(value), true));
  const string = (value: string): void => {
    const bytes = new TextEncoder().encode(value);
    u64(bytes.length);
    pieces.push(bytes);
  };
  const array = (elementType: number, length: number): void => {
    u32(VALUE_TYPES.array);
    u32(elementType);
    u64(length);
  };
  pieces.push(new TextEncoder().encode("GGUF"));
  u32(3);
  u64(tensors.length);
  u64(Object.keys(metadata).length);
  for (const [key, field] of Object.entries(metadata)) {
    string(key);
    switch (field.type) {
      case "u32": u32(VALUE_TYPES.u32); u32(field.value); break;
      case "f32": u32(VALUE_TYPES.f32); number(4, (view) => view.setFloat32(0, field.value, true)); break;
      case "bool": u32(VALUE_TYPES.bool); number(1, (view) => view.setUint8(0, field.value ? 1 : 0)); break;
      case "string": u32(VALUE_TYPES.string); string(field.value); break;
      case "strings": array(VALUE_TYPES.string, field.value.length); field.value.forEach(string); break;
      case "i32s": array(VALUE_TYPES.i32, field.value.length); for (const value of field.value) number(4, (view) => view.setInt32(0, value, true)); break;
    }
  }
  let offset = 0;
  for (const tensor of tensors) {
    string(tensor.name);
    u32(tensor.shape.length);
    for (const n of tensor.shape.toReversed()) u64(n);
    u32(tensor.typeId);
    u64(offset);
    offset += padded(tensor.bytes);
  }
  const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const out = new Uint8Array(padded(length));
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}
