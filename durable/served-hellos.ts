// Which epochs a shard serves: of one pack, one hello for each, ascending; and which are over. Outlives the object's memory by the host's storage.
// Owns the list and its changes. Refuses to know what lies in memory (shard-core.ts): the list may run ahead of it after eviction.

import type { Hello, Retirement, SlotRange } from "./handshake.ts";
import type { ShardHost } from "./shard-host.ts";

/** Tells hellos apart by what they ask for; donors are of the moment. */
export const keyOf = ({ packHash, epoch, slots }: Hello): string => `${packHash} ${epoch} ${wordsOf(slots)}`;

/** Lists of slots are long and never change; each is asked about often. */
const words = new WeakMap<readonly SlotRange[], string>();

function wordsOf(slots: readonly SlotRange[]): string {
  let found = words.get(slots);
  if (found === undefined) words.set(slots, (found = JSON.stringify(slots)));
  return found;
}

export const rangesOf = (hellos: readonly Hello[]): readonly SlotRange[] => hellos.flatMap(({ slots }) => slots);

export class ServedHellos {
  readonly #host: Pick<ShardHost, "hellos" | "retired">;
  #all: readonly Hello[];
  #retired: Retirement | null;

  constructor(host: Pick<ShardHost, "hellos" | "retired">) {
    this.#host = host;
    this.#all = host.hellos.get();
    this.#retired = host.retired.get();
  }

  get all(): readonly Hello[] { return this.#all; }
  get epochs(): number[] { return this.#all.map(({ epoch }) => epoch); }

  /** What is served from now on, also after the object was evicted. */
  set(hellos: readonly Hello[]): void {
    const isSame = hellos.length === this.#all.length && hellos.every((hello, i) => keyOf(hello) === keyOf(this.#all[i]!));
    this.#all = hellos.map((hello) => ({ ...hello, donors: [] }));
    if (!isSame) this.#host.hellos.put(this.#all);
  }

  /** What stays beside `hello`, which takes the place of its own epoch's, and of another pack's altogether. An epoch that came to nothing, and asks for nothing any more, is forgotten. */
  beside({ packHash, epoch }: Hello): readonly Hello[] {
    return this.#all.filter((other) => other.packHash === packHash && other.epoch !== epoch && other.slots.length > 0);
  }

  with(hello: Hello): readonly Hello[] {
    return [...this.beside(hello), hello].sort((a, b) => a.epoch - b.epoch);
  }

  /** What is left once everything that `hello` takes the place of has ended; itself, where it is served. */
  without(hello: Hello): readonly Hello[] {
    const beside = this.beside(hello);
    return this.#all.filter((other) => beside.includes(other) || keyOf(other) === keyOf(hello));
  }

  /** Notes that epochs are over; gives those that are left, or null where that changes nothing. */
  retire({ packHash, below }: Retirement): readonly Hello[] | null {
    const [first] = this.#all;
    if (first !== undefined && first.packHash !== packHash) return null; // another pack has taken its place
    if (this.#retired?.packHash === packHash && this.#retired.below >= below) return null;
    this.#retired = { packHash, below };
    this.#host.retired.put(this.#retired);
    const left = this.#all.filter(({ epoch }) => epoch >= below);
    return left.length === this.#all.length ? null : left;
  }

  /** The number below which a hello's epoch is over; null where it is not. */
  overBelow({ packHash, epoch }: Hello): number | null {
    return this.#retired === null || this.#retired.packHash !== packHash || epoch >= this.#retired.below ? null : this.#retired.below;
  }
}
