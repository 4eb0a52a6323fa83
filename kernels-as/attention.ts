// Attention over the KV cache, docs/arithmetic.md section 8. Queries that share a kv head (heads of a group, and tokens of one timeline in a
// chunk) go through the blocks together in pieces of 8, 4, 2 or 1, so that keys and values are read once per piece; and up to eight pieces, kv head
// after kv head, go through a block before the next block comes, because its tiles lie one after the other in its page and stream from memory that way.
// Refuses to let masked keys take part, and the make-up of a piece to show in a result: every query is its own chain.

import { addFoldedValues, addValueTiles, addValues, scoreHalves, scoreTiles } from "./attention-products";
import { packGroupBytes, packQuery, packWeights } from "./attention-packs";
import { softmaxBlock } from "./attention-softmax";
import { loadHalf } from "./floats";
import { KV_F16, KV_Q8, SCALES_BYTES, TILE_BYTES, kvBlockBytes } from "./kv-cache";
import { LATENT_RUN, turnKeys } from "./latent-values";
import { packFloats } from "./packs";
import { pack, product } from "./products";
import { quantizeRows } from "./quantize";

// Scratch, shared: eight addresses, c of each query, scores [8][32], masked scales; per group of 32 dims of a value a pack of weights; one qa8 row.
const FACTORS: usize = 32;
const SCORES: usize = 64;
const MASKED_SCALES: usize = 1088;
const WEIGHTS: usize = 1152;
const WEIGHT_GROUP_BYTES: usize = 544;
// Then eight pieces: per query {q, out, position, first, sink or 0}, m and L; where the packed queries lie and whether they carry 2^112; queries and
// kv head; per group of 32 dims the packed queries, and those of the value's the sums o. Last, the values of one latent block.
const PIECES: i32 = 8;
const QUERY_BYTES: usize = 32;
const MAXIMA: usize = 256;
const SUMS: usize = 288;
const PACKED: usize = 416;
const IS_FOLDED: usize = 420;
const N_QUERIES: usize = 424;
const KV_HEAD: usize = 428;
const QUERIES: usize = 432;

/** Keys low..high of a block that a query sees, as low | high << 8; 32 when it sees none. */
@inline
function visible(record: usize, block: u32): u32 {
  const position = load<u32>(record, 8), first = load<u32>(record, 12);
  const base = block << 5;
  if (position < base || first > base + 31) return 32;
  return (first > base ? first - base : 0) | (min<u32>(position - base, 31) << 8);
}

/** o = o * c + p . v for the last dims of a value whose size is no multiple of four, one query. */
function addValueTail(isHalf: bool, v: usize, valueDim: usize, p: usize, low: usize, high: usize, o: usize, c: f32): void {
  const shift: usize = isHalf ? 1 : 2;
  for (let d = valueDim & ~3; d < valueDim; d++) {
    let sum = load<f32>(o + (d << 2)) * c;
    for (let j = low; j <= high; j++) {
      const at = v + ((j * valueDim + d) << shift);
      sum = sum + load<f32>(p + (j << 2)) * (isHalf ? loadHalf(at) : load<f32>(at));
    }
    store<f32>(o + (d << 2), sum);
  }
}

/** The softmax of query i of a piece, whose scores lie in scratch. */
@inline
function softmaxQuery(piece: usize, scratch: usize, i: usize, scale: f32, low: usize, high: usize): void {
  softmaxBlock(scratch + SCORES + (i << 7), scale, low, high, piece + MAXIMA + (i << 2), piece + SUMS + (i << 4), scratch + FACTORS + (i << 2));
}

