// Writes safetensors files for tests: u64 header length, JSON header, data. The header can be overridden to make bad files.
// Refuses nothing: bad files are its purpose.

export interface TensorData {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export type SafetensorsHeader = Record<string, { dtype: string; shape: readonly number[]; data_offsets: [number, number] } | Record<string, string>>;

export function safetensorsHeader(tensors: readonly TensorData[]): SafetensorsHeader {
  const header: SafetensorsHeader = { __metadata__: { format: "pt" } };
  let at = 0;
  for (const t of tensors) {
    header[t.name] = { dtype: t.dtype, shape: t.shape, data_offsets: [at, at + t.bytes.length] };
    at += t.bytes.length;
  }
  return header;
}

/** `headerText` replaces the JSON header, for bad files. */
export function safetensorsFile(tensors: readonly TensorData[], headerText = JSON.stringify(safetensorsHeader(tensors))): Uint8Array {
  const header = new TextEncoder().encode(headerText.padEnd(Math.ceil(headerText.length / 8) * 8));
  const out = new Uint8Array(8 + header.length + tensors.reduce((n, t) => n + t.bytes.length, 0));
  new DataView(out.buffer).setBigUint64(0, BigInt(header.length), true);
  out.set(header, 8);
  let at = 8 + header.length;
  for (const t of tensors) {
    out.set(t.bytes, at);
    at += t.bytes.length;
  }
  return out;
}

/** Files of a folder with one model.safetensors, or with shards and their index. */
export function safetensorsFolder(tensors: readonly TensorData[], nShards: number): Map<string, Uint8Array> {
  const files = new Map<string, Uint8Array>();
  if (nShards === 1) return files.set("model.safetensors", safetensorsFile(tensors));
  const weightMap: Record<string, string> = {};
  for (let s = 0; s < nShards; s++) {
    const part = tensors.filter((_, i) => i % nShards === s);
    const name = `model-${String(s + 1).padStart(5, "0")}-of-${String(nShards).padStart(5, "0")}.safetensors`;
    files.set(name, safetensorsFile(part));
    for (const t of part) weightMap[t.name] = name;
  }
  const total = tensors.reduce((n, t) => n + t.bytes.length, 0);
  const index = JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap });
  return files.set("model.safetensors.index.json", new TextEncoder().encode(index));
}
