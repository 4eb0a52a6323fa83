// The frame that takes a step from stage to stage: its tokens, the pages of their timelines, what is asked of final rows, the terms it goes by, and residual rows.
// Owns its sections, its size and with it how many tokens a step may have. Refuses headers (ring-frame.ts) and what a stage does with it (stage-core.ts). docs/protocol.md section 6.

import type { HeadAsk } from "../model/head-rows.ts";
import { LIMITS } from "./limits.ts";
import { ASK_WORDS, askBytes, bad, pad16, paddedWords, type Payload, putAsks, RING_HEADER_WORDS, type Sections, type Shape, takeAsks, wantedOf } from "./ring-sections.ts";
import type { Terms } from "./step-terms.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const ENTRY_WORDS = 8;
const HAS_ROWS = 1;
const IS_TRACED = 2;
/** What the two bits above those count in: 0, 1 or 2. */
const TERMS = 4;
/** What the bits above the flags count in: bytes of routings. */
const ROUTING_BYTES = 16;

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
  /** What it asks of routing: number of one of the frame's `routings`, from 1; 0: nothing. */
  readonly routing: number;
}

export interface RowsFrame {
  readonly kind: "rows";
  readonly entries: readonly RingEntry[];
  /** What is asked of final rows; tokens are numbers within the step. */
  readonly asks: readonly HeadAsk[];
  readonly copies: readonly (readonly [from: number, to: number])[];
  readonly ids: Uint32Array;
  /** JSON of a RequestRouting each (model/request-routing.ts). */
  readonly routings: readonly string[];
  /** Numbers of a row: the residual's, and behind a cut between layers that share a router of product experts its weights (config.ts cutRowLength). */
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
  readonly nRoutingBytes: number;
}

/** Bytes of a `rows` frame that carries residuals. */
export const rowsFrameBytes = (of: RowsShape): number =>
  RING_HEADER_WORDS * 4 + of.nEntries * ENTRY_WORDS * 4 + askBytes(of) + pad16(of.nPages * 4) + pad16(of.nCopies * 8) + pad16(of.nTokens * 4) + pad16(of.nRoutingBytes) + pad16(of.nTokens * of.hidden * 4);

/** Bytes of a frame's section for these, each ended by a zero byte. */
export const routingBytes = (routings: readonly string[]): number => routings.reduce((sum, text) => sum + encoder.encode(text).length + 1, 0);

/** Most tokens of a step whose `rows` frame fits, whatever is asked of them, with `nEntries` entries of `nPages` pages together, a copy for each, `nWanted` ids and `nRoutingBytes` bytes of routings. */
export function ringChunkTokens(of: { readonly nEntries: number; readonly nPages: number; readonly nWanted: number; readonly nRoutingBytes: number; readonly hidden: number }): number {
  const space = LIMITS.frameBytes - rowsFrameBytes({ ...of, nCopies: of.nEntries, nAsks: 0, nTokens: 0 }) - 48; // three sections' padding
  return Math.min(LIMITS.chunkTokens, Math.floor(space / (4 + ASK_WORDS * 4 + of.hidden * 4)));
}

export function rowsPayload({ entries, asks, copies, ids, hidden, rows, isTraced, terms, routings }: RowsFrame): Payload {
  const shape = { nEntries: entries.length, nAsks: asks.length, nWanted: wantedOf(asks).length, nPages: entries.reduce((sum, { pages }) => sum + pages.length, 0), nCopies: copies.length, nTokens: ids.length, hidden, nRoutingBytes: 0 };
  const text = encoder.encode(routings.map((routing) => `${routing}\0`).join(""));
  shape.nRoutingBytes = text.length;
  const termsCode = terms === null ? 0 : terms.leavesOut ? 2 : 1;
  const { nEntries, nAsks, nTokens } = shape;
  return {
    bytes: rowsFrameBytes(shape) - (rows === null ? pad16(ids.length * hidden * 4) : 0),
    shape: { nEntries, nAsks, nTokens, hidden, from: shape.nPages, to: shape.nCopies, code: shape.nWanted, value: (rows === null ? 0 : HAS_ROWS) + (isTraced ? IS_TRACED : 0) + TERMS * termsCode + ROUTING_BYTES * text.length },
    write: (at) => {
      at.put(entries.flatMap((e) => [e.timeline, e.start, e.nTokens, e.maxTokens, e.ropeOffset, e.pages.length, e.routing, 0]));
      putAsks(at, asks);
      at.put(entries.flatMap(({ pages }) => Array.from(pages)));
      at.put(copies.flat());
      at.put(ids);
      at.put(paddedWords(text));
      if (rows !== null) at.bits(rows);
    },
  };
}

