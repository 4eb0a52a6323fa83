// The plan: which shard holds which slot (layer, expert, segment). Pure: the same table, shards and mode give the same plan.
// Owns the assignment and its totals. Refuses bytes and names of objects: it speaks of shard numbers. One epoch of one deployment
// never changes; another assignment is another epoch.

/** What a plan needs of one (layer, expert) of the expert table: the bytes of each segment. */
export interface PlannedExpert {
  readonly layer: number;
  readonly expert: number;
  readonly segmentBytes: readonly number[];
  /** What its segments are, so that experts which are the same bytes lie in one place, once: merged ones, and those of a pool of layers. Absent: like no other. */
  readonly content?: string;
}

/** The expert table of a pack, as plans take it. */
export const expertTable = ({ experts }: { readonly experts: readonly (Omit<PlannedExpert, "segmentBytes"> & { readonly segments: readonly { readonly bytes: number; readonly hash?: string }[] })[] }): PlannedExpert[] =>
  experts.map(({ layer, expert, segments }) => ({
    layer, expert, segmentBytes: segments.map(({ bytes }) => bytes), ...(segments.some(({ hash }) => hash === undefined) ? {} : { content: segments.map(({ hash }) => hash).join() }),
  }));

/** Segments [first, end) of one expert. */
export interface PlannedRange {
  readonly layer: number;
  readonly expert: number;
  readonly segments: readonly [first: number, end: number];
}

export interface Plan {
  readonly epoch: number;
  readonly nShards: number;
  /** Slots of each shard, ascending by (layer, expert, segment). */
  readonly slots: readonly (readonly PlannedRange[])[];
  /** Weight bytes of each shard; of equal segments once. */
  readonly shardBytes: readonly number[];
  /** (layer, expert) pairs of which each shard holds something, all segments or some. */
  readonly shardExperts: readonly number[];
  /** Shard of a slot; throws when the slot is not planned. */
  shardOf(layer: number, expert: number, segment: number): number;
}

/** A way of assigning: gives the shard of every segment of every expert, in the table's order. */
export type Assign = (experts: readonly PlannedExpert[], nShards: number) => readonly (readonly number[])[];

/** Whole experts; within each layer the next expert goes to the shard with the fewest bytes of that layer, then of all; equal ones go where the first is. */
export const wholeExperts: Assign = (experts, nShards) => assignBalanced(experts, nShards, (expert) => [expert.segmentBytes.length]);

/** Each segment on its own: an expert may be spread over several shards. */
export const slicedExperts: Assign = (experts, nShards) => assignBalanced(experts, nShards, (expert) => expert.segmentBytes.map(() => 1));

function assignBalanced(experts: readonly PlannedExpert[], nShards: number, runs: (expert: PlannedExpert) => readonly number[]): number[][] {
  const ofAll = new Array<number>(nShards).fill(0);
  const ofLayer = new Map<number, number[]>();
  const placed = new Map<string, readonly number[]>();
  return experts.map((expert) => {
    const layer = ofLayer.get(expert.layer) ?? new Array<number>(nShards).fill(0);
    ofLayer.set(expert.layer, layer);
    const same = expert.content === undefined ? undefined : placed.get(expert.content);
    if (same !== undefined) {
      // Its tokens are work of that layer there; its bytes are there already.
      same.forEach((shard, i) => { layer[shard]! += expert.segmentBytes[i]!; });
      return [...same];
    }
    const shards: number[] = [];
    if (expert.content !== undefined) placed.set(expert.content, shards);
    for (const length of runs(expert)) {
      let best = 0;
      for (let s = 1; s < nShards; s++) if (layer[s]! < layer[best]! || (layer[s] === layer[best] && ofAll[s]! < ofAll[best]!)) best = s;
      for (let i = 0; i < length; i++) {
        const bytes = expert.segmentBytes[shards.length]!;
        layer[best]! += bytes;
        ofAll[best]! += bytes;
        shards.push(best);
      }
    }
    return shards;
  });
}

/** Plans the experts over `nShards` shards. Throws RangeError on a shard count that is not 1 to 65,535. */
export function makePlan(experts: readonly PlannedExpert[], nShards: number, assign: Assign = wholeExperts, epoch = 1): Plan {
  if (!Number.isInteger(nShards) || nShards < 1 || nShards > 0xffff) throw new RangeError(`A plan was asked for ${nShards} shards; expected 1 to 65535.`);
  const assigned = assign(experts, nShards);
  const nExperts = 1 + experts.reduce((max, e) => Math.max(max, e.expert), -1);
  const nSegments = 1 + experts.reduce((max, e) => Math.max(max, e.segmentBytes.length - 1), -1);
  const nLayers = 1 + experts.reduce((max, e) => Math.max(max, e.layer), -1);
  const table = new Int32Array(nLayers * nExperts * nSegments).fill(-1);
  const slots: PlannedRange[][] = Array.from({ length: nShards }, () => []);
  const shardBytes = new Array<number>(nShards).fill(0);
  const shardExperts = new Array<number>(nShards).fill(0);
  const held = new Set<string>();
  experts.forEach((expert, i) => {
    const shards = assigned[i]!;
    let first = 0;
    shards.forEach((shard, segment) => {
      table[(expert.layer * nExperts + expert.expert) * nSegments + segment] = shard;
      const content = expert.content === undefined ? null : `${shard} ${segment} ${expert.content}`;
      if (content === null || !held.has(content)) shardBytes[shard]! += expert.segmentBytes[segment]!;
      if (content !== null) held.add(content);
      if (shards[segment + 1] === shard) return;
      slots[shard]!.push({ layer: expert.layer, expert: expert.expert, segments: [first, segment + 1] });
      first = segment + 1;
    });
    for (const shard of new Set(shards)) shardExperts[shard]! += 1;
  });
  return {
    epoch, nShards, slots, shardBytes, shardExperts,
    shardOf(layer, expert, segment) {
      const shard = expert < nExperts && segment < nSegments ? table[(layer * nExperts + expert) * nSegments + segment] : undefined;
      if (shard === undefined || shard < 0) throw new RangeError(`The plan has no slot for layer ${layer}, expert ${expert}, segment ${segment}.`);
      return shard;
    },
  };
}
