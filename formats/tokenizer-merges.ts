// Takes merges out of a BPE vocabulary that can never happen. Converters write every way to split a token (446,189 merges for the 199,742 tokens
// of o200k); an isolate has 128 MB for everything. Owns the proof and the test for it; refuses to change what any text becomes.
//
// BPE joins, again and again, the neighbours whose merge has the lowest rank, the leftmost first. When two neighbours l, r are joined, no merge has
// crossed the borders of the text l + r before, and those within it were done in the order in which they would be done on l + r alone. So the merge
// (l, r) can happen only if merging l + r alone comes to exactly l, r. (Merges of higher rank may come first: what they make may merge at a lower one.)

type Merge = readonly [string, string];

/** `merges` in order of rank, without those that never happen; the same list where all can. */
export function prunedMerges(merges: readonly Merge[]): readonly Merge[] {
  const ways = new Map<string, number>();
  for (const [left, right] of merges) ways.set(left + right, (ways.get(left + right) ?? 0) + 1);
  if (ways.size === merges.length) return merges;
  const ranks = new Map<string, number>();
  merges.forEach((merge, rank) => ranks.set(keyOf(merge[0], merge[1]), rank));
  const kept = merges.filter(([left, right], rank) => {
    // A merge listed again later has its last rank.
    if (ranks.get(keyOf(left, right)) !== rank) return false;
    return ways.get(left + right) === 1 || comesTo(left, right, ranks);
  });
  return kept.length === merges.length ? merges : kept;
}

const keyOf = (left: string, right: string): string => `${left}\0${right}`;

/** True when merging the characters of `left + right` comes to these two pieces. */
function comesTo(left: string, right: string, ranks: ReadonlyMap<string, number>): boolean {
  const parts = [...left, ...right];
  while (parts.length > 2) {
    let best = Infinity;
    let at = -1;
    for (let i = 0; i + 1 < parts.length; i++) {
      const rank = ranks.get(keyOf(parts[i]!, parts[i + 1]!));
      if (rank !== undefined && rank < best) {
        best = rank;
        at = i;
      }
    }
    if (at < 0) return false;
    parts.splice(at, 2, parts[at]! + parts[at + 1]!);
  }
  return parts.length === 2 && parts[0] === left;
}

/** Merges as tokenizer.json holds them: texts with a space between take half the memory of pairs when read, where no piece has a space. */
export const writtenMerges = (merges: readonly Merge[]): readonly (string | Merge)[] =>
  (merges.some(([left, right]) => left.includes(" ") || right.includes(" ")) ? merges : merges.map(([left, right]) => `${left} ${right}`));

/** A published tokenizer.json with its merges pruned, or null where nothing can be taken out. */
export function withPrunedMerges(document: unknown): object | null {
  const model = (document as { model?: { type?: unknown; merges?: unknown } } | null)?.model;
  if (model?.type !== "BPE" || !Array.isArray(model.merges)) return null;
  const merges: Merge[] = [];
  for (const merge of model.merges as unknown[]) {
    const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== "string" || typeof pair[1] !== "string") return null; // createTokenizer says what is wrong
    merges.push(pair as unknown as Merge);
  }
  const pruned = prunedMerges(merges);
  return pruned === merges ? null : { ...(document as object), model: { ...model, merges: writtenMerges(pruned) } };
}
