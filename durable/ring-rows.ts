// The frame that takes a step from stage to stage: its tokens, the pages of their timelines, what is asked of final rows, the terms it goes by, and residual rows.
// Owns its sections, its size and with it how many tokens a step may have. Refuses headers (ring-frame.ts) and what a stage does with it (stage-core.ts). docs/protocol.md section 6.

import type { HeadAsk } from "../model/head-rows.ts";
import { LIMITS } from "./limits.ts";
import { ASK_WORDS, askBytes, bad, pad16, type Payload, putAsks, RING_HEADER_WORDS, type Sections, type Shape, takeAsks, wantedOf } from "./ring-sections.ts";
import type { Terms } from "./step-terms.ts";

const ENTRY_WORDS = 8;
const HAS_ROWS = 1;
const IS_TRACED = 2;
/** What the two bits above those count in: 0, 1 or 2. */
const TERMS = 4;

/** Tokens of one timeline in a step, from position `start` on. */
export interface RingEntry {
  readonly timeline: number;
  readonly start: number;
  readonly nTokens: number;
  /** Positions the timeline may hold. */
  readonly maxTokens: number;
  readonly ropeOffset: number;
  /** Numbers of its pages, of 32 positions each, as far as the step needs them. */
  readonly pages: ArrayLike<number>;
}

export interface RowsFrame {
  readonly kind: "rows";
  readonly entries: readonly RingEntry[];
  /** What is asked of final rows; tokens are numbers within the step. */
  readonly asks: readonly HeadAsk[];
  readonly copies: readonly (readonly [from: number, to: number])[];
  readonly ids: Uint32Array;
  readonly hidden: number;
  /** f32 [tokens, hidden]; null before the first stage. */
  readonly rows: Float32Array | null;
  /** Stages tell how they routed. */
  readonly isTraced: boolean;
  /** How it goes about shards that are away; null: it waits. */
  readonly terms: Terms | null;
}

interface RowsShape {
  readonly nEntries: number;
  readonly nAsks: number;
  readonly nWanted: number;
  readonly nPages: number;
  readonly nCopies: number;
  readonly nTokens: number;
  readonly hidden: number;
}

/** Bytes of a `rows` frame that carries residuals. */
export const rowsFrameBytes = (of: RowsShape): number =>
  RING_HEADER_WORDS * 4 + of.nEntries * ENTRY_WORDS * 4 + askBytes(of) + pad16(of.nPages * 4) + pad16(of.nCopies * 8) + pad16(of.nTokens * 4) + pad16(of.nTokens * of.hidden * 4);

/** Most tokens of a step whose `rows` frame fits, whatever is asked of them, with `nEntries` entries of `nPages` pages together, a copy for each, and `nWanted` ids. */
export function ringChunkTokens(of: { readonly nEntries: number; readonly nPages: number; readonly nWanted: number; readonly hidden: number }): number {
  const space = LIMITS.frameBytes - rowsFrameBytes({ ...of, nCopies: of.nEntries, nAsks: 0, nTokens: 0 }) - 32; // two sections' padding
  return Math.min(LIMITS.chunkTokens, Math.floor(space / (4 + ASK_WORDS * 4 + of.hidden * 4)));
}

export function rowsPayload({ entries, asks, copies, ids, hidden, rows, isTraced, terms }: RowsFrame): Payload {
  const shape = { nEntries: entries.length, nAsks: asks.length, nWanted: wantedOf(asks).length, nPages: entries.reduce((sum, { pages }) => sum + pages.length, 0), nCopies: copies.length, nTokens: ids.length, hidden };
  const termsCode = terms === null ? 0 : terms.leavesOut ? 2 : 1;
  const { nEntries, nAsks, nTokens } = shape;
  return {
    bytes: rowsFrameBytes(shape) - (rows === null ? pad16(ids.length * hidden * 4) : 0),
    shape: { nEntries, nAsks, nTokens, hidden, from: shape.nPages, to: shape.nCopies, code: shape.nWanted, value: (rows === null ? 0 : HAS_ROWS) + (isTraced ? IS_TRACED : 0) + TERMS * termsCode },
    write: (at) => {
      at.put(entries.flatMap((e) => [e.timeline, e.start, e.nTokens, e.maxTokens, e.ropeOffset, e.pages.length, 0, 0]));
      putAsks(at, asks);
      at.put(entries.flatMap(({ pages }) => Array.from(pages)));
      at.put(copies.flat());
      at.put(ids);
      if (rows !== null) at.bits(rows);
    },
  };
}

/** `expect` is told how many bytes the frame must have, before anything is read. */
export function takeRows(at: Sections, { nEntries, nTokens, nAsks, hidden, from, to, value, code }: Shape, expect: (bytes: number) => void): RowsFrame {
  if (value >= 3 * TERMS) bad(`A rows frame has flags ${value}; expected 0 to ${3 * TERMS - 1}.`);
  const hasRows = (value & HAS_ROWS) !== 0;
  expect(rowsFrameBytes({ nEntries, nAsks, nWanted: code, nPages: from, nCopies: to, nTokens, hidden }) - (hasRows ? 0 : pad16(nTokens * hidden * 4)));
  const raw = at.take(nEntries * ENTRY_WORDS);
  const asks = takeAsks(at, nAsks, code);
  const pages = at.take(from);
  const copied = at.take(2 * to);
  asks.forEach(({ token }, i) => { if (token >= nTokens || (i > 0 && token < asks[i - 1]!.token)) bad(`Ask ${i} of a rows frame is about token ${token} of ${nTokens}; ascending ones were expected.`); });
  return {
    kind: "rows", entries: takeEntries(raw, nEntries, pages, nTokens), asks, hidden,
    copies: Array.from({ length: to }, (_, i): [number, number] => [copied[2 * i]!, copied[2 * i + 1]!]), ids: at.take(nTokens), rows: hasRows ? at.floats(nTokens * hidden) : null,
    isTraced: (value & IS_TRACED) !== 0, terms: value < TERMS ? null : { leavesOut: value >= 2 * TERMS },
  };
}

function takeEntries(raw: Uint32Array, nEntries: number, pages: Uint32Array, nTokens: number): RingEntry[] {
  let [page, token] = [0, 0];
  const entries = Array.from({ length: nEntries }, (_, i): RingEntry => {
    const [timeline, start, n, maxTokens, ropeOffset, nPages] = raw.subarray(i * ENTRY_WORDS) as unknown as [number, number, number, number, number, number];
    if (n === 0 || n > nTokens - token || nPages > pages.length - page || nPages * 32 < start + n || start + n > maxTokens) {
      bad(`Entry ${i} of a rows frame has ${n} tokens from position ${start} of ${maxTokens} and ${nPages} pages, of ${nTokens - token} tokens and ${pages.length - page} pages left.`);
    }
    const own = pages.subarray(page, page + nPages);
    page += nPages;
    token += n;
    return { timeline, start, nTokens: n, maxTokens, ropeOffset, pages: own };
  });
  if (token !== nTokens || page !== pages.length) bad(`The entries of a rows frame have ${token} tokens and ${page} pages; its header says ${nTokens} and ${pages.length}.`);
  return entries;
}
