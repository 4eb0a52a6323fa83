// A pack that stops and goes on: whatever stopped it and wherever, the pack is byte for byte that of one run; what is damaged is not trusted; what is
// finished is not read or written again.

import { describe, expect, it } from "vitest";
import { type ByteSource, SourceError } from "../../../formats/byte-source.ts";
import { openHuggingFace } from "../../../formats/huggingface.ts";
import { MemorySink, MemorySource } from "../../../formats/memory-source.ts";
import { JOURNAL } from "../../../formats/pack-journal.ts";
import type { PackSink } from "../../../formats/pack-sink.ts";
import { PackInterrupted, type PackOptions, writePack } from "../../../formats/pack-writer.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const FILES = tinyModel("qwen3_moe", 61, { config: { hidden_size: 256, moe_intermediate_size: 512, head_dim: 64, vocab_size: 600 } }).huggingFaceFiles();
const OPTIONS: PackOptions = { id: "tiny", quant: "f32", segmentWidth: 256 };

/** Counts what is read, by file; may change what it says of the files' versions. */
function countingSource(versions = "1"): ByteSource & { bytes: number } {
  const inner = new MemorySource(FILES);
  const source = {
    description: "memory", hasRanges: true, bytes: 0,
    size: (name: string) => inner.size(name),
    async *read(name: string, offset?: number, length?: number) {
      for await (const chunk of inner.read(name, offset, length)) {
        source.bytes += chunk.length;
        yield chunk;
      }
    },
    version: async () => versions,
  };
  return source;
}
const open = (source: ByteSource = countingSource()) => openHuggingFace(source, "tiny");

/** Fails at the n-th append. */
function failingAfter(sink: MemorySink, n: number, error: () => Error = () => new SourceError("The line is dead.")): PackSink {
  let appends = 0;
  return {
    description: "memory",
    append: async (name, bytes) => {
      if (appends++ >= n) throw error();
      await sink.append(name, bytes);
    },
    commit: () => sink.commit(), discard: () => sink.discard(), get unfinished() { return sink.unfinished; },
  };
}

const whole = (async () => {
  const sink = new MemorySink();
  const source = countingSource();
  let appends = 0;
  const summary = await writePack(await open(source), { ...failingAfter(sink, Infinity), append: (name, bytes) => { appends++; return sink.append(name, bytes); } }, OPTIONS);
  return { files: sink.files, summary, readBytes: source.bytes, appends };
})();

async function expectWhole(sink: MemorySink): Promise<void> {
  const { files } = await whole;
  expect([...sink.files.keys()].sort()).toEqual([...files.keys()].sort());
  for (const [name, bytes] of files) expect(Buffer.compare(sink.files.get(name)!, bytes), name).toBe(0);
}

describe("stopped and run again", () => {
  it("gives the same bytes wherever it stopped", async () => {
    const { appends, summary } = await whole;
    expect(summary.manifest.parts.length).toBeGreaterThan(5);
    let resumed = 0;
    for (const n of [0, 1, 0.5 * appends, 0.7 * appends, 0.8 * appends, 0.9 * appends, appends - 3, appends - 2, appends - 1, appends].map(Math.floor)) {
      const sink = new MemorySink();
      const stopped: unknown = await writePack(await open(), failingAfter(sink, n), OPTIONS).catch((e: unknown) => e);
      if (stopped instanceof PackInterrupted) resumed++;
      else if (n < appends) expect([...sink.files.keys(), ...(await sink.unfinished.list())]).toEqual([]);
      if (sink.files.size === 0) expect(await writePack(await open(), sink, OPTIONS)).toEqual(summary);
      await expectWhole(sink);
    }
    expect(resumed).toBeGreaterThan(3);
  });

  it("does not read again what lies in finished parts, and may stop many times", async () => {
    const { readBytes, appends } = await whole;
    const sink = new MemorySink();
    const source = countingSource();
    let runs = 0;
    for (;;) {
      runs++;
      const stopped = await writePack(await open(source), failingAfter(sink, appends / 2), OPTIONS).then(() => null, (e: unknown) => e);
      if (stopped === null) break;
      expect(stopped).toBeInstanceOf(PackInterrupted);
      expect((stopped as PackInterrupted).message).toBe("The line is dead.");
    }
    await expectWhole(sink);
    expect(runs).toBeGreaterThan(2);
    expect(source.bytes).toBeLessThan(readBytes * 1.4); // from the start each time it would be more than twice
  });

  it("reports losses as one run would", async () => {
    const options: PackOptions = { id: "tiny", quant: "q8", segmentWidth: 64 };
    const once = new MemorySink();
    const expected = await writePack(await open(), once, options);
    expect(expected.manifest.parts.length).toBeGreaterThan(1);
    const sink = new MemorySink();
    await expect(writePack(await open(), sink, options, ({ doneBytes, totalBytes }) => { if (doneBytes > 0.9 * totalBytes) throw new Error("stopped"); })).rejects.toThrow(PackInterrupted);
    const resumed = await writePack(await open(), sink, options);
    expect(resumed.packHash).toBe(expected.packHash);
    for (const [kind, loss] of expected.losses) {
      const found = resumed.losses.get(kind)!;
      expect(found.errorSquares / loss.errorSquares).toBeCloseTo(1, 10); // sums in another order
      expect(found.squares / loss.squares).toBeCloseTo(1, 10);
      expect({ ...found, errorSquares: 0, squares: 0 }).toEqual({ ...loss, errorSquares: 0, squares: 0 });
    }
  });
});