/** One q8 block for all queries of a piece. Queries that see nothing of it get weights of zero, which change no bit of o. */
function attendTiles(
  m: i32, piece: usize, keyScales: usize, valueScales: usize, keys: usize, values: usize, nGroups: usize, nValueGroups: usize, block: u32, scale: f32, scratch: usize,
): void {
  scoreTiles(m, keys, keyScales, nGroups, piece + QUERIES, scratch + SCORES);
  const weights = scratch + WEIGHTS, groupBytes = packGroupBytes(m);
  for (let i: usize = 0; i < <usize>m; i++) {
    const seen = visible(piece + i * QUERY_BYTES, block);
    const scores = scratch + SCORES + (i << 7);
    const low = <usize>(seen & 0xff), high = <usize>(seen >> 8);
    if (seen == 32) {
      memory.fill(scores, 0, 128);
      store<f32>(scratch + FACTORS + (i << 2), 1);
    } else softmaxQuery(piece, scratch, i, scale, low, high);
    const isWhole = low == 0 && high == 31;
    for (let g: usize = 0; g < nValueGroups; g++) {
      let scales = valueScales + g * SCALES_BYTES;
      if (!isWhole) {
        const masked = scratch + MASKED_SCALES;
        memory.fill(masked, 0, 64);
        if (seen != 32) memory.copy(masked + (low << 1), scales + (low << 1), (high - low + 1) << 1);
        scales = masked;
      }
      packWeights(scores, scales, i, m, weights + g * groupBytes);
    }
  }
  addValueTiles(m, values, nValueGroups, weights, piece + QUERIES + (nGroups << 10), nValueGroups << 7, scratch + FACTORS);
}

const FOLD: u32 = 0x77800000; // 2^112
const UNFOLD: u32 = 0x07800000; // 2^-112

/** n f32 (rounded up to four) times a power of two. */
@inline
function scaleBy(x: usize, n: usize, power: u32): void {
  const factor = i32x4.splat(power);
  for (const end = x + (n << 2); x < end; x += 16) v128.store(x, f32x4.mul(v128.load(x), factor));
}

/** o = o * c + p . v of m queries over the keys low..high of an f32 or f16 block, whose values lie in runs of runDim dims. */
function addBlock(
  isHalf: bool, m: i32, values: usize, valueDim: usize, runDim: usize, p: usize, low: usize, high: usize, o: usize, oStride: usize, factors: usize,
): void {
  const shift: usize = isHalf ? 6 : 7;
  let isFolded = false;
  for (let run: usize = 0; run < valueDim; run += runDim) {
    const dims = min<usize>(runDim, valueDim - run);
    let d: usize = 0;
    if (isHalf) {
      // Probabilities are at most 1 and never subnormal: 2^112 is exact on the way there and back.
      if (!isFolded) scaleBy(p, <usize>m << 5, FOLD);
      d = addFoldedValues(m, values, dims, p, low, high, o, oStride, factors);
      isFolded = d == dims;
      if (!isFolded) scaleBy(p, <usize>m << 5, UNFOLD);
    }
    if (d < dims) {
      addValues(isHalf, m, values, d, dims, p, low, high, o, oStride, factors);
      if ((dims & 3) != 0) {
        for (let i: usize = 0; i < <usize>m; i++) addValueTail(isHalf, values, dims, p + (i << 7), low, high, o + i * oStride, load<f32>(factors + (i << 2)));
      }
    }
    values += dims << shift;
    o += dims << 2;
  }
}

/** Whether all n f32 are of magnitude below 65,536, which 2^112 may multiply; NaN is not. */
function canFold(x: usize, n: usize): bool {
  for (const end = x + (n << 2); x < end; x += 4) if (!(abs<f32>(load<f32>(x)) < 65536)) return false;
  return true;
}

