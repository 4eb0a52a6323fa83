// Which lane takes a request: the one that has its beginning in its prefix cache, as far as hashes tell, unless it has no room (docs/fleet.md, "Lanes"). Owns the key of
// a beginning and the order of lanes (rendezvous hashing, Thaler and Ravishankar 1998; mixing: MurmurHash3 by Austin Appleby, public domain). Refuses to ask
// lanes how they are: what is free is an argument. A lane never changes a bit of an answer, only what is evaluated again.

import { KV_BLOCK } from "../model/kernels.ts";

export interface Lane {
  /** Its number in the plan, which lives on when others come and go. */
  readonly lane: number;
  /** Positions of keys and values that nobody has reserved. */
  readonly freeTokens: number;
}

export interface LaneChoice {
  readonly lane: number;
  /** False: no lane has room, and the request waits for this one's. */
  readonly hasRoom: boolean;
}

/** Two words of a hash. */
export type PrefixKey = readonly [low: number, high: number];

/**
 * Whole pages of the prefix cache that a key is made of: fewer would send all that share a short system prompt to one lane, more would leave short conversations
 * without a lane of their own.
 */
const KEY_BLOCKS = 2;

const rotate = (x: number, by: number): number => (x << by) | (x >>> (32 - by));

const mix = (hash: number, word: number): number => (Math.imul(rotate(hash ^ Math.imul(rotate(Math.imul(word, 0xcc9e2d51), 15), 0x1b873593), 13), 5) + 0xe6546b64) | 0;

function finish(hash: number): number {
  let h = hash ^ (hash >>> 16);
  h = Math.imul(h, 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

const SEEDS: PrefixKey = [0x9747b28c, 0x3c6ef372];

/** Of a request's beginning, within its scope: scopes share no cache. Null where there is less than a key's blocks: too little to go somewhere for. */
export function prefixKey(scope: string, tokens: ArrayLike<number>): PrefixKey | null {
  const length = KV_BLOCK * KEY_BLOCKS;
  if (tokens.length < length) return null;
  const half = (seed: number): number => {
    let hash = mix(seed, scope.length);
    for (let i = 0; i < scope.length; i++) hash = mix(hash, scope.charCodeAt(i));
    for (let block = 0; block < KEY_BLOCKS; block++) {
      for (let i = block * KV_BLOCK; i < (block + 1) * KV_BLOCK; i++) hash = mix(hash, tokens[i]!);
      hash = finish(hash);
    }
    return finish(hash);
  };
  return [half(SEEDS[0]), half(SEEDS[1])];
}

/** How much a key wants a lane: a number of its own for every pair, so that a lane that comes takes only what it wins, and one that goes leaves the others' alone. */
const wish = (key: PrefixKey, lane: number): number => {
  const [low, high] = [finish(mix(mix(key[0], key[1]), lane)), finish(mix(mix(key[1], key[0]), ~lane))];
  return (high >>> 11) * 2 ** 32 + low;
};

/** Of lanes that can be reached. `neededTokens`: positions the request reserves. Throws RangeError where there is no lane. */
export function chooseLane(lanes: readonly Lane[], { key, neededTokens }: { readonly key: PrefixKey | null; readonly neededTokens: number }): LaneChoice {
  if (lanes.length === 0) throw new RangeError("A request asks for a lane and the plan has none that can be reached.");
  const wanted = (a: Lane, b: Lane): number => (key === null ? 0 : wish(key, b.lane) - wish(key, a.lane)) || a.lane - b.lane;
  const hasRoom = ({ freeTokens }: Lane): boolean => freeTokens >= neededTokens;
  const home = lanes.reduce((best, lane) => (wanted(best, lane) <= 0 ? best : lane));
  if (key !== null && hasRoom(home)) return { lane: home.lane, hasRoom: true };
  const roomiest = lanes.reduce((best, lane) => ((lane.freeTokens - best.freeTokens || wanted(best, lane)) > 0 ? lane : best));
  return { lane: roomiest.lane, hasRoom: hasRoom(roomiest) };
}
