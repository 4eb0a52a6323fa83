// A model of one MatMulNBits node in ONNX's format, written byte by byte: y [M, N] = a [M, K] . dequantised(B [N, K])^T.
// Owns the protobuf encoding (onnx.proto, ModelProto) and the 4-bit weights with their scales. Sources: onnx.proto; onnxruntime's
// ContribOperators.md, com.microsoft.MatMulNBits: blocks of 32, zero point 8, low nibble first. Refuses other shapes than multiples of 32.

export const ONNX_BLOCK = 32;

const FLOAT = 1;
const UINT8 = 2;
const IR_VERSION = 8;
const OPSET = 17;

function varint(value: number): number[] {
  const out: number[] = [];
  let rest = BigInt(value);
  do {
    const byte = Number(rest & 127n);
    rest >>= 7n;
    out.push(rest > 0n ? byte | 128 : byte);
  } while (rest > 0n);
  return out;
}

const concat = (pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> => {
  const out = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
};

const number = (field: number, value: number): Uint8Array => Uint8Array.from([...varint(field << 3), ...varint(value)]);
const bytes = (field: number, value: Uint8Array): Uint8Array => concat([Uint8Array.from([...varint((field << 3) | 2), ...varint(value.length)]), value]);
const text = (field: number, value: string): Uint8Array => bytes(field, new TextEncoder().encode(value));
const message = (field: number, ...fields: readonly Uint8Array[]): Uint8Array => bytes(field, concat(fields));

const tensor = (name: string, dims: readonly number[], type: number, raw: Uint8Array): Uint8Array =>
  concat([...dims.map((n) => number(1, n)), number(2, type), text(8, name), bytes(9, raw)]);

/** An input or output [M, n] of f32 with M left open. */
const value = (name: string, n: number): Uint8Array =>
  concat([text(1, name), message(2, message(1, number(1, FLOAT), message(2, message(1, text(2, "M")), message(1, number(1, n)))))]);

const attribute = (name: string, integer: number): Uint8Array => concat([text(1, name), number(3, integer), number(20, 2)]);

/**
 * `packed` is [N][K / 32][16] bytes of nibble pairs, `scales` f32 [N][K / 32]; a weight is scale * (nibble - 8). `accuracyLevel` 4 lets
 * the runtime quantise activations to int8, 0 leaves the choice to it.
 */
export function matMulNBitsModel(n: number, k: number, packed: Uint8Array, scales: Float32Array, accuracyLevel: number): Uint8Array<ArrayBuffer> {
  if (k % ONNX_BLOCK !== 0 || packed.length !== (n * k) / 2 || scales.length !== (n * k) / ONNX_BLOCK) {
    throw new RangeError(`A product of ${n} x ${k} was asked for with ${packed.length} bytes of weights and ${scales.length} scales; expected ${(n * k) / 2} and ${(n * k) / ONNX_BLOCK}.`);
  }
  const node = concat([
    text(1, "a"), text(1, "b"), text(1, "scales"), text(2, "y"), text(3, "product"), text(4, "MatMulNBits"), text(7, "com.microsoft"),
    ...Object.entries({ K: k, N: n, bits: 4, block_size: ONNX_BLOCK, accuracy_level: accuracyLevel }).map(([name, of]) => bytes(5, attribute(name, of))),
  ]);
  const graph = concat([
    bytes(1, node), text(2, "graph"),
    bytes(5, tensor("b", [n, k / ONNX_BLOCK, ONNX_BLOCK / 2], UINT8, packed)),
    bytes(5, tensor("scales", [n * (k / ONNX_BLOCK)], FLOAT, new Uint8Array(scales.buffer, scales.byteOffset, scales.byteLength))),
    bytes(11, value("a", k)), bytes(12, value("y", n)),
  ]);
  return concat([
    number(1, IR_VERSION), bytes(7, graph), message(8, text(1, ""), number(2, OPSET)), message(8, text(1, "com.microsoft"), number(2, 1)),
  ]);
}

/** What the model computes, in f64: y [nTokens, n] of a [nTokens, k]. */
export function matMulNBitsReference(n: number, k: number, packed: Uint8Array, scales: Float32Array, a: Float32Array): Float64Array {
  const nTokens = a.length / k;
  const y = new Float64Array(nTokens * n);
  for (let t = 0; t < nTokens; t++) {
    for (let row = 0; row < n; row++) {
      let sum = 0;
      for (let i = 0; i < k; i++) {
        const byte = packed[(row * k + i) >> 1]!;
        sum += a[t * k + i]! * scales[Math.floor((row * k + i) / ONNX_BLOCK)]! * (((i & 1) === 0 ? byte & 15 : byte >> 4) - 8);
      }
      y[t * n + row] = sum;
    }
  }
  return y;
}