/** One f32 or f16 block: together where every query sees all of it, else query by query over the keys it sees. */
function attendFloats(
  kvFormat: i32, m: i32, piece: usize, keys: usize, values: usize, headDim: usize, valueDim: usize, runDim: usize, block: u32, scale: f32, scratch: usize,
): void {
  const isHalf = kvFormat == KV_F16, isFolded = load<u32>(piece, IS_FOLDED) != 0;
  const scores = scratch + SCORES, factors = scratch + FACTORS;
  const packed = <usize>load<u32>(piece, PACKED), o = piece + QUERIES + ((headDim + 31) >> 5 << 10), oStride = (valueDim + 31) >> 5 << 7;
  let isWhole = true;
  for (let i: usize = 0; i < <usize>m; i++) isWhole = isWhole && visible(piece + i * QUERY_BYTES, block) == 31 << 8;
  if (isWhole && (isHalf ? isFolded && scoreHalves(m, keys, headDim, packed, scores) : true)) {
    if (!isHalf) product(kvFormat, m, keys, 1, headDim, packed, scores, 128);
    for (let i: usize = 0; i < <usize>m; i++) softmaxQuery(piece, scratch, i, scale, 0, 31);
    addBlock(isHalf, m, values, valueDim, runDim, scores, 0, 31, o, oStride, factors);
    return;
  }
  for (let i: usize = 0; i < <usize>m; i++) {
    const query = piece + i * QUERY_BYTES, seen = visible(query, block);
    if (seen == 32) continue;
    const low = <usize>(seen & 0xff), high = <usize>(seen >> 8);
    product(kvFormat, 1, keys, 1, headDim, <usize>load<u32>(query), scores + (i << 7), 128);
    softmaxQuery(piece, scratch, i, scale, low, high);
    addBlock(isHalf, 1, values, valueDim, runDim, scores + (i << 7), low, high, o + i * oStride, oStride, factors + (i << 2));
  }
}

/** Packs the m queries whose records lie in the piece, and sets m, L and o. */
function beginPiece(kvFormat: i32, m: i32, headDim: usize, valueDim: usize, piece: usize, scratch: usize): void {
  const nGroups = (headDim + 31) >> 5, nValueGroups = (valueDim + 31) >> 5;
  const queries = piece + QUERIES, quantised = scratch + WEIGHTS + nValueGroups * WEIGHT_GROUP_BYTES;
  let isFolded = kvFormat == KV_F16;
  for (let i: usize = 0; i < <usize>m; i++) {
    const record = piece + i * QUERY_BYTES;
    const q = <usize>load<u32>(record), sink = <usize>load<u32>(record, 16);
    store<u32>(scratch + (i << 2), <u32>q);
    if (kvFormat == KV_Q8) {
      quantizeRows(q, 0, quantised, 0, 1, <i32>headDim);
      packQuery(quantised, nGroups, i, m, queries);
    }
    isFolded = isFolded && canFold(q, headDim);
    store<f32>(piece + MAXIMA + (i << 2), sink == 0 ? -Infinity : load<f32>(sink));
    v128.store(piece + SUMS + (i << 4), i64x2.splat(0));
    store<f32>(piece + SUMS + (i << 4), sink == 0 ? <f32>0 : <f32>1);
  }
  let packed = queries;
  if (isFolded) {
    packFloats(scratch, m, headDim, queries);
    scaleBy(queries, <usize>m * headDim, FOLD);
  } else if (kvFormat != KV_Q8) packed = pack(kvFormat, scratch, m, headDim, queries);
  store<u32>(piece, <u32>packed, PACKED);
  store<u32>(piece, isFolded ? 1 : 0, IS_FOLDED);
  memory.fill(queries + (nGroups << 10), 0, (nValueGroups << 7) * m);
}

/** out = o / L for the queries of a piece. */
function endPiece(m: i32, headDim: usize, valueDim: usize, piece: usize): void {
  const sums = piece + QUERIES + ((headDim + 31) >> 5 << 10), sumStride = (valueDim + 31) >> 5 << 7;
  for (let i: usize = 0; i < <usize>m; i++) {
    const l = v128.load(piece + SUMS + (i << 4));
    const sum = (f32x4.extract_lane(l, 0) + f32x4.extract_lane(l, 1)) + (f32x4.extract_lane(l, 2) + f32x4.extract_lane(l, 3));
    const from = sums + i * sumStride, to = <usize>load<u32>(piece + i * QUERY_BYTES, 4);
    for (let d: usize = 0; d < valueDim; d++) store<f32>(to + (d << 2), load<f32>(from + (d << 2)) / sum);
  }
}

