// The wire's checksum (docs/protocol.md section 4) as plain TypeScript: its definition, and what the scalar kernels run.
// Owns two forms: one chain for headers, sixteen side by side for payloads, as wide as four SIMD registers. Refuses to be cryptographic.

const PRIME = 0x01000193;
const SEED = 0x811c9dc5;
const LANES = 16;

/** One chain over u32 words [from, to). */
export function checksumWords(words: Uint32Array, from: number, to: number): number {
  let h = SEED | 0;
  for (let i = from; i < to; i++) {
    h = Math.imul(h ^ words[i]!, PRIME);
    h ^= h >>> 15;
  }
  return h >>> 0;
}

const lanes = new Uint32Array(LANES);

/** Sixteen chains over u32 words [from, to), word i in chain (i - from) mod 16, then one chain over the sixteen. */
export function checksumLanes(words: Uint32Array, from: number, to: number): number {
  for (let lane = 0; lane < LANES; lane++) lanes[lane] = SEED + lane;
  for (let i = from, lane = 0; i < to; i++, lane = (lane + 1) % LANES) {
    const h = Math.imul(lanes[lane]! ^ words[i]!, PRIME);
    lanes[lane] = h ^ (h >>> 15);
  }
  return checksumWords(lanes, 0, LANES);
}
