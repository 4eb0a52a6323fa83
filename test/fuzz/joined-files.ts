// A folder's files in one input, so that one change may touch any of them. Owns that form, and a source that pretends to hold the weights:
// their bytes decide nothing when a checkpoint is opened, and copying them for every case would take most of the time.
// {u32 bytes, u32 bytes pretended behind them, bytes} for each file, in the order of names.

import { type ByteSource, SourceError } from "../../formats/byte-source.ts";

export interface PretendedFile {
  readonly bytes: Uint8Array;
  /** Zeros that the source says follow. */
  readonly zeros: number;
}

export function joinFiles(files: readonly PretendedFile[]): Uint8Array {
  const out = new Uint8Array(files.reduce((n, { bytes }) => n + 8 + bytes.length, 0));
  const view = new DataView(out.buffer);
  let at = 0;
  for (const { bytes, zeros } of files) {
    view.setUint32(at, bytes.length, true);
    view.setUint32(at + 4, zeros, true);
    out.set(bytes, at + 8);
    at += 8 + bytes.length;
  }
  return out;
}

/** A file that really is large may be read as a whole where its kind allows it; what is asked here is what small ones cost. */
const ZEROS_MOST = 2 ** 21;

/** Whatever the bytes are: lengths are cut to what there is. */
export function splitFiles(joined: Uint8Array): PretendedFile[] {
  const view = new DataView(joined.buffer, joined.byteOffset, joined.length);
  const files: PretendedFile[] = [];
  for (let at = 0; at + 8 <= joined.length; ) {
    const length = Math.min(view.getUint32(at, true), joined.length - at - 8);
    files.push({ bytes: joined.slice(at + 8, at + 8 + length), zeros: Math.min(view.getUint32(at + 4, true), ZEROS_MOST) });
    at += 8 + length;
  }
  return files;
}

const ZEROS = new Uint8Array(1 << 16);

export class PretendingSource implements ByteSource {
  readonly description = "memory";
  readonly hasRanges = true;
  readonly #files: ReadonlyMap<string, PretendedFile>;

  constructor(files: ReadonlyMap<string, PretendedFile>) { this.#files = files; }

  /** The files of `joined` under `names`; those behind the last name are not there. */
  static of(names: readonly string[], joined: Uint8Array): PretendingSource {
    return new PretendingSource(new Map(splitFiles(joined).slice(0, names.length).map((file, i) => [names[i]!, file])));
  }

  async size(name: string): Promise<number | null> {
    const file = this.#files.get(name);
    return file === undefined ? null : file.bytes.length + file.zeros;
  }

  async *read(name: string, offset = 0, length?: number): AsyncIterable<Uint8Array> {
    const file = this.#files.get(name);
    if (file === undefined) throw new SourceError(`memory has no file ${name}.`);
    const size = file.bytes.length + file.zeros;
    const end = length === undefined ? size : offset + length;
    if (end > size) throw new SourceError(`memory, ${name}: bytes ${offset} to ${end} were asked for, but the file ends at ${size}.`);
    if (offset < file.bytes.length) yield file.bytes.subarray(offset, Math.min(end, file.bytes.length));
    for (let at = Math.max(offset, file.bytes.length); at < end; at += ZEROS.length) yield ZEROS.subarray(0, Math.min(ZEROS.length, end - at));
  }
}
