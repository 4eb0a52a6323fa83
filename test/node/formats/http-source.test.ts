// Sources over HTTP and S3 against a server on this machine that honours ranges, ignores them, breaks off, answers errors, and changes files.

import { createHash, createHmac } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { isRemote, remoteModel } from "../../../cli/remote-source.ts";
import { type ByteSource, SourceError } from "../../../formats/byte-source.ts";
import { openHuggingFace } from "../../../formats/huggingface.ts";
import { HttpSource } from "../../../formats/http-source.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { ReadAheadSource } from "../../../formats/read-ahead-source.ts";
import { readBytes } from "../../../formats/read-bytes.ts";
import { s3Address } from "../../../formats/s3-source.ts";
import { type RangeServer, startRangeServer } from "../../support/range-server.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const BYTES = Uint8Array.from({ length: 1 << 20 }, (_, i) => (i * 7 + (i >> 8)) & 255);
const FILES = new Map<string, Uint8Array>([["/models/m.bin", BYTES], ["/models/empty.bin", new Uint8Array(0)], ["/models/a b/ä.bin", BYTES.subarray(0, 9)]]);
let server: RangeServer;
const waits: number[] = [];
const open = (path = "/models", query = ""): HttpSource =>
  new HttpSource(new URL(`${server.address}${path}${query}`), { wait: async (ms) => void waits.push(ms), description: "https://server" });

beforeAll(async () => { server = await startRangeServer(FILES); });
afterAll(() => server.close());
beforeEach(() => {
  server.answer = () => ({});
  server.requests.length = 0;
  waits.length = 0;
});

const all = async (source: ByteSource, name: string, offset?: number, length?: number): Promise<Uint8Array> => {
  const chunks: Uint8Array[] = [];
  for await (const chunk of source.read(name, offset, length)) chunks.push(chunk.slice());
  return new Uint8Array(Buffer.concat(chunks));
};

describe("a server with ranges", () => {
  it("gives sizes, ranges, whole files, and null where there is nothing", async () => {
    const source = open();
    expect(await source.size("m.bin")).toBe(1 << 20);
    expect(await source.size("nothing.bin")).toBe(null);
    expect(await source.size("empty.bin")).toBe(0);
    expect(await all(source, "m.bin", 1000, 5000)).toEqual(BYTES.subarray(1000, 6000));
    expect(Buffer.compare(await all(source, "m.bin"), BYTES)).toBe(0);
    expect(await all(source, "m.bin", 1 << 20, 0)).toEqual(new Uint8Array(0));
    expect(server.requests.map((r) => r.range)).toEqual(["bytes=0-0", "bytes=0-0", "bytes=0-0", "bytes=1000-5999", "bytes=0-1048575"]);
    expect(server.requests.every((r) => r.headers["accept-encoding"] === "identity")).toBe(true);
    await expect(all(source, "nothing.bin")).rejects.toThrow("https://server has no file nothing.bin.");
    await expect(all(source, "m.bin", 1 << 20, 1)).rejects.toThrow(/bytes 1048576 to 1048577 were asked for, but the file ends at 1048576/);
  });

  it("names with spaces and letters beyond ASCII; a query goes with every request and into no message", async () => {
    const source = new HttpSource(new URL(`${server.address}/models?token=secret`));
    expect(await all(source, "a b/ä.bin")).toEqual(BYTES.slice(0, 9));
    expect(server.requests.every((r) => r.path.endsWith("%C3%A4.bin?token=secret"))).toBe(true);
    expect(source.description).toBe(`${server.address}/models`);
    await expect(source.size("../secret")).rejects.toThrow(/\.\.\/secret leaves the folder/);
    await expect(source.size("/secret")).rejects.toThrow(/leaves the folder/);
  });

  it("has a version that changes with the file", async () => {
    const before = await open().version("m.bin");
    expect(await open().version("m.bin")).toBe(before);
    server.answer = () => ({ etag: '"v2"' });
    expect(await open().version("m.bin")).not.toBe(before);
    server.answer = () => ({ etag: "", headers: { "last-modified": "Thu, 01 Jan 2026 00:00:00 GMT" } });
    expect(await open().version("m.bin")).toContain("2026");
  });
});

