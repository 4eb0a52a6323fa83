// A change of holdings in steps that each fit: during a step a shard holds what it had and what it loads together. Owns the order of loads and of letting go,
// and the detour over a third shard where all that receive are full. Refuses, with the numbers, where nothing can move. No piece is ever held by nobody,
// nor by fewer shards than the fewer of before and after.

export interface Room {
  /** Of each piece, by number. */
  readonly bytes: Float64Array;
  /** Of each shard. */
  readonly roomBytes: number;
}

type Holdings = readonly ReadonlySet<number>[];

/** Holdings after each step, the last one `to`; none where nothing changes. `from` and `to` are of the same length. Throws RangeError. */
export function stepsBetween(from: Holdings, to: Holdings, { bytes, roomBytes }: Room): Holdings[] {
  const bytesIn = (ids: Iterable<number>): number => { let sum = 0; for (const id of ids) sum += bytes[id]!; return sum; };
  const holdersIn = (holdings: Holdings): Int32Array => { const n = new Int32Array(bytes.length); for (const ids of holdings) for (const id of ids) n[id]!++; return n; };
  to.forEach((ids, shard) => {
    const need = bytesIn(ids);
    if (need > roomBytes) throw new RangeError(`Shard ${shard} would hold ${need} bytes; it has room for ${roomBytes}.`);
  });
  const [before, after] = [holdersIn(from), holdersIn(to)];
  const now = from.map((ids) => new Set(ids));
  const fresh = new Set<number>(); // detours so far: once per piece, so that they end
  const steps: Holdings[] = [];
  for (;;) {
    const free = now.map((ids) => roomBytes - bytesIn(ids));
    const missing = to.map((ids, shard) => [...ids].filter((id) => !now[shard]!.has(id)));
    if (missing.every((ids) => ids.length === 0) && now.every((ids, shard) => ids.size === to[shard]!.size)) return steps;
    const loads = missing.map((ids, shard) => ids.filter((id) => {
      if (bytes[id]! > free[shard]!) return false;
      free[shard]! -= bytes[id]!;
      return true;
    }));
    const next = now.map((ids, shard) => new Set([...ids, ...loads[shard]!]));
    const dropped = letGo(next, to, holdersIn(next), (id) => Math.min(before[id]!, after[id]!), (shard) => bytesIn(missing[shard]!) - bytesIn(loads[shard]!));
    if (!dropped && loads.every((ids) => ids.length === 0) && !detour(next, { to, missing, free, fresh, bytes })) {
      const stuck = missing.findIndex((ids) => ids.length > 0);
      throw new RangeError(`Shard ${stuck} has room for ${roomBytes} bytes and holds ${bytesIn(now[stuck]!)}; it is to load ${bytesIn(missing[stuck]!)} more, and no shard has room for one of its experts to make way. Room for one expert more on each shard would do.`);
    }
    steps.push(next);
    next.forEach((ids, shard) => { now[shard] = new Set(ids); });
  }
}

/** Drops what is not to stay and not needed to keep `leastOf` holders, first where most still waits for room. */
function letGo(next: readonly Set<number>[], to: Holdings, holders: Int32Array, leastOf: (id: number) => number, waitingBytes: (shard: number) => number): boolean {
  let dropped = false;
  const order = next.map((_, shard) => ({ shard, waiting: waitingBytes(shard) })).sort((a, b) => b.waiting - a.waiting || a.shard - b.shard);
  for (const { shard } of order) {
    for (const id of [...next[shard]!]) {
      if (to[shard]!.has(id) || holders[id]! <= leastOf(id)) continue;
      next[shard]!.delete(id);
      holders[id]!--;
      dropped = true;
    }
  }
  return dropped;
}

/** One piece that leaves a full shard goes to a third one, to make way. */
function detour(next: readonly Set<number>[], { to, missing, free, fresh, bytes }: {
  readonly to: Holdings; readonly missing: readonly (readonly number[])[]; readonly free: readonly number[]; readonly fresh: Set<number>; readonly bytes: Float64Array;
}): boolean {
  for (const [shard, ids] of next.entries()) {
    if (missing[shard]!.length === 0) continue;
    for (const id of ids) {
      if (to[shard]!.has(id) || fresh.has(id)) continue;
      const third = next.findIndex((held, other) => other !== shard && !held.has(id) && bytes[id]! <= free[other]!);
      if (third < 0) continue;
      fresh.add(id);
      next[third]!.add(id);
      ids.delete(id);
      return true;
    }
  }
  return false;
}