describe("what an earlier run left", () => {
  const stopped = async (share = 0.7): Promise<MemorySink> => {
    const sink = new MemorySink();
    await expect(writePack(await open(), failingAfter(sink, Math.floor((await whole).appends * share)), OPTIONS)).rejects.toThrow(PackInterrupted);
    return sink;
  };
  /** Replaces an unfinished file. */
  const change = async (sink: MemorySink, name: string, to: (bytes: Uint8Array) => Uint8Array): Promise<void> => {
    const { source } = sink.unfinished;
    const pieces: Uint8Array[] = [];
    for await (const chunk of source.read(name)) pieces.push(chunk.slice());
    await sink.unfinished.remove(name);
    await sink.append(name, to(new Uint8Array(Buffer.concat(pieces))));
  };

  it.each<[string, (sink: MemorySink) => Promise<void>]>([
    ["a part with an altered byte", (s) => change(s, "parts/00001.bin", (b) => b.map((byte, i) => (i === 5000 ? byte ^ 1 : byte)))],
    ["a part cut short", (s) => change(s, "parts/00002.bin", (b) => b.slice(0, -1))],
    ["a part with bytes behind it", (s) => change(s, "parts/00000.bin", (b) => Uint8Array.from([...b, 0]))],
    ["a part that is gone", (s) => s.unfinished.remove("parts/00001.bin")],
    ["a journal torn in its last line", (s) => change(s, JOURNAL, (b) => b.slice(0, -30))],
    ["a journal damaged in its middle", (s) => change(s, JOURNAL, (b) => b.map((byte, i) => (i === b.length >> 1 ? 7 : byte)))],
    ["a journal whose blob lies where nothing is", (s) => change(s, JOURNAL, (b) => {
      const lines = new TextDecoder().decode(b).split("\n");
      const part = JSON.parse(lines[1]!) as { blobs: [number, { extents: [number, number, number, string][] }][] };
      part.blobs[0]![1].extents.push([0, 64, 4, "0".repeat(64)]);
      lines[1] = JSON.stringify(part);
      return new TextEncoder().encode(lines.join("\n"));
    })],
    ["a journal that is no journal", (s) => change(s, JOURNAL, () => new TextEncoder().encode("hello\n"))],
    ["no journal", (s) => s.unfinished.remove(JOURNAL)],
    ["a file that does not belong there", (s) => s.append("parts/00099.bin", new Uint8Array(9))],
  ])("%s: the pack is the same all the same", async (_, damage) => {
    const sink = await stopped();
    await damage(sink);
    await writePack(await open(), sink, OPTIONS);
    await expectWhole(sink);
  });

  it.each<[string, (sink: MemorySink) => Promise<unknown>]>([
    ["other options", async (sink) => writePack(await open(), sink, { ...OPTIONS, quant: "q8" })],
    ["another id", async (sink) => writePack(await open(), sink, { ...OPTIONS, id: "other" })],
    ["files that changed", async (sink) => writePack(await open(countingSource("2")), sink, OPTIONS)],
  ])("%s: refused, and nothing is touched", async (_, again) => {
    const sink = await stopped();
    const before = await sink.unfinished.list();
    await expect(again(sink)).rejects.toThrow(/^memory holds an unfinished pack of another model, or one made with other options.*--fresh/);
    expect(await sink.unfinished.list()).toEqual(before);
    await writePack(await open(), sink, OPTIONS);
    await expectWhole(sink);
  });

  it("a model that cannot be packed leaves nothing, for going on would not help", async () => {
    const model = tinyModel("qwen3_moe", 61, { config: { hidden_size: 256, moe_intermediate_size: 512, head_dim: 64, vocab_size: 600 } });
    model.weights.get("layers.1.experts.7.down")!.values[5] = NaN;
    const sink = new MemorySink();
    const checkpoint = await openHuggingFace(new MemorySource(model.huggingFaceFiles({ dtype: "F32" })), "tiny");
    await expect(writePack(checkpoint, sink, { id: "tiny", quant: "q8" })).rejects.toThrow(/column 5 is NaN/);
    expect(await sink.unfinished.list()).toEqual([]);
  });
});
