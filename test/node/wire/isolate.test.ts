// The ledger of an isolate: blobs are read once and shared by content, limits hold to the byte with nothing left behind, and an object that
// comes back finds its weights and none of its leftovers.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Isolate, isolateParts, Tenant, tenantBytes, weightMemories } from "../../../durable/isolate.ts";
import { LIMITS, type Limits } from "../../../durable/limits.ts";
import { blobsOf, type PackManifest } from "../../../formats/manifest.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const simd128 = new WebAssembly.Module(new Uint8Array(readFileSync(join(import.meta.dirname, "../../../build/kernels-simd128.wasm"))));
const isolateOf = (limits: Partial<Limits> = {}): Isolate => {
  const all = { ...LIMITS, memoryMaximumBytes: 64 << 20, ...limits };
  return new Isolate(isolateParts({ simd128 }, all), all);
};

class CountingSource extends MemorySource {
  reads = 0;
  override read(name: string, offset?: number, length?: number): AsyncIterable<Uint8Array> {
    this.reads++;
    return super.read(name, offset, length);
  }
}

async function tinyPack(): Promise<{ source: CountingSource; manifest: PackManifest; files: Map<string, Uint8Array> }> {
  const pack = await packToMemory(await openTinyHuggingFace(tinyModel("olmoe", 3)));
  return { source: new CountingSource(pack.files), manifest: (await openPack(pack.source)).manifest, files: pack.files };
}

/** Held, so that no test object counts as gone. */
const instances: object[] = [];
function enter(isolate: Isolate, key: string, strict = false): Tenant {
  const instance = {};
  instances.push(instance);
  return isolate.enter(key, "shard", `shard ${key}`, instance, strict);
}
const nothing = (): void => {};

describe("blobs", () => {
  it("lie in memory as in the pack, once, however many hold them, and go with the last", async () => {
    const { source, manifest, files } = await tinyPack();
    const isolate = isolateOf();
    const blobs = [...blobsOf(manifest)];
    const [a, b] = [enter(isolate, "a"), enter(isolate, "b")];
    let progress = 0;
    await a.load(source, manifest, blobs, (bytes) => { progress = bytes; });
    const unique = new Map(blobs.map(({ blob }) => [blob.hash, blob]));
    const bytes = [...unique.values()].reduce((sum, blob) => sum + blob.bytes, 0);
    expect([progress, a.weightBytes, a.ownBytes]).toEqual([bytes, bytes, 0]);
    for (const { blob } of blobs) {
      const [part, offset] = blob.extents[0]!;
      const stored = files.get(manifest.parts[part]!.name)!.subarray(offset, offset + blob.bytes);
      expect(Buffer.compare(isolate.heap.u8.subarray(a.ptrOf(blob.hash), a.ptrOf(blob.hash) + blob.bytes), stored)).toBe(0);
    }
    const reads = source.reads;
    expect(b.adopt(blobs)).toBe(true);
    await b.load(source, manifest, blobs, nothing);
    expect([source.reads, b.weightBytes]).toEqual([reads, bytes]);
    const used = isolate.heap.usedBytes;
    a.leave();
    expect(isolate.heap.usedBytes).toBe(used);
    b.leave();
    expect(isolate.heap.usedBytes).toBe(0);
  });

  it("of a changed plan are read where missing and let go where no longer wanted", async () => {
    const { source, manifest } = await tinyPack();
    const isolate = isolateOf();
    const blobs = [...blobsOf(manifest)];
    const tenant = enter(isolate, "a");
    await tenant.load(source, manifest, blobs.slice(0, 6), nothing);
    const kept = tenant.ptrOf(blobs[4]!.blob.hash);
    await tenant.load(source, manifest, blobs.slice(4, 9), nothing);
    expect(tenant.ptrOf(blobs[4]!.blob.hash)).toBe(kept);
    expect(() => tenant.ptrOf(blobs[0]!.blob.hash)).toThrow(/not resident/);
    expect(tenant.adopt(blobs.slice(0, 6))).toBe(false);
    expect(tenant.weightBytes).toBe(blobs.slice(4, 9).reduce((sum, { blob }) => sum + blob.bytes, 0));
  });

  it("that are damaged leave nothing behind", async () => {
    const { manifest, files } = await tinyPack();
    const isolate = isolateOf();
    const tenant = enter(isolate, "a");
    const part = files.get("parts/00000.bin")!.slice();
    part[part.length - 100]! ^= 1;
    await expect(tenant.load(new MemorySource(new Map(files).set("parts/00000.bin", part)), manifest, [...blobsOf(manifest)], nothing)).rejects.toThrow(/found SHA-256/);
    expect([isolate.heap.usedBytes, tenant.usedBytes]).toEqual([0, 0]);
  });
});

describe("limits", () => {
  it("refuse what does not fit before a byte is read, with the numbers", async () => {
    const { source, manifest } = await tinyPack();
    const isolate = isolateOf({ isolateBytes: 200 * 1024, inFlightBytes: 100 * 1024 });
    const tenant = enter(isolate, "a");
    await expect(tenant.load(source, manifest, [...blobsOf(manifest)], nothing)).rejects.toThrow(/blobs of pack tiny would bring shard a to 0\.\d MiB .* 0\.1 MiB is the limit: 0\.2 MiB per isolate less 0\.1 MiB for frames\. More shards/);
    expect([source.reads, isolate.heap.usedBytes]).toEqual([0, 0]);
  });

  it("count weights and working memory together, per object, or for the whole isolate where that is strict", () => {
    const limits = { isolateBytes: 3 << 20, inFlightBytes: 1 << 20 };
    expect(tenantBytes({ ...LIMITS, ...limits })).toBe(2 << 20);
    for (const strict of [false, true]) {
      const isolate = isolateOf(limits);
      const [a, b] = [enter(isolate, "a", strict), enter(isolate, "b", strict)];
      a.heap.alloc(1_500_000, "kv cache");
      expect(() => a.heap.alloc(700_000, "kv cache")).toThrow(/kv cache would bring/);
      if (strict) expect(() => b.heap.alloc(700_000, "engine scratch")).toThrow(/the isolate of shard b/);
      else b.heap.alloc(700_000, "engine scratch");
    }
  });
});

describe("an object that comes back", () => {
  it("keeps its blobs, loses its leftovers, and ten times make one memory", async () => {
    const { source, manifest } = await tinyPack();
    const before = weightMemories();
    const isolate = isolateOf();
    const blobs = [...blobsOf(manifest)].slice(0, 10);
    let tenant = enter(isolate, "a");
    await tenant.load(source, manifest, blobs, nothing);
    const [weights, reads, at] = [isolate.heap.usedBytes, source.reads, tenant.ptrOf(blobs[3]!.blob.hash)];
    for (let i = 0; i < 10; i++) {
      tenant.heap.alloc(100_000, "kv cache");
      tenant = enter(isolate, "a");
      expect(tenant.adopt(blobs)).toBe(true);
      expect([tenant.ptrOf(blobs[3]!.blob.hash), tenant.ownBytes]).toEqual([at, 0]);
    }
    expect([isolate.heap.usedBytes, source.reads, weightMemories() - before, isolate.tenants.length]).toEqual([weights, reads, 1, 1]);
  });
});
