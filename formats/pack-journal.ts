// The journal of an unfinished pack: one line of JSON for the job, then one for every finished part, with what lies in it and the blobs that were
// complete by then. Owns what a later run may keep: the parts up to the first that is not as the journal says, each extent checked against its
// hash. Since the same job writes the same bytes in the same order, going on behind them gives the pack that one run would have given.
// Refuses journals of another job. What is torn or damaged is cut off, never trusted.

import { z } from "zod";
import { SourceError } from "./byte-source.ts";
import type { StoredBlob } from "./blob-writer.ts";
import type { TensorLoss } from "./loss-ledger.ts";
import { type PackExtent, sha256Schema } from "./manifest.ts";
import type { PackSink, UnfinishedFiles } from "./pack-sink.ts";
import { parseJson, readBytes, sha256Hex } from "./read-bytes.ts";

/** Its file, beside the parts; no part of a finished pack. */
export const JOURNAL = "journal.jsonl";

/** A blob with what quantising it cost. */
export interface WrittenBlob extends StoredBlob {
  readonly losses: readonly TensorLoss[];
}

export interface FinishedPart {
  readonly name: string;
  readonly bytes: number;
  /** [offset, bytes, SHA-256] in order. */
  readonly extents: readonly (readonly [offset: number, bytes: number, hash: string])[];
  /** Numbers (in the order of the pack) and contents of the blobs that were complete when this part was, and not when the one before it was. */
  readonly blobs: readonly (readonly [number: number, blob: WrittenBlob])[];
}

const count = z.int().min(0);
const number = z.number();
const lossSchema = z.strictObject({ nValues: count, maxError: number, errorSquares: number, squares: number, zeroScales: count, subnormalScales: count });
const blobSchema = z.strictObject({
  hash: sha256Schema, bytes: count, extents: z.array(z.tuple([count, count, count, sha256Schema])),
  losses: z.array(z.strictObject({ tensor: z.string(), kind: z.string(), from: z.string(), to: z.string(), loss: lossSchema })),
});
const partSchema = z.strictObject({ name: z.string(), bytes: count, extents: z.array(z.tuple([count, count, sha256Schema])), blobs: z.array(z.tuple([count, blobSchema])) });
const jobSchema = z.strictObject({ journal: z.literal(1), job: sha256Schema });

export class PackJournal {
  readonly #sink: PackSink;
  /** Finished parts that an earlier run of the same job left, whole. */
  readonly kept: readonly FinishedPart[];

  private constructor(sink: PackSink, kept: readonly FinishedPart[]) {
    this.#sink = sink;
    this.kept = kept;
  }

  /**
   * Reads what an earlier run left in the sink and removes what cannot be kept of it. `job` is the SHA-256 (hex) of all that decides the pack's bytes.
   * `onPart` hears of every part that is checked. Throws SourceError, and touches nothing, where the sink holds an unfinished pack of another job.
   */
  static async open(sink: PackSink, job: string, onPart: (name: string) => void): Promise<PackJournal> {
    if (sink.unfinished === undefined) return new PackJournal(sink, []);
    const kept = await wholeParts(sink, sink.unfinished, job, onPart);
    for (const name of await sink.unfinished.list()) {
      if (!kept.some((part) => part.name === name)) await sink.unfinished.remove(name);
    }
    const journal = new PackJournal(sink, kept);
    await journal.#line({ journal: 1, job });
    for (const part of kept) await journal.#line(part);
    return journal;
  }

  /** Notes a finished part. */
  async add(part: FinishedPart): Promise<void> {
    await this.#line(part);
  }

  async #line(line: object): Promise<void> {
    if (this.#sink.unfinished !== undefined) await this.#sink.append(JOURNAL, new TextEncoder().encode(`${JSON.stringify(line)}\n`));
  }
}

/** The parts at the journal's beginning that are there, byte for byte. */
async function wholeParts(sink: PackSink, { source }: UnfinishedFiles, job: string, onPart: (name: string) => void): Promise<FinishedPart[]> {
  const size = await source.size(JOURNAL);
  if (size === null) return [];
  const lines = new TextDecoder().decode(await readBytes(source, JOURNAL, 0, size)).split("\n").slice(0, -1); // behind the last line end a line is torn
  const parsed = lines.map((line) => {
    try {
      return parseJson(source, JOURNAL, new TextEncoder().encode(line));
    } catch {
      return null;
    }
  });
  const head = jobSchema.safeParse(parsed[0]);
  if (!head.success) return [];
  if (head.data.job !== job) {
    throw new SourceError(`${sink.description} holds an unfinished pack of another model, or one made with other options. `
      + "Finish that one with the command that began it, or start over with --fresh.");
  }
  const kept: FinishedPart[] = [];
  for (const line of parsed.slice(1)) {
    const part = partSchema.safeParse(line);
    if (!part.success) break;
    onPart(part.data.name);
    if (!(await isWhole(source, part.data))) break;
    kept.push(part.data as FinishedPart);
  }
  return kept;
}

async function isWhole(source: UnfinishedFiles["source"], { name, bytes, extents }: z.infer<typeof partSchema>): Promise<boolean> {
  if ((await source.size(name)) !== bytes) return false;
  let end = 0;
  for (const [offset, length, expected] of extents) {
    if (offset < end || offset + length > bytes || (await sha256Hex(await readBytes(source, name, offset, length))) !== expected) return false;
    const gap = await readBytes(source, name, end, offset - end);
    if (gap.some((byte) => byte !== 0)) return false;
    end = offset + length;
  }
  return end === bytes;
}

export type KeptExtent = readonly [part: number, offset: number];

/** Extents of kept parts by hash, and the blobs all of whose bytes lie in them by number. */
export function keptContents(parts: readonly FinishedPart[]): { readonly extents: Map<string, KeptExtent>; readonly blobs: ReadonlyMap<number, WrittenBlob> } {
  const extents = new Map<string, KeptExtent>();
  parts.forEach((part, i) => { for (const [offset, , extentHash] of part.extents) extents.set(extentHash, [i, offset]); });
  const isKept = ([part, offset, , extentHash]: PackExtent): boolean => {
    const found = extents.get(extentHash);
    return found !== undefined && found[0] === part && found[1] === offset;
  };
  const blobs = new Map(parts.flatMap((p) => p.blobs).filter(([, blob]) => blob.extents.every(isKept)));
  return { extents, blobs };
}
