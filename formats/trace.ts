// The trace file: which experts each token of some texts or requests took in each layer. docs/formats.md, "The trace".
// Owns header and records of fixed size, written one by one and read in place. Refuses text and token ids: a trace can be kept and shared
// without what was said. Columns beyond ids and weights are named by the header, so that a reader finds those it knows.

import { z } from "zod";
import { CONFIG_MOST, moeLayersOf } from "../model/config.ts";
import { SourceError } from "./byte-source.ts";
import type { OpenPack } from "./pack-reader.ts";
import { parseJson } from "./read-bytes.ts";

/** What a file begins with. */
export const TRACE_MAGIC = "MOETRACE";
const VERSION = 1;
/** Magic, version, length of the JSON. */
const PREFIX_BYTES = 16;
/** request u32, token u32, layer u16, two bytes of zero. */
const FIXED_BYTES = 12;

/** In place of an expert that a token did without: the last ones of its record. */
const LEFT_OUT = 0xffff;

/** What a record may hold: bytes of a value, and how many there are. Each column starts at a multiple of 4. */
const COLUMNS = {
  ids: { bytes: 2, per: "choice" }, weights: { bytes: 4, per: "choice" }, logits: { bytes: 4, per: "expert" }, norms: { bytes: 4, per: "choice" }, cosine: { bytes: 4, per: "token" },
} as const;
export const TRACE_COLUMNS = Object.keys(COLUMNS) as TraceColumn[];
export type TraceColumn = keyof typeof COLUMNS;

const headerSchema = z.object({
  /** Id of the pack and its hash: experts of another revision are other experts. */
  model: z.string(),
  packHash: z.string(),
  nExperts: z.number().int().min(0).max(CONFIG_MOST.experts),
  topK: z.number().int().min(0).max(0x10000),
  /** Layers that have experts, ascending. */
  moeLayers: z.array(z.number().int().min(0).max(0xffff)),
  columns: z.array(z.enum(TRACE_COLUMNS)),
});
export type TraceHeader = Readonly<z.infer<typeof headerSchema>>;

/** Of a trace of this pack. */
export const traceHeader = ({ manifest: { id, config }, packHash }: Pick<OpenPack, "manifest" | "packHash">, columns: readonly TraceColumn[] = ["ids", "weights"]): TraceHeader => ({
  model: id, packHash, nExperts: config.nExperts, topK: config.router.topK, moeLayers: moeLayersOf(config), columns: [...columns],
});

/** One token in one layer. */
export interface TraceRecord {
  /** Number of the text or request within the file. */
  readonly request: number;
  /** Absolute position. */
  readonly token: number;
  readonly layer: number;
  /** In rank order, [topK], or fewer where the token did without some, none where it did without all. */
  readonly ids: ArrayLike<number>;
  readonly weights: ArrayLike<number>;
  /** Only in traces that have these columns: [nExperts], as many as ids, [1]. */
  readonly logits?: ArrayLike<number>;
  readonly norms?: ArrayLike<number>;
  readonly cosine?: ArrayLike<number>;
}

type Shape = Pick<TraceHeader, "columns" | "topK" | "nExperts">;

const lengthOf = (column: TraceColumn, { topK, nExperts }: Shape): number => ({ choice: topK, expert: nExperts, token: 1 })[COLUMNS[column].per];
const columnBytes = (column: TraceColumn, shape: Shape): number => Math.ceil((COLUMNS[column].bytes * lengthOf(column, shape)) / 4) * 4;

export const traceRecordBytes = (shape: Shape): number => FIXED_BYTES + shape.columns.reduce((sum, column) => sum + columnBytes(column, shape), 0);

/** What a file begins with; a multiple of 4 bytes. */
export function traceHeaderBytes(header: TraceHeader): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(PREFIX_BYTES + Math.ceil(json.length / 4) * 4).fill(0x20, PREFIX_BYTES);
  bytes.set(new TextEncoder().encode(TRACE_MAGIC));
  const view = new DataView(bytes.buffer);
  view.setUint32(8, VERSION, true);
  view.setUint32(12, bytes.length - PREFIX_BYTES, true);
  bytes.set(json, PREFIX_BYTES);
  return bytes;
}

