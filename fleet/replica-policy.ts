// When hot experts get copies and cold ones lose them. Owns the decision: a band between adding and retiring, a budget of bytes, rests after each change, so that it
// never flaps (docs/fleet.md, "Replicas"). Pure: loads and times are arguments, the state goes in and comes out. Refuses where copies go: replicas.ts.

export interface PolicySlot {
  readonly layer: number;
  readonly bytes: number;
}

export interface ReplicaPolicy {
  /** Copies are added while the load per copy is above this many times the layer's mean load per slot. */
  readonly enter: number;
  /** One is retired where the rest would stay below this many times the mean. Below `enter`: what lies between changes nothing. */
  readonly leave: number;
  /** Of all copies beyond the least together. */
  readonly budgetBytes: number;
  /** Loaded by one change at most. */
  readonly changeBytes: number;
  /** A slot that changed is left alone for so long. */
  readonly coolDownMs: number;
  /** After a change of any slot none changes for so long: each change is an epoch. */
  readonly settleMs: number;
  /** A layer with fewer choices counted tells too little. */
  readonly leastChoices: number;
  /** Copies that each slot has anyway. */
  readonly leastCopies: number;
  /** Shards: no two copies on one. */
  readonly mostCopies: number;
}

export interface ReplicaState {
  /** Of each slot. */
  readonly copies: readonly number[];
  readonly changedAtMs: readonly (number | null)[];
  readonly lastChangeMs: number | null;
}

/** What the plan in force has, not changed yet. */
export const restingState = (copies: readonly number[]): ReplicaState => ({ copies, changedAtMs: copies.map(() => null), lastChangeMs: null });

/** The counts from now on; the state given where nothing changes, the very same object. Throws RangeError on a policy that could flap. */
export function decideReplicas(slots: readonly PolicySlot[], load: ArrayLike<number>, state: ReplicaState, nowMs: number, policy: ReplicaPolicy): ReplicaState {
  const { enter, leave, leastCopies, mostCopies } = policy;
  if (!(leave > 0 && leave < enter)) throw new RangeError(`Copies were to be added above ${enter} times the mean load and retired below ${leave}; expected the second to be above 0 and below the first.`);
  if (load.length !== slots.length || state.copies.length !== slots.length) throw new RangeError(`${load.length} loads and ${state.copies.length} counts of copies were given for ${slots.length} slots.`);
  if (state.lastChangeMs !== null && nowMs - state.lastChangeMs < policy.settleMs) return state;

  const mean = meansByLayer(slots, load, policy.leastChoices);
  const heat = (i: number, copies: number): number => load[i]! / copies / mean.get(slots[i]!.layer)!;
  const mayChange = (i: number): boolean => {
    const at = state.changedAtMs[i]!;
    return mean.has(slots[i]!.layer) && (at === null || nowMs - at >= policy.coolDownMs);
  };
  const copies = [...state.copies];
  slots.forEach((_, i) => {
    if (!mayChange(i)) return;
    while (copies[i]! > leastCopies && heat(i, copies[i]! - 1) < leave) copies[i]!--;
  });
  let budget = policy.budgetBytes - slots.reduce((sum, { bytes }, i) => sum + bytes * Math.max(0, copies[i]! - leastCopies), 0);
  let loadable = policy.changeBytes;
  const hottest = slots.map((_, i) => i).filter((i) => mayChange(i) && copies[i] === state.copies[i] && heat(i, copies[i]!) > enter).sort((a, b) => heat(b, copies[b]!) - heat(a, copies[a]!) || a - b);
  for (const i of hottest) {
    const { bytes } = slots[i]!;
    while (heat(i, copies[i]!) > enter && copies[i]! < mostCopies && bytes <= budget && bytes <= loadable) {
      copies[i]!++;
      budget -= bytes;
      loadable -= bytes;
    }
  }
  if (copies.every((n, i) => n === state.copies[i])) return state;
  return { copies, changedAtMs: state.changedAtMs.map((at, i) => (copies[i] === state.copies[i] ? at : nowMs)), lastChangeMs: nowMs };
}

/** Mean load per slot of each layer that was asked often enough. */
function meansByLayer(slots: readonly PolicySlot[], load: ArrayLike<number>, leastChoices: number): Map<number, number> {
  const sums = new Map<number, { total: number; n: number }>();
  slots.forEach(({ layer }, i) => {
    const sum = sums.get(layer) ?? { total: 0, n: 0 };
    sums.set(layer, sum);
    sum.total += load[i]!;
    sum.n++;
  });
  return new Map([...sums].filter(([, { total }]) => total > 0 && total >= leastChoices).map(([layer, { total, n }]) => [layer, total / n]));
}
