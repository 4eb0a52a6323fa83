// A placement somebody made, up to the names of its shards: which part becomes which shard's, so that most of it is there already. Owns the choice, an
// assignment problem solved exactly as a flow. Refuses to change a part, and to move a shard to another region: where none is left there, the part gets a new number.

import { FlowNetwork } from "./min-cost-flow.ts";

export interface Part {
  readonly ids: ReadonlySet<number>;
  readonly region: string | null;
}

/** Number of each part's shard, all different; from `held.length` on they are new. A part without slots gets none: null. */
export function matchParts(parts: readonly Part[], held: readonly Part[], bytesOf: (ids: Iterable<number>) => number): (number | null)[] {
  const wanted = parts.flatMap((part, i) => (part.ids.size > 0 ? [{ part, i }] : []));
  const nNumbers = held.length + wanted.length;
  const [source, sink] = [0, 1];
  const firstNumber = 2 + wanted.length;
  const network = new FlowNetwork(firstNumber + nNumbers);
  // Bytes decide; among equals numbers in use go before those at rest, and these before new ones.
  const rank = (number: number): number => (number >= held.length ? 2 : held[number]!.ids.size === 0 ? 1 : 0);
  const edges = wanted.map(({ part }, w) => {
    network.edge(source, 2 + w, 1, 0);
    return Array.from({ length: nNumbers }, (_, number) => {
      const there = held[number];
      if (there !== undefined && there.region !== part.region) return null;
      const missing = there === undefined ? bytesOf(part.ids) : bytesOf([...part.ids].filter((id) => !there.ids.has(id)));
      return network.edge(2 + w, firstNumber + number, 1, missing * (2 * wanted.length + 1) + rank(number));
    });
  });
  for (let number = 0; number < nNumbers; number++) network.edge(firstNumber + number, sink, 1, 0);
  network.send(source, sink);
  const chosen = new Array<number | null>(parts.length).fill(null);
  wanted.forEach(({ i }, w) => { chosen[i] = edges[w]!.findIndex((edge) => edge !== null && network.flowOn(edge) === 1); });
  // New numbers follow one another without a gap.
  const fresh = chosen.filter((number) => number !== null && number >= held.length).sort((a, b) => a! - b!);
  return chosen.map((number) => (number !== null && number >= held.length ? held.length + fresh.indexOf(number) : number));
}
