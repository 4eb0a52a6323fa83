// Reads the header of one GGUF file, versions 2 and 3: metadata and tensor table. Owns the checks of counts, lengths, sizes and offsets; nothing
// is allocated for a length that the file has not got. Refuses big-endian files, unknown value types, names given twice, text that is not
// UTF-8, and tensors beyond the end of the file. Values of tensors are read by ranges elsewhere. Numbers of 64 bits are read as far as 2^53.
// Format: ggml's docs/gguf.md.

import { type ByteSource, SourceError } from "./byte-source.ts";
import { GGML_TYPES } from "./gguf-types.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import { readBytes } from "./read-bytes.ts";
import { type StoredTensor, refuseOverlaps } from "./stored-tensor.ts";

export type GgufValue = number | boolean | string | GgufValue[];

export interface GgufFile {
  readonly version: number;
  readonly metadata: Readonly<Record<string, GgufValue>>;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** The header's bytes, up to the tensor data. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** The bytes at hand end before the header does. */
class NeedMore extends Error {}

/** Least bytes of a metadata field (length of its key, type, value) and of an entry of the tensor table (length, dimensions, one of them, type, offset). */
const FIELD_BYTES = 8 + 4 + 1;
const TENSOR_BYTES = 8 + 4 + 8 + 4 + 8;
/** Bytes of a value of types 0 to 12; of a string and an array the least. */
const VALUE_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8] as const;

/** Reads and checks the header. Throws SourceError naming file, tensor or field, found and expected. */
export async function readGgufFile(source: ByteSource, file: string): Promise<GgufFile> {
  const size = await source.size(file);
  if (size === null) throw new SourceError(`${source.description} has no file ${file}.`);
  let bytes = new Uint8Array(0);
  for (let length = Math.min(size, 1 << 20); ; length = Math.min(size, length * 4)) {
    if (length > FORMAT_LIMITS.ggufHeaderBytes) {
      throw new SourceError(`${source.description}, ${file}: the header goes on beyond ${FORMAT_LIMITS.ggufHeaderBytes} bytes.`);
    }
    const longer = new Uint8Array(length);
    longer.set(bytes);
    longer.set(await readBytes(source, file, bytes.length, length - bytes.length), bytes.length);
    bytes = longer;
    try {
      return new HeaderParser(source, file, size, bytes).parse();
    } catch (error) {
      if (!(error instanceof NeedMore)) throw error;
      if (length === size) {
        throw new SourceError(`${source.description}, ${file}: the file is cut short within its header: ${error.message} at byte ${size}, the end of the file.`);
      }
    }
  }
}

class HeaderParser {
  readonly #view: DataView;
  readonly #where: string;
  readonly #file: string;
  readonly #size: number;
  readonly #bytes: Uint8Array<ArrayBuffer>;
  #at = 0;
  #reading = "magic and version";

  constructor(source: ByteSource, file: string, size: number, bytes: Uint8Array<ArrayBuffer>) {
    this.#where = `${source.description}, ${file}`;
    this.#file = file;
    this.#size = size;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
  }

