// Headers of safetensors files: good ones, sharded ones, and every way in which one can lie.

import { gunzipSync } from "node:zlib";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { MemorySource } from "../../../formats/memory-source.ts";
import { readSafetensorsFolder, readSafetensorsHeader } from "../../../formats/safetensors.ts";
import { dataFile } from "../../support/data-folder.ts";
import { type TensorData, safetensorsFile, safetensorsFolder, safetensorsHeader } from "../../support/safetensors-writer.ts";

const tensor = (name: string, n: number): TensorData => ({ name, dtype: "F32", shape: [n, 2], bytes: new Uint8Array(n * 8).fill(n) });
const TENSORS = [tensor("a", 3), tensor("b", 5), tensor("c", 1)];
const read = (bytes: Uint8Array) => readSafetensorsHeader(new MemorySource(new Map([["m.safetensors", bytes]])), "m.safetensors");

/** A file of TENSORS whose header is altered. */
function altered(change: (header: Record<string, { dtype: string; shape: number[]; data_offsets: number[] }>) => void): Uint8Array {
  const header = structuredClone(safetensorsHeader(TENSORS)) as never;
  change(header);
  return safetensorsFile(TENSORS, JSON.stringify(header));
}

describe("one file", () => {
  it("gives every tensor's place", async () => {
    const bytes = safetensorsFile(TENSORS);
    const found = await read(bytes);
    expect([...found.keys()]).toEqual(["a", "b", "c"]);
    const b = found.get("b")!;
    expect(b).toMatchObject({ type: "F32", shape: [5, 2], bytes: 40, file: "m.safetensors" });
    expect([...bytes.subarray(b.offset, b.offset + b.bytes)]).toEqual(Array(40).fill(5));
  });

  const refused: [string, () => Uint8Array, RegExp][] = [
    ["overlapping tensors", () => altered((h) => { h.b!.data_offsets = [16, 56]; }), /tensor b starts at byte \d+, inside tensor a/],
    ["a tensor beyond the data", () => altered((h) => { h.c!.data_offsets = [80, 88]; }), /tensor c ends at byte 88 of the data.*only 72 bytes/],
    ["a hole", () => altered((h) => { delete h.b; }), /the tensors take 32 bytes, but the file holds 72/],
    ["a size that is not the shape's", () => altered((h) => { h.a!.shape = [4, 2]; }), /tensor a has data_offsets \[0, 24\], but F32 \[4,2\] takes 32 bytes/],
    ["offsets that go backwards", () => altered((h) => { h.a!.data_offsets = [24, 0]; }), /tensor a has data_offsets \[24, 0\]/],
    ["negative offsets", () => altered((h) => { h.a!.data_offsets = [-24, 0]; }), /tensor a has data_offsets \[-24,0\], expected \[begin, end\]/],
    ["a negative shape", () => altered((h) => { h.a!.shape = [-3, -2]; }), /tensor a has shape \[-3,-2\]/],
    ["an unknown dtype", () => altered((h) => { h.a!.dtype = "F12"; }), /tensor a has dtype "F12", expected one of F64, F32/],
    ["a name given twice", () => safetensorsFile(TENSORS, JSON.stringify(safetensorsHeader(TENSORS)).replace('"b":', '"a":')), /names tensor a twice/],
    ["a header that is no JSON", () => safetensorsFile(TENSORS, "{nonsense"), /header\) is no valid JSON/],
    ["a header that is a list", () => safetensorsFile(TENSORS, "[]"), /no JSON object/],
    ["a file cut short in its data", () => safetensorsFile(TENSORS).slice(0, -1), /tensor c ends at byte 72 of the data, but the file has only 71/],
    ["a file cut short in its header", () => safetensorsFile(TENSORS).slice(0, 40), /header is said to have \d+ bytes, but the file has only 40/],
    ["a file of 5 bytes", () => new Uint8Array(5), /expected at least 8 bytes of header length, found 5/],
    ["a header length beyond reason", () => new Uint8Array(64).fill(255), /18446744073709551615 bytes, expected at most 100000000/],
  ];
  it.each(refused)("refuses %s", async (_, make, message) => {
    await expect(read(make())).rejects.toThrow(message);
    await expect(read(make())).rejects.toThrow(/memory, m\.safetensors/);
  });

  it("finds no repeated name in strings that look like one", async () => {
    const odd = { name: 'a": {"b', dtype: "F32", shape: [1, 2], bytes: new Uint8Array(8) };
    expect((await read(safetensorsFile([odd, tensor("b", 1)]))).size).toBe(2);
  });

  const arithmetic = dataFile("models/safetensors_arith/model.safetensors.gz");
  it.skipIf(arithmetic === null)("reads a file that another program wrote (skipped where the data folder is absent)", async () => {
    const found = await read(new Uint8Array(gunzipSync(readFileSync(arithmetic!))));
    expect(found.get("model.layers.0.mlp.down_proj.weight")).toMatchObject({ type: "BF16", shape: [128, 344] });
  });
});

describe("shards", () => {
  it("are read through their index", async () => {
    const found = await readSafetensorsFolder(new MemorySource(safetensorsFolder(TENSORS, 2)));
    expect([...found.keys()].sort()).toEqual(["a", "b", "c"]);
    expect(found.get("b")!.file).toBe("model-00002-of-00002.safetensors");
  });

  const changed = (change: (map: Record<string, string>) => void): MemorySource => {
    const files = safetensorsFolder(TENSORS, 2);
    const index = JSON.parse(new TextDecoder().decode(files.get("model.safetensors.index.json"))) as { weight_map: Record<string, string> };
    change(index.weight_map);
    return new MemorySource(files.set("model.safetensors.index.json", new TextEncoder().encode(JSON.stringify(index))));
  };
  it.each([
    ["a missing shard", (m: Record<string, string>) => { m.a = "model-00003-of-00003.safetensors"; }, /shard model-00003-of-00003\.safetensors.*for tensor a, is missing/],
    ["a tensor that is not in its shard", (m: Record<string, string>) => { m.a = "model-00002-of-00002.safetensors"; }, /00002\.safetensors has no tensor a/],
    ["a tensor the index does not list", (m: Record<string, string>) => { delete m.c; }, /holds tensor c, which .* does not list/],
    ["a path out of the folder", (m: Record<string, string>) => { m.a = "../x.safetensors"; }, /tensor a is said to be in "\.\.\/x\.safetensors"/],
  ])("refuses %s", async (_, change, message) => {
    await expect(readSafetensorsFolder(changed(change))).rejects.toThrow(message);
  });

  it("says when there are no weights at all", async () => {
    await expect(readSafetensorsFolder(new MemorySource(new Map()))).rejects.toThrow(/neither model\.safetensors nor model\.safetensors\.index\.json/);
  });
});