/** `expect` is told how many bytes the frame must have, before anything is read. */
export function takeRows(at: Sections, { nEntries, nTokens, nAsks, hidden, from, to, value, code }: Shape, expect: (bytes: number) => void): RowsFrame {
  const [flags, nRoutingBytes] = [value % ROUTING_BYTES, Math.floor(value / ROUTING_BYTES)];
  if (flags >= 3 * TERMS) bad(`A rows frame has flags ${flags}; expected 0 to ${3 * TERMS - 1}.`);
  const hasRows = (flags & HAS_ROWS) !== 0;
  expect(rowsFrameBytes({ nEntries, nAsks, nWanted: code, nPages: from, nCopies: to, nTokens, hidden, nRoutingBytes }) - (hasRows ? 0 : pad16(nTokens * hidden * 4)));
  const raw = at.take(nEntries * ENTRY_WORDS);
  const asks = takeAsks(at, nAsks, code);
  const pages = at.take(from);
  const copied = at.take(2 * to);
  asks.forEach(({ token }, i) => { if (token >= nTokens || (i > 0 && token < asks[i - 1]!.token)) bad(`Ask ${i} of a rows frame is about token ${token} of ${nTokens}; ascending ones were expected.`); });
  const ids = at.take(nTokens);
  const routings = decoder.decode(at.text(nRoutingBytes)).split("\0");
  if (routings.pop() !== "") bad("The routings of a rows frame do not end with a zero byte.");
  return {
    kind: "rows", entries: takeEntries(raw, nEntries, pages, nTokens, routings.length), asks, hidden, routings,
    copies: Array.from({ length: to }, (_, i): [number, number] => [copied[2 * i]!, copied[2 * i + 1]!]), ids, rows: hasRows ? at.floats(nTokens * hidden) : null,
    isTraced: (flags & IS_TRACED) !== 0, terms: flags < TERMS ? null : { leavesOut: flags >= 2 * TERMS },
  };
}

function takeEntries(raw: Uint32Array, nEntries: number, pages: Uint32Array, nTokens: number, nRoutings: number): RingEntry[] {
  let [page, token] = [0, 0];
  const entries = Array.from({ length: nEntries }, (_, i): RingEntry => {
    const [timeline, start, n, maxTokens, ropeOffset, nPages, routing] = raw.subarray(i * ENTRY_WORDS) as unknown as [number, number, number, number, number, number, number];
    if (n === 0 || n > nTokens - token || nPages > pages.length - page || nPages * 32 < start + n || start + n > maxTokens) {
      bad(`Entry ${i} of a rows frame has ${n} tokens from position ${start} of ${maxTokens} and ${nPages} pages, of ${nTokens - token} tokens and ${pages.length - page} pages left.`);
    }
    if (routing > nRoutings) bad(`Entry ${i} of a rows frame asks for routing ${routing}; the frame has ${nRoutings}.`);
    const own = pages.subarray(page, page + nPages);
    page += nPages;
    token += n;
    return { timeline, start, nTokens: n, maxTokens, ropeOffset, pages: own, routing };
  });
  if (token !== nTokens || page !== pages.length) bad(`The entries of a rows frame have ${token} tokens and ${page} pages; its header says ${nTokens} and ${pages.length}.`);
  return entries;
}