describe("what is tried again", () => {
  it("a body that breaks off: on from there", async () => {
    server.answer = (_, n) => (n >= 1 && n <= 3 ? { cutAfter: 300_000 } : {});
    expect(Buffer.compare(await all(open(), "m.bin"), BYTES)).toBe(0);
    const starts = server.requests.slice(1).map((r) => Number(/^bytes=(\d+)-1048575$/.exec(r.range!)![1]));
    expect(starts.length).toBe(4);
    expect(starts.every((start, i) => i === 0 || start > starts[i - 1]!)).toBe(true);
    expect(waits).toEqual([500, 500, 500]); // each brought something
  });

  it("5xx, 429 and connections that fail, with longer and longer pauses, and Retry-After", async () => {
    server.answer = (_, n) => [{ status: 503 }, { status: 500 }, { status: 429, headers: { "retry-after": "7" } }, {}, { status: 502 }, { cutAfter: 0 }][n] ?? {};
    expect(await all(open(), "m.bin", 5, 5)).toEqual(BYTES.slice(5, 10));
    expect(waits).toEqual([500, 1000, 7000, 500, 1000]);
  });

  it("but not for ever", async () => {
    server.answer = (_, n) => (n === 0 ? {} : { cutAfter: 10 });
    await expect(all(open(), "m.bin")).rejects.toThrow(/^https:\/\/server, m\.bin could not be read in 8 attempts; the last: .*(broke off|terminated)/);
    expect(waits).toEqual([500, 1000, 2000, 4000, 8000, 16000, 32000]);
    server.answer = (_, n) => ({ endAfter: n % 2 }); // answers that end well, and bring nothing or little
    await expect(all(open(), "m.bin", 0, 100)).rejects.toThrow(/could not be read in 8 attempts; the last: the body broke off after \d of \d+ bytes/);
    server.answer = () => ({ status: 503 });
    await expect(open().size("m.bin")).rejects.toThrow(/could not be read in 8 attempts; the last: the server answered 503/);
  });

  it("a server that is not there is told as such", async () => {
    const gone = await startRangeServer(FILES);
    await gone.close();
    const source = new HttpSource(new URL(gone.address), { wait: async () => {} });
    await expect(source.size("m.bin")).rejects.toThrow(/127\.0\.0\.1:\d+, m\.bin could not be read in 8 attempts; the last: .*ECONNREFUSED/);
  });
});

describe("what is refused, in one sentence", () => {
  it.each<[string, (n: number) => ReturnType<RangeServer["answer"]>, RegExp]>([
    ["a server without ranges", () => ({ kind: "whole" }), /^https:\/\/server, m\.bin: the server sends the whole file when a range of it is asked for \(status 200 in place of 206\), expected a server with ranges; download the file and give its path\.$/],
    ["a server that gives ranges up", (n) => (n === 0 ? {} : { kind: "whole" }), /sends the whole file/],
    ["another ETag", (n) => (n === 0 ? {} : { etag: '"v2"' }), /m\.bin changed while it was read: it had 1048576 bytes \("v1"\), now it has 1048576 \("v2"\)\. Start again with the new file\.$/],
    ["another size", (n) => (n === 0 ? {} : { body: BYTES.subarray(0, 900_000) }), /changed while it was read: it had 1048576 bytes.*now it has 900000/],
    ["a file that is gone", (n) => (n === 0 ? {} : { status: 404 }), /changed while it was read.*the server answers 404/],
    ["no right to read", () => ({ status: 403 }), /m\.bin: the server answered 403 \(no right to read it, or to know whether it is there\), expected 206/],
    ["a bad request", () => ({ status: 400 }), /the server answered 400, expected 206/],
    ["another range than was asked for", (n) => (n === 0 ? {} : { headers: { "content-range": "bytes 5-9/1048576" } }), /bytes 0 to 1048575 were asked for, but the server answered 206 with Content-Range "bytes 5-9\/1048576"/],
    ["a range of unknown size", () => ({ headers: { "content-range": "bytes 0-0/*" } }), /answered 206 with Content-Range "bytes 0-0\/\*"/],
  ])("%s", async (_, answer, message) => {
    server.answer = (__, n) => answer(n);
    await expect(all(open(), "m.bin")).rejects.toThrow(message);
    server.requests.length = 0;
    await expect(all(open(), "m.bin")).rejects.toThrow(SourceError);
  });

  it("a file that changes half-way through a body that broke off", async () => {
    server.answer = (_, n) => (n === 0 ? {} : n === 1 ? { cutAfter: 300_000 } : { etag: '"v2"' });
    await expect(all(open(), "m.bin")).rejects.toThrow(/changed while it was read/);
  });
});