  parse(): GgufFile {
    if (this.#u32() !== 0x46554747) this.#fail("the file does not start with the bytes GGUF");
    const version = this.#u32();
    if (version === 0x02000000 || version === 0x03000000) this.#fail("the file is big-endian, expected little-endian");
    if (version !== 2 && version !== 3) this.#fail(`found GGUF version ${version}, expected 2 or 3`);
    this.#reading = "counts";
    const nTensors = this.#u64();
    const nFields = this.#u64();
    this.#checkCount(nFields, "metadata fields", FORMAT_LIMITS.ggufFields, FIELD_BYTES);
    this.#checkCount(nTensors, "tensors", FORMAT_LIMITS.ggufTensors, TENSOR_BYTES);
    const metadata = Object.create(null) as Record<string, GgufValue>; // keys are the file's: __proto__ is one like any other
    for (let i = 0; i < nFields; i++) {
      this.#reading = `the key of metadata field ${i + 1} of ${nFields}`;
      const key = this.#string();
      this.#reading = `metadata field ${key}`;
      if (key in metadata) this.#fail(`metadata key ${key} comes twice`);
      metadata[key] = this.#value(this.#u32(), 0);
    }
    const alignment = metadata["general.alignment"] ?? 32;
    if (typeof alignment !== "number" || !isPowerOfTwo(alignment) || alignment > FORMAT_LIMITS.ggufAlignment) {
      return this.#fail(`general.alignment is ${JSON.stringify(alignment)}, expected a power of two up to ${FORMAT_LIMITS.ggufAlignment}`);
    }
    return { version, metadata, ...this.#tensors(nTensors, alignment) };
  }

  #tensors(nTensors: number, alignment: number): { tensors: Map<string, StoredTensor>; bytes: Uint8Array<ArrayBuffer> } {
    const table: { name: string; shape: number[]; typeId: number; offset: number }[] = [];
    for (let i = 0; i < nTensors; i++) {
      this.#reading = `tensor ${i + 1} of ${nTensors} in the table`;
      const name = this.#string();
      this.#reading = `table entry of tensor ${name}`;
      const nDims = this.#u32();
      if (nDims < 1 || nDims > 4) this.#fail(`tensor ${name} has ${nDims} dimensions, expected 1 to 4`);
      const shape = Array.from({ length: nDims }, () => this.#u64()).reverse();
      table.push({ name, shape, typeId: this.#u32(), offset: this.#u64() });
    }
    const dataStart = Math.ceil(this.#at / alignment) * alignment;
    const out = new Map<string, StoredTensor>();
    for (const { name, shape, typeId, offset } of table) {
      if (out.has(name)) this.#fail(`tensor ${name} comes twice`);
      const type = GGML_TYPES.get(typeId) ?? this.#fail(`tensor ${name} has type number ${typeId}, which is no known ggml type`);
      const elements = shape.reduce((n, d) => n * d, 1);
      if (elements === 0) this.#fail(`tensor ${name} has shape [${shape.join(", ")}], expected dimensions of at least 1`);
      if (!Number.isSafeInteger(elements)) this.#fail(`tensor ${name} has shape [${shape.join(", ")}], more values than 2^53`);
      const nCols = shape.at(-1)!;
      if (nCols % type.elements !== 0) this.#fail(`tensor ${name} has rows of ${nCols}, expected a multiple of ${type.elements}, the block of ${type.name}`);
      const bytes = (elements / type.elements) * type.bytes;
      if (offset % alignment !== 0) this.#fail(`tensor ${name} starts at byte ${offset} of the data, expected a multiple of the alignment ${alignment}`);
      const end = dataStart + offset + bytes;
      if (!Number.isSafeInteger(end)) this.#fail(`tensor ${name} ends beyond byte 2^53`);
      if (end > this.#size) {
        this.#fail(`tensor ${name} (${type.name} [${shape.join(", ")}]) ends at byte ${end}, but the file has only ${this.#size} bytes; it is cut short`);
      }
      out.set(name, { name, file: this.#file, type: type.name, shape, offset: dataStart + offset, bytes });
    }
    refuseOverlaps(out.values(), (m) => this.#fail(m));
    return { tensors: out, bytes: this.#bytes.slice(0, this.#at) };
  }

  #value(type: number, depth: number): GgufValue {
    const v = this.#view;
    switch (type) {
      case 0: return v.getUint8(this.#take(1));
      case 1: return v.getInt8(this.#take(1));
      case 2: return v.getUint16(this.#take(2), true);
      case 3: return v.getInt16(this.#take(2), true);
      case 4: return v.getUint32(this.#take(4), true);
      case 5: return v.getInt32(this.#take(4), true);
      case 6: return v.getFloat32(this.#take(4), true);
      case 7: {
        const byte = v.getUint8(this.#take(1));
        if (byte > 1) this.#fail(`${this.#reading} holds the truth value ${byte}, expected 0 or 1`);
        return byte === 1;
      }
      case 8: return this.#string();
      case 9: return this.#array(depth);
      case 10: return this.#u64();
      case 11: {
        const value = v.getBigInt64(this.#take(8), true);
        if (!Number.isSafeInteger(Number(value))) this.#fail(`${this.#reading} is ${value}, expected a number within 2^53`);
        return Number(value);
      }
      case 12: return v.getFloat64(this.#take(8), true);
      default: return this.#fail(`${this.#reading} has value type ${type}, expected 0 to 12`);
    }
  }

  #array(depth: number): GgufValue[] {
    if (depth > 2) this.#fail(`${this.#reading} nests arrays more than 3 deep`);
    const elementType = this.#u32();
    const elementBytes = VALUE_BYTES[elementType] ?? this.#fail(`${this.#reading} is an array of value type ${elementType}, expected 0 to 12`);
    const n = this.#u64();
    this.#checkCount(n, `values in ${this.#reading}`, FORMAT_LIMITS.ggufArrayValues, elementBytes);
    if (n * elementBytes > this.#bytes.length - this.#at) throw new NeedMore(`expected ${n * elementBytes} more bytes for ${this.#reading}`);
    const reading = this.#reading;
    const out: GgufValue[] = [];
    for (let i = 0; i < n; i++) {
      this.#reading = `${reading}[${i}]`;
      out.push(this.#value(elementType, depth + 1));
    }
    this.#reading = reading;
    return out;
  }

  /** Refuses a count that the rest of the file cannot hold, before anything is read or allocated for it. */
  #checkCount(n: number, what: string, limit: number, leastBytes: number): void {
    const left = this.#size - this.#at;
    if (n * leastBytes > left) this.#fail(`the header announces ${n} ${what}, at least ${n * leastBytes} bytes, but the file has only ${left} bytes left`);
    if (n > limit) this.#fail(`the header announces ${n} ${what}, expected at most ${limit}`);
  }

  #u32(): number { return this.#view.getUint32(this.#take(4), true); }

  #u64(): number {
    const value = this.#view.getBigUint64(this.#take(8), true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) this.#fail(`${this.#reading}: found the number ${value}, expected one within 2^53`);
    return Number(value);
  }

  #string(): string {
    const length = this.#u64();
    if (length > this.#size - this.#at) this.#fail(`${this.#reading} is a text of ${length} bytes, but the file has only ${this.#size - this.#at} bytes left`);
    const at = this.#take(length);
    try {
      return UTF8.decode(this.#bytes.subarray(at, at + length));
    } catch {
      return this.#fail(`${this.#reading} is no valid UTF-8`);
    }
  }

  #take(n: number): number {
    const at = this.#at;
    if (at + n > this.#bytes.length) throw new NeedMore(`expected ${n} more bytes for ${this.#reading}`);
    this.#at += n;
    return at;
  }

  #fail(message: string): never {
    throw new SourceError(`${this.#where}: ${message}.`);
  }
}

const isPowerOfTwo = (n: number): boolean => n >= 1 && 2 ** Math.round(Math.log2(n)) === n;

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
