// Which holder of a slot computes it: the placement of a fan-out whose slots may be on several shards. docs/protocol.md section 3.
// Owns the choice for a round, and where the groups of a late or lost frame go: a function of plan, rounds so far and state of the lines, so that what is equal
// takes turns. Whoever is chosen, the rows are the same bits. Refuses lines (client.ts) and their timing (frame-watch.ts).

import type { PlannedRange } from "../fleet/plan.ts";
import { SlotTable } from "../fleet/slot-table.ts";
import type { ExpertBatch, Placement } from "../model/experts.ts";

/** How soon a holder would answer: at once; after a frame that is late; when its line has been opened; nobody knows. */
export const READY = 0, LATE = 1, AT_REST = 2, LOST = 3;
export type Readiness = typeof READY | typeof LATE | typeof AT_REST | typeof LOST;

/** The line to one holder. */
export interface HolderLine {
  readonly readiness: Readiness;
  /** Opens the line, which nothing waits for. */
  wake(): void;
}

/** Groups of a batch that one holder shall compute, ascending. */
export interface PartGroups {
  readonly part: number;
  readonly groups: Uint32Array;
}

/** One more frame in a round costs about as much as so many rows; half a row more, so that who gets a frame anyway is preferred to an equal. */
const FRAME_COST = 2.5;
/** Multiples of it, taken modulo 1, spread evenly however many there are. */
const GOLDEN = (Math.sqrt(5) - 1) / 2;

export class ReplicaChoice implements Placement {
  readonly nParts: number;
  /** Absent where every slot has one holder: a round then costs nothing here. */
  readonly startRound?: NonNullable<Placement["startRound"]>;
  readonly #table: SlotTable;
  readonly #lines: readonly HolderLine[];
  /** Parts that hold something and are reached over a line. */
  readonly #reached: readonly number[];
  readonly #readiness: Uint8Array; // [nParts]
  readonly #rows: Float64Array; // [nParts] of this round
  readonly #nSegments: number;
  readonly #chosen: Int32Array; // [nExperts, nSegments] of this round, -1 = not asked for
  readonly #turns: Uint32Array; // [nLayers] rounds so far
  readonly #equal: number[] = [];
  #layer = -1;
  #turn = 0;

  /** `parts`: slots of each; those beyond `lines` are the caller's own, which need no frame. */
  constructor(parts: readonly (readonly PlannedRange[])[], lines: readonly HolderLine[]) {
    this.nParts = parts.length;
    this.#table = new SlotTable(parts);
    this.#lines = lines;
    this.#reached = lines.flatMap((_, part) => (parts[part]!.length > 0 ? [part] : []));
    this.#readiness = new Uint8Array(parts.length);
    this.#rows = new Float64Array(parts.length);
    const most = (of: (range: PlannedRange) => number): number => parts.reduce((all, ranges) => ranges.reduce((max, range) => Math.max(max, of(range)), all), 0);
    this.#turns = new Uint32Array(most(({ layer }) => layer + 1));
    this.#nSegments = most(({ segments: [, end] }) => end);
    this.#chosen = new Int32Array(most(({ expert }) => expert + 1) * this.#nSegments).fill(-1);
    const held = parts.reduce((all, ranges) => all + ranges.reduce((sum, { segments: [first, end] }) => sum + end - first, 0), 0);
    const slots = new Set(parts.flatMap((ranges) => ranges.flatMap(({ layer, expert, segments: [first, end] }) => Array.from({ length: end - first }, (_, i) => `${layer} ${expert} ${first + i}`))));
    if (held > slots.size) this.startRound = (layer, tokens, segmentCounts) => this.#choose(layer, tokens, segmentCounts);
  }

  /** True where some slot has several holders. */
  get hasReplicas(): boolean { return this.startRound !== undefined; }

  partOf(layer: number, expert: number, segment: number): number {
    if (layer === this.#layer) {
      const chosen = this.#chosen[expert * this.#nSegments + segment]!;
      if (chosen >= 0) return chosen;
    }
    return this.#holdersOf(layer, expert, segment)[0]!;
  }

