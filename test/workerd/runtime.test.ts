// The runtime the other workerd tests stand on: it really is workerd, with our bindings and the packs of the global set-up.

import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";

describe("workerd", () => {
  it("is workerd", () => {
    expect(navigator.userAgent).toBe("Cloudflare-Workers");
  });

  it("has the bindings of wrangler.toml and those of the tests", () => {
    expect(Object.keys(env)).toEqual(expect.arrayContaining(["ORCHESTRATOR", "SHARDS", "ASSETS", "PACKS", "SHARDS_COUNT"]));
    expect((env as { PACK_ID?: string }).PACK_ID).toBe("tiny");
  });

  it("serves the tiny pack from the assets binding", async () => {
    const response = await (env as unknown as { ASSETS: Fetcher }).ASSETS.fetch("https://assets/packs/tiny/manifest.json");
    expect(response.status).toBe(200);
    expect((await response.json<{ id: string }>()).id).toBe("tiny");
  });

  it("refuses to compile WebAssembly at run time, so kernels must be imported as modules", async () => {
    const empty = new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
    // The platform's types leave `compile` out because it never works.
    const { compile } = WebAssembly as unknown as { compile(bytes: Uint8Array): Promise<WebAssembly.Module> };
    await expect(compile(empty)).rejects.toThrow(/disallowed/);
  });
});
