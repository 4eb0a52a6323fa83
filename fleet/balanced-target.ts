// Where everything lies after a change of counts, with the fewest bytes loaded under a balance bound. Owns the bound and the minimum (docs/fleet.md, "Moves"):
// of the items of each size, and of those of each size within a layer, a shard holds at most its even part, rounded up. That keeps the choice a flow,
// whose cheapest solution is whole. Refuses what lies on which shard during the change: that is room-steps.ts.

import { FlowNetwork } from "./min-cost-flow.ts";

/** What moves as one: an expert, or one segment of an expert in slices. */
export interface Item {
  readonly layer: number;
  /** Its segments' numbers. */
  readonly ids: readonly number[];
  readonly bytes: number;
  /** On as many different shards. */
  readonly copies: number;
}

export interface BalancedTarget {
  /** Segments of each chosen shard. */
  readonly slots: ReadonlyMap<number, ReadonlySet<number>>;
  readonly movedBytes: number;
  /** No target within the bound loads less; equal to `movedBytes` unless there were too many choices of shards to compare. */
  readonly leastBytes: number;
}

/** Sets of shards compared when a fleet shrinks. The first is the best unless replicas or layers are spread oddly; each costs one solution. */
const MOST_SETS = 400;

/** Items alike in all that counts: layer, size, copies and who holds them. */
interface ItemClass {
  readonly group: number;
  readonly copies: number;
  readonly holders: readonly number[];
  readonly items: Item[];
}

/** Items of one size: each size is a problem of its own. */
interface SizeProblem {
  readonly bytes: number;
  readonly classes: readonly ItemClass[];
  /** Most copies on one shard, of the size and of each group (the size within a layer). */
  readonly mostCopies: number;
  readonly mostOfGroup: readonly number[];
}

/** The bound of `balancedTarget` in bytes: what a shard of `nShards` holds at most. Equal items: the even part rounded up to a whole item. */
export function balanceBound(items: readonly Item[], nShards: number): number {
  const copiesOf = new Map<number, number>();
  for (const { bytes, copies } of items) copiesOf.set(bytes, (copiesOf.get(bytes) ?? 0) + copies);
  return [...copiesOf].reduce((total, [bytes, copies]) => total + bytes * Math.ceil(copies / nShards), 0);
}

/** `held`: by shard number. Chooses `nShards` of `held` shards to stay, or all of them and `added` ones. */
export function balancedTarget(items: readonly Item[], held: readonly ReadonlySet<number>[], choice: { readonly nShards: number; readonly staying: readonly number[]; readonly added: readonly number[] }): BalancedTarget {
  const { nShards, staying, added } = choice;
  const problems = sizeProblems(items, held, nShards);
  const wanted = items.reduce((total, { bytes, copies }) => total + bytes * copies, 0);
  const solve = (shards: readonly number[]): { readonly slots: ReadonlyMap<number, ReadonlySet<number>>; readonly movedBytes: number } => {
    const slots = new Map(shards.map((shard) => [shard, new Set<number>()]));
    return { slots, movedBytes: problems.reduce((total, problem) => total + solveSize(problem, shards, slots), 0) };
  };
  if (staying.length <= nShards) {
    const { slots, movedBytes } = solve([...staying, ...added.slice(0, nShards - staying.length)]);
    return { slots, movedBytes, leastBytes: movedBytes };
  }
  const keepable = new Map(staying.map((shard) => [shard, keepableBytes(problems, shard)]));
  let best: ReturnType<typeof solve> | null = null;
  let looked = 0;
  for (const { shards, total } of setsByValue(staying, keepable, nShards)) {
    const least = Math.max(0, wanted - total);
    if (best !== null && (best.movedBytes <= least || looked === MOST_SETS)) return { ...best, leastBytes: Math.min(best.movedBytes, least) };
    const found = solve(shards);
    looked++;
    if (best === null || found.movedBytes < best.movedBytes) best = found;
  }
  return { ...best!, leastBytes: best!.movedBytes };
}