export function attention(
  kvFormat: i32, q: usize, qStride: usize, out: usize, outStride: usize, nTokens: i32, nHeads: i32, nKvHeads: i32, headDim: usize, latentDim: usize,
  pageTables: usize, layerOffset: usize, positions: usize, scale: f32, window: i32, sinks: usize, scratch: usize,
): void {
  const perKv = nHeads / nKvHeads;
  const isLatent = latentDim > 0, valueDim = isLatent ? latentDim : headDim, runDim = isLatent ? LATENT_RUN : headDim;
  const nGroups = (headDim + 31) >> 5, nValueGroups = (valueDim + 31) >> 5;
  const half = kvBlockBytes(kvFormat, headDim), kvHeadBytes = isLatent ? half : 2 * half;
  const pieces = scratch + WEIGHTS + nValueGroups * WEIGHT_GROUP_BYTES + ((nGroups * 36 + 15) & ~15), pieceBytes = QUERIES + ((nGroups + nValueGroups) << 10);
  const turned = pieces + <usize>PIECES * pieceBytes;
  for (let start = 0; start < nTokens;) {
    // Tokens of one timeline lie next to each other and have one page table.
    const pageTable = <usize>load<u32>(pageTables + (<usize>start << 2));
    let end = start + 1;
    while (end < nTokens && <usize>load<u32>(pageTables + (<usize>end << 2)) == pageTable) end++;
    const nQueries = (end - start) * perKv;
    for (let done = 0, kv = 0; done < nQueries;) {
      let nPieces = 0;
      let firstBlock: u32 = 0xffffffff, lastBlock: u32 = 0;
      for (; nPieces < PIECES && done < nQueries; nPieces++) {
        const piece = pieces + <usize>nPieces * pieceBytes;
        const left = nQueries - done;
        const m = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        for (let i = 0; i < m; i++) {
          const t = <usize>(start + (done + i) / perKv), head = <usize>(kv * perKv + (done + i) % perKv);
          const record = piece + <usize>i * QUERY_BYTES;
          const position = load<u32>(positions + (t << 2));
          const first: u32 = window > 0 && position >= <u32>window ? position - <u32>window + 1 : 0;
          firstBlock = min<u32>(firstBlock, first >> 5);
          lastBlock = max<u32>(lastBlock, position >> 5);
          store<u32>(record, <u32>(q + t * qStride + head * (headDim << 2)));
          store<u32>(record, <u32>(out + t * outStride + head * (valueDim << 2)), 4);
          store<u32>(record, position, 8);
          store<u32>(record, first, 12);
          store<u32>(record, <u32>(sinks == 0 ? 0 : sinks + (head << 2)), 16);
        }
        store<u32>(piece, <u32>m, N_QUERIES);
        store<u32>(piece, <u32>kv, KV_HEAD);
        beginPiece(kvFormat, m, headDim, valueDim, piece, scratch);
        kv++;
        if (kv == nKvHeads) {
          kv = 0;
          done += m;
        }
      }
      for (let block = firstBlock; block <= lastBlock; block++) {
        const layer = <usize>load<u32>(pageTable + (<usize>block << 2)) + layerOffset;
        let turnedKv: u32 = 0xffffffff;
        for (let n = 0; n < nPieces; n++) {
          const piece = pieces + <usize>n * pieceBytes;
          const m = <i32>load<u32>(piece, N_QUERIES), kvHead = load<u32>(piece, KV_HEAD);
          const at = layer + <usize>kvHead * kvHeadBytes;
          // A q8 block: scales of K, scales of V, tiles of K, tiles of V, read in this order, so that a prefetcher sees one stream.
          const valueScales = isLatent ? at : at + nGroups * SCALES_BYTES;
          const keys = kvFormat == KV_Q8 ? valueScales + nGroups * SCALES_BYTES : at;
          const values = isLatent ? turned : kvFormat == KV_Q8 ? keys + nGroups * TILE_BYTES : at + half;
          if (isLatent && turnedKv != kvHead) {
            turnKeys(kvFormat, keys, latentDim, turned);
            turnedKv = kvHead;
          }
          if (kvFormat == KV_Q8) attendTiles(m, piece, at, valueScales, keys, values, nGroups, nValueGroups, block, scale, scratch);
          else attendFloats(kvFormat, m, piece, keys, values, headDim, valueDim, runDim, block, scale, scratch);
        }
      }
      for (let n = 0; n < nPieces; n++) {
        const piece = pieces + <usize>n * pieceBytes;
        endPiece(<i32>load<u32>(piece, N_QUERIES), headDim, valueDim, piece);
      }
    }
    start = end;
  }
}
