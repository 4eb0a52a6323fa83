// Reads a GGUF model: one file, or the files <name>-00001-of-0000N.gguf of a split one, whichever of them is named. Owns what makes files one
// model: split.no, split.count and split.tensors.count of every one. Refuses models of which a file is missing, and names what it looked for.
// One file's header is gguf-header.ts. Format of splits: llama.cpp, tools/gguf-split and llama_split_path.

import { type ByteSource, SourceError } from "./byte-source.ts";
import { type GgufFile, type GgufValue, readGgufFile } from "./gguf-header.ts";
import type { StoredTensor } from "./stored-tensor.ts";

export type { GgufValue } from "./gguf-header.ts";

export interface GgufHeader {
  /** Of the file, or of the files without their numbers. */
  readonly name: string;
  /** In order. */
  readonly files: readonly string[];
  readonly version: number;
  /** Of the first file. */
  readonly metadata: Readonly<Record<string, GgufValue>>;
  /** Of all files. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** The headers' bytes, one after the other. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

const SPLIT_NAME = /^(?<name>.*)-(?<no>\d{5})-of-(?<count>\d{5})\.gguf$/s;
const splitName = (name: string, no: number, count: number): string => `${name}-${String(no + 1).padStart(5, "0")}-of-${String(count).padStart(5, "0")}.gguf`;

/** Reads and checks the headers of a model of which `file` is one file. Throws SourceError naming file, tensor or field, found and expected. */
export async function readGgufHeader(source: ByteSource, file: string): Promise<GgufHeader> {
  const asked = await readGgufFile(source, file);
  const count = whole(source, file, asked, "split.count") ?? 1;
  if (count <= 1) return { ...asked, name: file.replace(/\.gguf$/, ""), files: [file] };
  const no = whole(source, file, asked, "split.no");
  const named = SPLIT_NAME.exec(file)?.groups;
  if (no === null || no >= count) throw new SourceError(`${source.description}, ${file}: split.no is ${no ?? "missing"}, expected 0 to ${count - 1}, for split.count is ${count}.`);
  if (named === undefined || Number(named["no"]) !== no + 1 || Number(named["count"]) !== count) {
    throw new SourceError(`${source.description}, ${file}: the file is number ${no + 1} of a model split over ${count}, but its name does not say so; `
      + `expected a name like ${splitName(named?.["name"] ?? file.replace(/\.gguf$/, ""), no, count)}, from which those of the others follow.`);
  }
  const files = Array.from({ length: count }, (_, i) => splitName(named["name"]!, i, count));
  const read: GgufFile[] = [];
  for (const [i, other] of files.entries()) read.push(other === file ? asked : await readSplit(source, other, i, count));
  return { name: named["name"]!, files, version: read[0]!.version, metadata: read[0]!.metadata, tensors: allTensors(source, files, read), bytes: join(read) };
}

async function readSplit(source: ByteSource, file: string, no: number, count: number): Promise<GgufFile> {
  if ((await source.size(file)) === null) throw new SourceError(`${source.description}: ${file}, number ${no + 1} of the ${count} files of this model, is missing.`);
  const split = await readGgufFile(source, file);
  for (const [key, expected] of [["split.count", count], ["split.no", no]] as const) {
    const found = whole(source, file, split, key);
    if (found !== expected) throw new SourceError(`${source.description}, ${file}: ${key} is ${found ?? "missing"}, expected ${expected} by its name.`);
  }
  return split;
}

function allTensors(source: ByteSource, files: readonly string[], read: readonly GgufFile[]): Map<string, StoredTensor> {
  const out = new Map<string, StoredTensor>();
  for (const { tensors } of read) {
    for (const [name, tensor] of tensors) {
      const first = out.get(name);
      if (first !== undefined) throw new SourceError(`${source.description}: tensor ${name} is both in ${first.file} and in ${tensor.file}.`);
      out.set(name, tensor);
    }
  }
  for (const [i, file] of files.entries()) {
    const expected = whole(source, file, read[i]!, "split.tensors.count");
    if (expected !== null && expected !== out.size) {
      throw new SourceError(`${source.description}, ${file}: split.tensors.count is ${expected}, but the ${files.length} files hold ${out.size} tensors.`);
    }
  }
  return out;
}

/** A whole number of the metadata, or null where there is none. */
function whole(source: ByteSource, file: string, { metadata }: GgufFile, key: string): number | null {
  const value = metadata[key];
  if (value === undefined) return null;
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0) {
    throw new SourceError(`${source.description}, ${file}: ${key} is ${JSON.stringify(value)}, expected a whole number.`);
  }
  return value;
}

function join(read: readonly GgufFile[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(read.reduce((n, r) => n + r.bytes.length, 0));
  let at = 0;
  for (const { bytes } of read) {
    out.set(bytes, at);
    at += bytes.length;
  }
  return out;
}