/** Records, one after the other. Throws RangeError on a record of another model's shape. */
export function traceRecords(header: Shape, records: readonly TraceRecord[]): Uint8Array<ArrayBuffer> {
  const stride = traceRecordBytes(header);
  const { topK, nExperts } = header;
  const bytes = new Uint8Array(records.length * stride);
  const view = new DataView(bytes.buffer);
  records.forEach((record, i) => {
    const { request, token, layer, ids, weights } = record;
    if (ids.length > topK || weights.length !== ids.length) throw new RangeError(`A trace record of layer ${layer} has ${ids.length} experts and ${weights.length} weights; expected at most ${topK} of each, as many weights as experts.`);
    let at = i * stride;
    view.setUint32(at, request, true);
    view.setUint32(at + 4, token, true);
    view.setUint16(at + 8, layer, true);
    at += FIXED_BYTES;
    for (const column of header.columns) {
      const values = record[column];
      const length = COLUMNS[column].per === "choice" ? ids.length : lengthOf(column, header);
      if (values?.length !== length) throw new RangeError(`A trace record of layer ${layer} has ${values?.length ?? "no"} ${column}; expected ${length}.`);
      for (let j = 0; j < length; j++) {
        if (column !== "ids") view.setFloat32(at + j * 4, values[j]!, true);
        else if (ids[j]! < nExperts) view.setUint16(at + j * 2, ids[j]!, true);
        else throw new RangeError(`A trace record of layer ${layer} names expert ${ids[j]}; the model has ${nExperts}.`);
      }
      if (column === "ids") for (let j = length; j < topK; j++) view.setUint16(at + j * 2, LEFT_OUT, true);
      at += columnBytes(column, header);
    }
  });
  return bytes;
}

/** A trace file in memory. */
export interface Trace {
  readonly header: TraceHeader;
  readonly length: number;
  /** Record number `index`, decoded afresh; a column the file does not have is empty. */
  record(index: number): TraceRecord;
}

/** Reads a file; `name` is for messages. Throws SourceError on anything that is no whole trace. */
export function readTrace(bytes: Uint8Array, name: string): Trace {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < PREFIX_BYTES || new TextDecoder().decode(bytes.subarray(0, 8)) !== TRACE_MAGIC) throw new SourceError(`${name} is no trace: it does not begin with ${TRACE_MAGIC}.`);
  const version = view.getUint32(8, true);
  if (version !== VERSION) throw new SourceError(`${name} is a trace of version ${version}; version ${VERSION} is read.`);
  const start = PREFIX_BYTES + view.getUint32(12, true);
  if (start > bytes.length || start % 4 !== 0) throw new SourceError(`${name} says its header ends at byte ${start}; the file has ${bytes.length} bytes, and records start at a multiple of 4.`);
  const header = headerOf(bytes.subarray(PREFIX_BYTES, start), name);
  const stride = traceRecordBytes(header);
  const length = (bytes.length - start) / stride;
  if (!Number.isInteger(length)) throw new SourceError(`${name} has ${bytes.length - start} bytes of records; expected a multiple of ${stride}.`);
  return {
    header, length,
    record(index) {
      if (!Number.isInteger(index) || index < 0 || index >= length) throw new RangeError(`${name} has ${length} records; number ${index} was asked for.`);
      let at = start + index * stride;
      const [request, token, layer] = [view.getUint32(at, true), view.getUint32(at + 4, true), view.getUint16(at + 8, true)];
      at += FIXED_BYTES;
      const found: Partial<Record<TraceColumn, number[]>> & { ids: number[]; weights: number[] } = { ids: [], weights: [] };
      for (const column of header.columns) {
        const from = at;
        found[column] = Array.from({ length: lengthOf(column, header) }, (_, j) => (column === "ids" ? view.getUint16(from + j * 2, true) : view.getFloat32(from + j * 4, true)));
        at += columnBytes(column, header);
      }
      const nTaken = found.ids.indexOf(LEFT_OUT);
      if (nTaken >= 0) for (const column of header.columns) if (COLUMNS[column].per === "choice") found[column] = found[column]!.slice(0, nTaken);
      return { request, token, layer, ...found };
    },
  };
}

function headerOf(json: Uint8Array, name: string): TraceHeader {
  const parsed = headerSchema.safeParse(parseJson({ description: name }, "its header", json));
  if (!parsed.success) throw new SourceError(`${name} has a header whose ${parsed.error.issues[0]!.path.join(".")} is not valid: ${parsed.error.issues[0]!.message}.`);
  return parsed.data;
}
