// Reads the headers of safetensors files, single or sharded by an index. Owns the checks: sizes, offsets, names.
// Refuses files that the reference implementation refuses (overlaps, holes, wrong lengths, names given twice).
// Format: 8 bytes of little-endian header length, a JSON header, the data; docs of huggingface/safetensors.

import { type ByteSource, SourceError } from "./byte-source.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import { parseJson, readBytes, readFileOrNull } from "./read-bytes.ts";
import { type StoredTensor, refuseOverlaps } from "./stored-tensor.ts";

/** Bits per element of every dtype of the format, so that sizes are checked even where values are not read. */
const DTYPE_BITS: Readonly<Record<string, number>> = {
  F64: 64, F32: 32, F16: 16, BF16: 16, I64: 64, I32: 32, I16: 16, I8: 8, U64: 64, U32: 32, U16: 16, U8: 8, BOOL: 8,
  F8_E4M3: 8, F8_E5M2: 8, F8_E8M0: 8, F6_E2M3: 6, F6_E3M2: 6, F4: 4, C64: 64,
};

/** Tensors of model.safetensors, or of the shards that model.safetensors.index.json lists. */
export async function readSafetensorsFolder(source: ByteSource): Promise<Map<string, StoredTensor>> {
  const indexName = "model.safetensors.index.json";
  const index = await readFileOrNull(source, indexName, FORMAT_LIMITS.jsonBytes);
  if (index === null) {
    if ((await source.size("model.safetensors")) === null) {
      throw new SourceError(`${source.description} has neither model.safetensors nor ${indexName}.`);
    }
    return readSafetensorsHeader(source, "model.safetensors");
  }
  const document = parseJson(source, indexName, index) as { weight_map?: unknown } | null;
  const map = document?.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) throw new SourceError(`${source.description}, ${indexName} has no weight_map object.`);
  const entries = Object.entries(map as Record<string, unknown>);
  if (entries.length === 0) throw new SourceError(`${source.description}, ${indexName} has a weight_map without tensors.`);
  const shards = new Map<string, Map<string, StoredTensor>>();
  const out = new Map<string, StoredTensor>();
  for (const [tensor, shard] of entries) {
    if (typeof shard !== "string" || !/^[\w.-]+\.safetensors$/.test(shard)) {
      throw new SourceError(`${source.description}, ${indexName}: tensor ${tensor} is said to be in ${JSON.stringify(shard)}, `
        + "expected the name of a .safetensors file beside it.");
    }
    if (!shards.has(shard)) {
      if ((await source.size(shard)) === null) {
        throw new SourceError(`${source.description}: shard ${shard}, named by ${indexName} for tensor ${tensor}, is missing.`);
      }
      shards.set(shard, await readSafetensorsHeader(source, shard));
    }
    const found = shards.get(shard)!.get(tensor);
    if (!found) throw new SourceError(`${source.description}, ${shard} has no tensor ${tensor}, which ${indexName} says is there.`);
    out.set(tensor, found);
  }
  for (const [shard, tensors] of shards) {
    for (const name of tensors.keys()) {
      if (out.get(name)?.file !== shard) {
        const said = out.has(name) ? `says is in ${out.get(name)!.file}` : "does not list";
        throw new SourceError(`${source.description}, ${shard} holds tensor ${name}, which ${indexName} ${said}.`);
      }
    }
  }
  return out;
}

/** Tensors of one safetensors file. Throws SourceError naming file and tensor, found and expected. */
export async function readSafetensorsHeader(source: ByteSource, file: string): Promise<Map<string, StoredTensor>> {
  const fail = (message: string): never => { throw new SourceError(`${source.description}, ${file}: ${message}.`); };
  const size = (await source.size(file)) ?? fail("there is no such file");
  if (size < 8) fail(`expected at least 8 bytes of header length, found ${size}`);
  const lengthBytes = await readBytes(source, file, 0, 8);
  const declared = new DataView(lengthBytes.buffer).getBigUint64(0, true);
  if (declared > FORMAT_LIMITS.safetensorsHeaderBytes) {
    fail(`the header is said to have ${declared} bytes, expected at most ${FORMAT_LIMITS.safetensorsHeaderBytes}`);
  }
  const headerBytes = Number(declared);
  if (8 + headerBytes > size) fail(`the header is said to have ${headerBytes} bytes, but the file has only ${size}`);
  const raw = await readBytes(source, file, 8, headerBytes);
  const header = parseJson(source, `${file} (header)`, raw);
  if (typeof header !== "object" || header === null || Array.isArray(header)) return fail("the header is no JSON object");
  const repeated = firstRepeatedKey(new TextDecoder().decode(raw));
  if (repeated !== null) fail(`the header names tensor ${repeated} twice`);

  const dataStart = 8 + headerBytes;
  const dataBytes = size - dataStart;
  const out = new Map<string, StoredTensor>();
  for (const [name, entry] of Object.entries(header as Record<string, unknown>)) {
    if (name === "__metadata__") continue;
    const e = entry as { dtype?: unknown; shape?: unknown; data_offsets?: unknown } | null;
    const { dtype, shape, data_offsets: offsets } = e ?? {};
    if (typeof dtype !== "string" || !Object.hasOwn(DTYPE_BITS, dtype)) {
      return fail(`tensor ${name} has ${found("dtype", dtype)}, expected one of ${Object.keys(DTYPE_BITS).join(", ")}`);
    }
    if (!isIntegers(shape)) return fail(`tensor ${name} has ${found("shape", shape)}, expected a list of whole numbers`);
    if (!isIntegers(offsets) || offsets.length !== 2) return fail(`tensor ${name} has ${found("data_offsets", offsets)}, expected [begin, end]`);
    const [begin, end] = offsets as [number, number];
    const expected = (shape.reduce((n, d) => n * d, 1) * DTYPE_BITS[dtype]!) / 8;
    if (begin > end || end - begin !== expected) {
      fail(`tensor ${name} has data_offsets [${begin}, ${end}], but ${dtype} ${JSON.stringify(shape)} takes ${expected} bytes`);
    }
    if (end > dataBytes) {
      fail(`tensor ${name} ends at byte ${end} of the data, but the file has only ${dataBytes} bytes of data; it is cut short or its header is wrong`);
    }
    out.set(name, { name, file, type: dtype, shape, offset: dataStart + begin, bytes: end - begin });
  }
  refuseOverlaps(out.values(), fail);
  const used = [...out.values()].reduce((n, t) => n + t.bytes, 0);
  if (used !== dataBytes) fail(`the tensors take ${used} bytes, but the file holds ${dataBytes} bytes of data`);
  return out;
}

/** A field as a message shows it. */
const found = (field: string, value: unknown): string => (value === undefined ? `no ${field}` : `${field} ${JSON.stringify(value)}`);

const isIntegers = (list: unknown): list is number[] =>
  Array.isArray(list) && list.every((n) => Number.isSafeInteger(n) && (n as number) >= 0);

/** JSON.parse keeps the last of equal keys; this finds the first key of the outermost object that comes again, or null. */
function firstRepeatedKey(text: string): string | null {
  const seen = new Set<string>();
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === "{" || c === "[") depth++;
    else if (c === "}" || c === "]") depth--;
    else if (c === '"') {
      const start = i++;
      while (text[i] !== '"') i += text[i] === "\\" ? 2 : 1;
      if (depth !== 1 || !/^\s*:/.test(text.slice(i + 1, i + 64))) continue;
      const key = JSON.parse(text.slice(start, i + 1)) as string;
      if (seen.has(key)) return key;
      seen.add(key);
    }
  }
  return null;
}
