// The trace file: what is written is what is read, whatever the shape; everything that is no whole trace is refused by name.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readTrace, TRACE_COLUMNS, traceHeaderBytes, traceRecordBytes, traceRecords, type TraceHeader, type TraceRecord } from "../../../formats/trace.ts";

const HEADER: TraceHeader = { model: "tiny", packHash: "ab".repeat(32), nExperts: 8, topK: 3, moeLayers: [1, 2], columns: ["ids", "weights"] };

const fileOf = (header: TraceHeader, records: readonly TraceRecord[]): Uint8Array => {
  const [head, body] = [traceHeaderBytes(header), traceRecords(header, records)];
  const file = new Uint8Array(head.length + body.length);
  file.set(head);
  file.set(body, head.length);
  return file;
};
const RECORD: TraceRecord = { request: 7, token: 1_000_000, layer: 2, ids: [5, 0, 7], weights: [0.5, 0.25, 0.125] };

describe("a trace", () => {
  it("is read as it was written, of any shape, wherever its bytes lie", () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 1, max: 65_535 }), fc.string({ unit: "grapheme" }), fc.integer({ min: 0, max: 3 }), fc.subarray(["logits", "norms", "cosine"] as const), fc.infiniteStream(fc.nat()), (topK, nExperts, model, offset, more, numbers) => {
      const next = (below: number): number => numbers.next().value! % below;
      const header: TraceHeader = { ...HEADER, model, topK, nExperts: more.includes("logits") ? 1 + (nExperts % 70) : nExperts, columns: TRACE_COLUMNS.filter((column) => column === "ids" || column === "weights" || more.includes(column)) };
      const floats = (length: number): number[] => Array.from({ length }, () => Math.fround(next(1 << 24) / 7));
      const records = Array.from({ length: next(6) }, () => ({
        request: next(2 ** 32), token: next(2 ** 32), layer: next(65_536),
        ids: Array.from({ length: topK }, () => next(header.nExperts)), weights: floats(topK),
        ...(more.includes("logits") ? { logits: floats(header.nExperts) } : {}), ...(more.includes("norms") ? { norms: floats(topK) } : {}), ...(more.includes("cosine") ? { cosine: floats(1) } : {}),
      })).map((record): TraceRecord => {
        // A token may have done without some of its experts, or without all.
        const taken = next(topK + 1);
        return { ...record, ids: record.ids.slice(0, taken), weights: record.weights.slice(0, taken), ...(record.norms === undefined ? {} : { norms: record.norms.slice(0, taken) }) };
      });
      const file = fileOf(header, records);
      const moved = new Uint8Array(file.length + offset);
      moved.set(file, offset);
      const trace = readTrace(moved.subarray(offset), "it");
      expect(trace.header).toEqual(header);
      expect(Array.from({ length: trace.length }, (_, i) => trace.record(i))).toEqual(records);
    }));
  });

  it("has records of one size, each field in its place", () => {
    expect(traceRecordBytes(HEADER)).toBe(12 + 8 + 12);
    const bytes = traceRecords(HEADER, [RECORD]);
    const view = new DataView(bytes.buffer);
    expect([view.getUint32(0, true), view.getUint32(4, true), view.getUint16(8, true), view.getUint16(10, true)]).toEqual([7, 1_000_000, 2, 0]);
    expect([view.getUint16(12, true), view.getUint16(14, true), view.getUint16(16, true), view.getUint16(18, true)]).toEqual([5, 0, 7, 0]);
    expect([view.getFloat32(20, true), view.getFloat32(24, true), view.getFloat32(28, true)]).toEqual([0.5, 0.25, 0.125]);
  });

  it("is not written with experts the model does not have, or not as many as it takes", () => {
    expect(() => traceRecords(HEADER, [{ ...RECORD, ids: [5, 0, 8] }])).toThrow("names expert 8; the model has 8");
    expect(() => traceRecords(HEADER, [{ ...RECORD, ids: [5, 0] }])).toThrow("has 2 experts and 3 weights; expected at most 3 of each, as many weights as experts");
    expect(() => traceRecords(HEADER, [{ ...RECORD, ids: [5, 0, 1, 2], weights: [1, 1, 1, 1] }])).toThrow("has 4 experts and 4 weights; expected at most 3 of each");
    expect(() => traceRecords({ ...HEADER, columns: ["ids", "weights", "norms", "logits"] }, [{ ...RECORD, norms: [1, 2, 3] }])).toThrow("has no logits; expected 8");
  });
});

describe("what is refused", () => {
  const file = fileOf(HEADER, [RECORD, RECORD]);
  const changed = (change: (bytes: Uint8Array, view: DataView) => void): Uint8Array => {
    const copy = file.slice();
    change(copy, new DataView(copy.buffer));
    return copy;
  };
  it.each<[string, Uint8Array, string]>([
    ["nothing at all", new Uint8Array(0), "begin with MOETRACE"],
    ["another file", new TextEncoder().encode("GGUF and then some more bytes"), "begin with MOETRACE"],
    ["a later version", changed((_, view) => view.setUint32(8, 2, true)), "version 2; version 1 is read"],
    ["a header that goes on beyond the file", changed((_, view) => view.setUint32(12, 1 << 30, true)), "says its header ends"],
    ["records out of step", changed((_, view) => view.setUint32(12, view.getUint32(12, true) - 1, true)), "says its header ends"],
    ["a header that is no JSON", changed((bytes) => bytes.fill(0x7b, 16, 20)), "no valid JSON"],
    ["a header without what it must say", fileOf({ ...HEADER, nExperts: -1 }, []), "nExperts is not valid"],
    ["columns that nobody knows", traceHeaderBytes({ ...HEADER, columns: ["taste"] as unknown as TraceHeader["columns"] }), "columns.0 is not valid"],
    ["half a record", file.slice(0, file.length - 4), "expected a multiple of 32"],
  ])("%s", (_, bytes, message) => {
    expect(() => readTrace(bytes, "the file")).toThrow(message);
    expect(() => readTrace(bytes, "the file")).toThrow("the file");
  });

  it("a record that is not there", () => {
    expect(() => readTrace(file, "the file").record(2)).toThrow("has 2 records; number 2 was asked for");
  });
});
