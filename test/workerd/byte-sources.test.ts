// The two deployed byte sources against the contract of formats/byte-source.ts, over the same bytes: static assets and an R2 bucket.

import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { packSource, type PackEnv } from "../../durable/byte-sources.ts";
import type { ByteSource } from "../../formats/byte-source.ts";
import { blobsOf } from "../../formats/manifest.ts";
import { loadBlobs, openPack } from "../../formats/pack-reader.ts";

const deployed = env as unknown as PackEnv;
const sourceOf = (kind: string): ByteSource => packSource({ ...deployed, PACK_ID: "tiny", PACK_SOURCE: kind });

async function bytesOf(source: ByteSource, name: string, offset?: number, length?: number): Promise<Uint8Array> {
  const chunks: number[] = [];
  for await (const chunk of source.read(name, offset, length)) for (const byte of chunk) chunks.push(byte);
  return Uint8Array.from(chunks);
}

beforeAll(async () => {
  // The same pack in the bucket as in the assets folder.
  for (const name of ["manifest.json", "parts/00000.bin"]) {
    const response = await deployed.ASSETS!.fetch(`http://assets/packs/tiny/${name}`);
    await deployed.PACKS!.put(`packs/tiny/${name}`, await response.arrayBuffer());
  }
});

describe.each(["assets", "r2"])("%s", (kind) => {
  it("knows sizes, and null where there is nothing", async () => {
    const source = sourceOf(kind);
    const { manifest } = await openPack(source);
    expect(await source.size("parts/00000.bin")).toBe(manifest.parts[0]!.bytes);
    expect(await source.size("parts/00099.bin")).toBe(null);
  });

  it("reads whole files and any range of them", async () => {
    const source = sourceOf(kind);
    const whole = await bytesOf(source, "parts/00000.bin");
    expect(whole.length).toBe(await source.size("parts/00000.bin"));
    for (const [offset, length] of [[0, 1], [4095, 2], [5000, 12345], [whole.length - 7, 7]] as const) {
      expect(await bytesOf(source, "parts/00000.bin", offset, length)).toEqual(whole.subarray(offset, offset + length));
    }
    expect(await bytesOf(source, "parts/00000.bin", 10_000)).toEqual(whole.subarray(10_000));
  });

  it("names itself, the file and what was found when bytes are missing", async () => {
    const source = sourceOf(kind);
    const size = (await source.size("parts/00000.bin"))!;
    await expect(bytesOf(source, "parts/00099.bin")).rejects.toThrow(`${source.description} has no file parts/00099.bin.`);
    await expect(bytesOf(source, "parts/00000.bin", size - 10, 20)).rejects.toThrow(`${source.description}, parts/00000.bin`);
  });

  it("brings every blob of a pack, hashes and all, and stops early without harm", async () => {
    const source = sourceOf(kind);
    const { manifest } = await openPack(source);
    let bytes = 0;
    const targets = Array.from(blobsOf(manifest), ({ name, blob }) => ({ name, blob, write: (chunk: Uint8Array) => { bytes += chunk.length; } }));
    await loadBlobs(source, manifest, targets);
    expect(bytes).toBe(targets.reduce((sum, { blob }) => sum + blob.bytes, 0));
    for (let i = 0; i < 20; i++) for await (const chunk of source.read("parts/00000.bin")) {
      expect(chunk.length).toBeGreaterThan(0);
      break;
    }
  });
});

it("refuses a deployment without the binding it names", () => {
  expect(() => packSource({ PACK_ID: "tiny", PACK_SOURCE: "r2" })).toThrow("no R2 bucket bound as PACKS");
  expect(() => packSource({ PACK_ID: "tiny", PACK_SOURCE: "assets" })).toThrow("no assets binding named ASSETS");
  expect(() => packSource({ PACK_ID: "tiny", PACK_SOURCE: "ftp" })).toThrow('PACK_SOURCE is "ftp"; expected "assets" or "r2".');
});