  #holdersOf(layer: number, expert: number, segment: number): readonly number[] {
    const holders = this.#table.holdersOf(layer, expert, segment);
    if (holders.length === 0) throw new RangeError(`The plan has no slot for layer ${layer}, expert ${expert}, segment ${segment}.`);
    return holders;
  }

  #choose(layer: number, tokens: Uint32Array, segmentCounts: ArrayLike<number>): void {
    const [rows, chosen, nSegments] = [this.#rows, this.#chosen, this.#nSegments];
    this.#layer = layer;
    // Layers begin at different holders: a model's first rounds, and those of a prompt, have few of each.
    this.#turn = layer + this.#turns[layer]!++;
    rows.fill(0);
    chosen.fill(-1);
    this.#look();
    // Who comes first decides for those after it: all take turns at that too, far apart, since neighbours have the same holders.
    const first = Math.floor(this.#turn * GOLDEN * tokens.length) % tokens.length;
    // What only one can do comes before, so that the others take what is left.
    for (const shared of [false, true]) {
      for (let i = 0; i < tokens.length; i++) {
        const expert = (first + i) % tokens.length;
        const nTokens = tokens[expert]!;
        if (nTokens === 0) continue;
        for (let segment = 0; segment < segmentCounts[expert]!; segment++) {
          const holders = this.#holdersOf(layer, expert, segment);
          if (holders.length > 1 !== shared) continue;
          const at = expert * nSegments + segment;
          const part = shared ? this.#best(holders, segment === 0 ? -1 : chosen[at - 1]!) : holders[0]!;
          chosen[at] = part;
          rows[part]! += nTokens;
        }
      }
    }
  }

  /** Asks the lines, once per round; those at rest are opened for later ones. */
  #look(): void {
    for (const part of this.#reached) {
      const line = this.#lines[part]!;
      const readiness = line.readiness;
      this.#readiness[part] = readiness;
      if (readiness === AT_REST) line.wake();
    }
  }

  /** `neighbour`: who has the expert's previous segment, whose tokens are the same. */
  #best(holders: readonly number[], neighbour: number): number {
    const equal = this.#equal;
    equal.length = 0;
    for (const part of holders) {
      const order = equal.length === 0 ? 0 : this.#compare(part, equal[0]!);
      if (order < 0) equal.length = 0;
      if (order <= 0) equal.push(part);
    }
    const best = equal[this.#turn % equal.length]!;
    return neighbour >= 0 && holders.includes(neighbour) && this.#readiness[neighbour] === this.#readiness[best] ? neighbour : best;
  }

  /** Below 0 where `part` is to be preferred, 0 where both are equal. */
  #compare(part: number, other: number): number {
    return this.#readiness[part]! - this.#readiness[other]! || this.#cost(part) - this.#cost(other);
  }

  #cost(part: number): number {
    const rows = this.#rows[part]!;
    return rows === 0 && part < this.#lines.length ? FRAME_COST : rows;
  }

  /**
   * Groups over holders other than `without` that `mayTake` them, ascending by part; null where some group has none. Least rows first, and whoever
   * gets a frame already as long as rows are nearly equal.
   */
  regroup(batch: ExpertBatch, groups: readonly number[], without: number, mayTake: (part: number) => boolean): PartGroups[] | null {
    const taken = new Map<number, { rows: number; groups: number[] }>();
    for (const group of groups) {
      const nRows = batch.groupStart[group + 1]! - batch.groupStart[group]!;
      let [best, bestRows] = [-1, Infinity];
      for (const part of this.#holdersOf(batch.layer, batch.groupExpert[group]!, batch.groupSegment[group]!)) {
        if (part === without || part >= this.#lines.length || !mayTake(part)) continue;
        const rows = taken.get(part)?.rows ?? FRAME_COST;
        if (rows < bestRows) [best, bestRows] = [part, rows];
      }
      if (best < 0) return null;
      const of = taken.get(best);
      if (of === undefined) taken.set(best, { rows: nRows, groups: [group] });
      else {
        of.rows += nRows;
        of.groups.push(group);
      }
    }
    return [...taken].map(([part, { groups: list }]) => ({ part, groups: Uint32Array.from(list) })).sort((a, b) => a.part - b.part);
  }
}