describe("read-ahead", () => {
  it("makes few requests of many small reads, and gives the same bytes", async () => {
    const source = new ReadAheadSource(open(), 100_000);
    const expected = new MemorySource(new Map([["m.bin", BYTES]]));
    // Three runs in turns, as gate, up and down are read.
    for (let i = 0; i < 40; i++) {
      for (const start of [0, 350_000, 700_000]) expect(await readBytes(source, "m.bin", start + i * 5000, 5000)).toEqual(await readBytes(expected, "m.bin", start + i * 5000, 5000));
    }
    expect(server.requests.length).toBe(1 + 6);
    expect(await readBytes(source, "m.bin", 10, 200_000)).toEqual(BYTES.slice(10, 200_010)); // longer than a window: passed on
    expect(server.requests.at(-1)!.range).toBe("bytes=10-200009");
    expect(await source.size("nothing")).toBe(null);
    await expect(all(source, "nothing")).rejects.toThrow(/has no file nothing/);
    await expect(readBytes(source, "m.bin", (1 << 20) - 5, 10)).rejects.toThrow(/ends at 1048576/);
  });

  it("does not remember a failed read", async () => {
    const source = new ReadAheadSource(open(), 1000);
    server.answer = (_, n) => (n === 1 ? { status: 400 } : {});
    await expect(readBytes(source, "m.bin", 0, 10)).rejects.toThrow(/answered 400/);
    expect(await readBytes(source, "m.bin", 0, 10)).toEqual(BYTES.slice(0, 10));
  });

  it("reads across windows", async () => {
    const source = new ReadAheadSource(open(), 1000);
    await readBytes(source, "m.bin", 0, 10);
    expect(await readBytes(source, "m.bin", 990, 900)).toEqual(BYTES.slice(990, 1890));
  });
});

