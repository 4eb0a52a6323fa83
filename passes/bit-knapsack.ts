// The cheapest choice of one width for each of several things within a budget of bits: the multiple-choice knapsack of PMQ (MC-MoE, 2024; MC#, 2025), which needs
// no integer programme: dynamic programming over the bits used so far is exact. Owns the choice, and PMQ's cost. Refuses to know where costs come from.

export interface BitChoice {
  /** Bits each thing may have, ascending. */
  readonly widths: readonly number[];
  /** [thing][width]: what the thing costs at that width. */
  readonly costs: readonly (readonly number[])[];
  /** Bits that all of them may have together; of things of unequal size, bits times size. */
  readonly budget: number;
  /** How many weights each thing stands for, in any unit, whole numbers; 1 each where nothing is said. */
  readonly sizes?: readonly number[];
  /** Fewest things at a width; widths that are not named may have none. */
  readonly atLeast?: ReadonlyMap<number, number>;
}

/** Width of each thing, with the least sum of costs; of equal sums the one whose first thing has fewer bits. Throws RangeError where nothing fits. */
export function chooseBits({ widths, costs, budget, sizes = costs.map(() => 1), atLeast = new Map() }: BitChoice): number[] {
  if (widths.length === 0 || widths.some((width, i) => !Number.isInteger(width) || width < 0 || (i > 0 && width <= widths[i - 1]!))) throw new RangeError(`Widths ${widths.join(", ")} were given; expected whole numbers, ascending.`);
  const nThings = costs.length;
  for (const [i, of] of costs.entries()) if (of.length !== widths.length || of.some((cost) => !Number.isFinite(cost))) throw new RangeError(`Thing ${i} has the costs ${of.join(", ")}; expected a number for each of ${widths.length} widths.`);
  if (sizes.length !== nThings || sizes.some((size) => !Number.isInteger(size) || size < 1)) throw new RangeError(`Sizes ${sizes.join(", ")} were given; expected a whole number above zero for each of ${nThings} things.`);
  const most = Math.min(Math.floor(budget), sizes.reduce((sum, size) => sum + size, 0) * widths.at(-1)!);
  // What must still come of each named width is part of the state, as digits of a number.
  const needs = widths.map((width) => atLeast.get(width) ?? 0);
  const unit = needs.map((_, w) => needs.slice(0, w).reduce((product, n) => product * (n + 1), 1));
  const nNeeds = needs.reduce((product, n) => product * (n + 1), 1);
  const met = (need: number, w: number): number => (Math.floor(need / unit[w]!) % (needs[w]! + 1) > 0 ? need - unit[w]! : need);
  const nStates = nNeeds * (most + 1);
  const at = (need: number, left: number): number => need * (most + 1) + left;

  // cost[i]: of the best choice for things i and later, by what is still needed and the bits left.
  let next = new Float64Array(nStates).fill(Infinity);
  next.fill(0, at(0, 0), at(0, most) + 1);
  const chosen: Uint8Array[] = [];
  for (let i = nThings - 1; i >= 0; i--) {
    const best = new Float64Array(nStates).fill(Infinity);
    const choice = new Uint8Array(nStates);
    for (let need = 0; need < nNeeds; need++) {
      for (const [w, width] of widths.entries()) {
        const [after, cost, taken] = [met(need, w), costs[i]![w]!, width * sizes[i]!];
        for (let left = taken; left <= most; left++) {
          const sum = cost + next[at(after, left - taken)]!;
          if (sum < best[at(need, left)]!) [best[at(need, left)], choice[at(need, left)]] = [sum, w];
        }
      }
    }
    chosen.unshift(choice);
    next = best;
  }
  let [need, left] = [nNeeds - 1, most];
  if (most < 0 || next[at(need, left)] === Infinity) {
    const asked = needs.flatMap((n, w) => (n > 0 ? [`${n} of ${widths[w]} bits`] : [])).join(" and ");
    throw new RangeError(`${nThings} things of ${widths.join(", ")} bits do not fit a budget of ${budget} bits${asked === "" ? "" : ` with at least ${asked}`}.`);
  }
  return chosen.map((choice, i) => {
    const w = choice[at(need, left)]!;
    [need, left] = [met(need, w), left - widths[w]! * sizes[i]!];
    return widths[w]!;
  });
}

/** What an expert is worth at each width: PMQ's cost, frequency^1 * weight^1.5 * loss^1, both shares within the layer (its published code and plans; the text says otherwise). */
export function pmqCosts(frequency: readonly number[], weight: readonly number[], loss: readonly (readonly number[])[]): number[][] {
  const share = (values: readonly number[]): number[] => {
    const sum = values.reduce((a, b) => a + b, 0);
    return values.map((value) => (sum === 0 ? 0 : value / sum));
  };
  const [f, w] = [share(frequency), share(weight)];
  return loss.map((byWidth, expert) => byWidth.map((error) => f[expert]! * w[expert]! ** 1.5 * error));
}