function sizeProblems(items: readonly Item[], held: readonly ReadonlySet<number>[], nShards: number): SizeProblem[] {
  const sizes = new Map<number, { readonly classes: Map<string, ItemClass>; readonly groups: Map<number, number>; readonly copiesOf: number[] }>();
  for (const item of items) {
    const size = sizes.get(item.bytes) ?? { classes: new Map<string, ItemClass>(), groups: new Map<number, number>(), copiesOf: [] };
    sizes.set(item.bytes, size);
    const group = size.groups.get(item.layer) ?? size.groups.size;
    size.groups.set(item.layer, group);
    size.copiesOf[group] = (size.copiesOf[group] ?? 0) + item.copies;
    const holders = held.flatMap((ids, shard) => (ids.has(item.ids[0]!) ? [shard] : []));
    const name = `${group} ${item.copies} ${holders.join(",")}`;
    const alike = size.classes.get(name) ?? { group, copies: item.copies, holders, items: [] };
    size.classes.set(name, alike);
    alike.items.push(item);
  }
  return [...sizes].map(([bytes, { classes, copiesOf }]) => ({
    bytes, classes: [...classes.values()], mostOfGroup: copiesOf.map((copies) => Math.ceil(copies / nShards)),
    mostCopies: Math.ceil(copiesOf.reduce((total, copies) => total + copies, 0) / nShards),
  }));
}

/** Places the items of one size on `shards`, into `slots`; returns the bytes that were not there. Always fits: an even split in fractions does, so a whole one does. */
function solveSize({ bytes, classes, mostCopies, mostOfGroup }: SizeProblem, shards: readonly number[], slots: ReadonlyMap<number, Set<number>>): number {
  const [source, sink, firstClass] = [0, 1, 2];
  const firstShard = firstClass + classes.length;
  const firstLeaf = firstShard + shards.length;
  const network = new FlowNetwork(firstLeaf + shards.length * mostOfGroup.length);
  const edges = classes.map(({ group, copies, holders, items }, c) => {
    network.edge(source, firstClass + c, items.length * copies, 0);
    return shards.map((shard, s) => network.edge(firstClass + c, firstLeaf + s * mostOfGroup.length + group, items.length, holders.includes(shard) ? 0 : 1));
  });
  shards.forEach((_, s) => {
    mostOfGroup.forEach((most, group) => network.edge(firstLeaf + s * mostOfGroup.length + group, firstShard + s, most, 0));
    network.edge(firstShard + s, sink, mostCopies, 0);
  });
  const { cost } = network.send(source, sink);
  classes.forEach(({ items }, c) => {
    // Wrapped round (McNaughton 1959): consecutive pieces of a row that repeats the items, so no shard gets one twice and each gets all its copies.
    let at = 0;
    shards.forEach((shard, s) => {
      for (let n = network.flowOn(edges[c]![s]!); n > 0; n--) for (const id of items[at++ % items.length]!.ids) slots.get(shard)!.add(id);
    });
  });
  return cost * bytes;
}

/** What a shard can keep at most, whatever the others do. */
function keepableBytes(problems: readonly SizeProblem[], shard: number): number {
  return problems.reduce((total, { bytes, classes, mostCopies, mostOfGroup }) => {
    const inGroup = mostOfGroup.map(() => 0);
    for (const { group, holders, items } of classes) if (holders.includes(shard)) inGroup[group]! += items.length;
    return total + bytes * Math.min(mostCopies, inGroup.reduce((sum, n, group) => sum + Math.min(n, mostOfGroup[group]!), 0));
  }, 0);
}

/** Sets of `size` shards, those of the largest value first; among equals lower numbers first. */
export function* setsByValue(shards: readonly number[], valueOf: ReadonlyMap<number, number>, size: number): Generator<{ readonly shards: readonly number[]; readonly total: number }> {
  const order = shards.toSorted((a, b) => valueOf.get(b)! - valueOf.get(a)! || a - b);
  const make = (places: readonly number[]) => ({ places, total: places.reduce((sum, place) => sum + valueOf.get(order[place]!)!, 0) });
  const open = [make(Array.from({ length: size }, (_, i) => i))];
  const seen = new Set([open[0]!.places.join()]);
  while (open.length > 0) {
    let best = 0;
    open.forEach(({ total }, i) => { if (total > open[best]!.total) best = i; });
    const [{ places, total }] = open.splice(best, 1) as [ReturnType<typeof make>];
    yield { shards: places.map((place) => order[place]!).toSorted((a, b) => a - b), total };
    places.forEach((place, i) => {
      const moved = place + 1;
      if (moved >= (places[i + 1] ?? order.length)) return;
      const next = places.with(i, moved);
      if (seen.has(next.join())) return;
      seen.add(next.join());
      open.push(make(next));
    });
  }
}
