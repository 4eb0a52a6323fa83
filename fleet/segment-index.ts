// The expert table as numbered segments, so that plans are compared as sets of numbers. Owns the numbering (ascending by layer, expert, segment),
// the bytes of each and the way back to ranges. Refuses slots that the table does not have.

import type { PlannedExpert, PlannedRange } from "./plan.ts";

interface Indexed {
  readonly layer: number;
  readonly expert: number;
  /** Number of its first segment. */
  readonly first: number;
  readonly nSegments: number;
}

export class SegmentIndex {
  /** Ascending by (layer, expert). */
  readonly experts: readonly Indexed[];
  /** Bytes of each segment, by number. */
  readonly bytes: Float64Array;
  readonly #byName: ReadonlyMap<number, Indexed>;

  constructor(table: readonly PlannedExpert[]) {
    const sorted = table.toSorted((a, b) => a.layer - b.layer || a.expert - b.expert);
    let first = 0;
    this.experts = sorted.map(({ layer, expert, segmentBytes }) => {
      const indexed = { layer, expert, first, nSegments: segmentBytes.length };
      first += segmentBytes.length;
      return indexed;
    });
    this.bytes = Float64Array.from(sorted.flatMap(({ segmentBytes }) => segmentBytes));
    this.#byName = new Map(this.experts.map((e) => [nameOf(e.layer, e.expert), e]));
    if (this.#byName.size !== sorted.length) throw new RangeError(`The expert table has ${sorted.length} entries for ${this.#byName.size} experts; expected one each.`);
  }

  get nSegments(): number { return this.bytes.length; }

  /** Numbers of the segments in `ranges`, each once. Throws RangeError on one the table does not have. */
  idsOf(ranges: readonly PlannedRange[]): Set<number> {
    const ids = new Set<number>();
    for (const { layer, expert, segments: [from, to] } of ranges) {
      const found = this.#byName.get(nameOf(layer, expert));
      if (found === undefined || to > found.nSegments) {
        throw new RangeError(`A plan has segments ${from} to ${to} of layer ${layer}, expert ${expert}; the expert table has ${found === undefined ? "no such expert" : `${found.nSegments} segments of it`}.`);
      }
      for (let segment = from; segment < to; segment++) ids.add(found.first + segment);
    }
    return ids;
  }

  /** The way back: ascending, neighbouring segments of an expert as one range. */
  rangesOf(ids: Iterable<number>): PlannedRange[] {
    const sorted = Int32Array.from(ids).sort();
    const ranges: PlannedRange[] = [];
    let at = 0;
    for (const { layer, expert, first, nSegments } of this.experts) {
      while (at < sorted.length && sorted[at]! < first + nSegments) {
        const from = sorted[at++]!;
        let to = from + 1;
        while (at < sorted.length && sorted[at] === to && to < first + nSegments) { at++; to++; }
        ranges.push({ layer, expert, segments: [from - first, to - first] });
      }
    }
    return ranges;
  }

  bytesOf(ids: Iterable<number>): number {
    let total = 0;
    for (const id of ids) total += this.bytes[id]!;
    return total;
  }
}

const nameOf = (layer: number, expert: number): number => layer * 0x10000 + expert;