/** The signature that AWS's documentation of version 4 asks for. */
function signatureOf(request: IncomingMessage, secret: string): { given: string; expected: string; scope: string } {
  const [, scope, signed, given] = /Credential=[^/]+\/([^,]+), SignedHeaders=([^,]+), Signature=([0-9a-f]+)/.exec(request.headers.authorization ?? "") as unknown as [string, string, string, string];
  const url = new URL(request.url!, "http://x");
  const headers = signed.split(";").map((name) => `${name}:${String(request.headers[name])}\n`).join("");
  const canonical = [request.method, url.pathname, url.search.slice(1), headers, signed, request.headers["x-amz-content-sha256"]].join("\n");
  const hmac = (key: string | Buffer, text: string): Buffer => createHmac("sha256", key).update(text).digest();
  const key = scope.split("/").reduce<string | Buffer>((k, part) => hmac(k, part), `AWS4${secret}`);
  const text = ["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, createHash("sha256").update(canonical).digest("hex")].join("\n");
  return { given, expected: hmac(key, text).toString("hex"), scope };
}

describe("S3", () => {
  const environment = () => ({ AWS_ENDPOINT_URL: server.address, AWS_ACCESS_KEY_ID: "key", AWS_SECRET_ACCESS_KEY: "secret/+", AWS_REGION: "eu-west-1", AWS_SESSION_TOKEN: "session" });

  it("every request is signed as version 4 has it", async () => {
    const seen: ReturnType<typeof signatureOf>[] = [];
    server.answer = (_, __, request) => {
      const signature = signatureOf(request, "secret/+");
      seen.push(signature);
      return signature.given === signature.expected && request.headers["x-amz-security-token"] === "session" ? {} : { status: 403 };
    };
    const { source, file, name } = remoteModel("s3://models/a b", environment());
    expect([file, name, source.description]).toEqual([null, "a b", "s3://models/a b"]);
    expect(await all(source, "ä.bin")).toEqual(BYTES.slice(0, 9));
    expect(seen.length).toBe(2);
    expect(seen[0]!.scope).toMatch(/^\d{8}\/eu-west-1\/s3\/aws4_request$/);
    await expect(remoteModel("s3://models/a b", { ...environment(), AWS_SECRET_ACCESS_KEY: "wrong" }).source.size("ä.bin")).rejects.toThrow(/^s3:\/\/models\/a b, ä\.bin: the server answered 403/);
  });

  it("addresses: by host name at AWS, by path elsewhere and for names with dots", () => {
    const at = (bucket: string, prefix: string, endpoint: string | null) => s3Address({ bucket, prefix, region: "eu-west-1", endpoint: endpoint === null ? null : new URL(endpoint) }).href;
    expect(at("b", "x/y", null)).toBe("https://b.s3.eu-west-1.amazonaws.com/x/y/");
    expect(at("b.c", "", null)).toBe("https://s3.eu-west-1.amazonaws.com/b.c/");
    expect(at("b", "x y", "https://account.example.com")).toBe("https://account.example.com/b/x%20y/");
    expect(at("b", "", "https://example.com/s3/")).toBe("https://example.com/s3/b/");
  });

  it("names what is missing in the environment", () => {
    expect(() => remoteModel("s3://b/m.gguf", {})).toThrow(/environment variable AWS_REGION is not set/);
    expect(() => remoteModel("s3://b/m.gguf", { AWS_REGION: "x" })).toThrow(/environment variable AWS_ACCESS_KEY_ID is not set/);
    expect(() => remoteModel("s3://b/m.gguf", { AWS_REGION: "x", AWS_ACCESS_KEY_ID: "x", AWS_SECRET_ACCESS_KEY: "" })).toThrow(/AWS_SECRET_ACCESS_KEY is not set/);
    expect(() => remoteModel("s3://b/m.gguf", { AWS_ENDPOINT_URL: "nonsense" })).toThrow(/AWS_ENDPOINT_URL is nonsense/);
    expect(() => remoteModel("ftp://b/m.gguf", {})).toThrow(/scheme ftp:\/\//);
  });
});

describe("models by address", () => {
  it("what is an address, the file it names, and the model's name", () => {
    expect(["https://x/y", "s3://b", "HTTP://x", "ftp://x"].every(isRemote)).toBe(true);
    expect(["./x", "/x", "x.gguf", "C:\\models", "a:b"].some(isRemote)).toBe(false);
    const parts = (address: string) => { const { file, name, source } = remoteModel(address, {}); return [file, name, source.description]; };
    expect(parts("https://h.co/o/Qwen3-30B/resolve/main")).toEqual([null, "Qwen3-30B", "https://h.co/o/Qwen3-30B/resolve/main"]);
    expect(parts("https://h.co/o/Qwen3-30B/resolve/main/")).toEqual([null, "Qwen3-30B", "https://h.co/o/Qwen3-30B/resolve/main"]);
    expect(parts("https://h.co/o/M-GGUF/resolve/main/Q4_K_M/m-00001-of-00002.gguf?download=true")).toEqual(["m-00001-of-00002.gguf", "M-GGUF", "https://h.co/o/M-GGUF/resolve/main/Q4_K_M"]);
    expect(parts("http://h.co/m.gguf")).toEqual(["m.gguf", "h.co", "http://h.co"]);
  });

  it("a folder opens as it does from disk", async () => {
    const files = tinyModel("olmoe", 3).huggingFaceFiles({ shards: 2 });
    const hub = await startRangeServer(new Map([...files].map(([name, bytes]) => [`/org/Tiny/resolve/main/${name}`, bytes])));
    try {
      const { source, name } = remoteModel(`${hub.address}/org/Tiny/resolve/main`, {});
      const [remote, local] = [await openHuggingFace(source, name), await openHuggingFace(new MemorySource(files), "Tiny")];
      expect([remote.name, remote.sha256, remote.config]).toEqual([local.name, local.sha256, local.config]);
      expect(await remote.readF32("layers.1.experts.3.down")).toEqual(await local.readF32("layers.1.experts.3.down"));
    } finally {
      await hub.close();
    }
  });
});
