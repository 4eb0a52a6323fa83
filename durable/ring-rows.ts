// The frame that takes a step from stage to stage: its tokens, the pages of their timelines, what is asked of final rows, the terms it goes by, and residual rows.
// Owns its sections, its size and with it how many tokens a step may have. Refuses headers (ring-frame.ts) and what a stage does with it (stage-core.ts). docs/protocol.md section 6.

import type { HeadAsk } from "../model/head-rows.ts";
import type { PruningRule } from "../model/online-pruning-rule.ts";
import { LIMITS } from "./limits.ts";
import { ASK_WORDS, askBytes, bad, pad16, type Payload, putAsks, RING_HEADER_WORDS, type Sections, type Shape, takeAsks, wantedOf } from "./ring-sections.ts";
import type { Terms } from "./step-terms.ts";

const ENTRY_WORDS = 8;
const HAS_ROWS = 1;
const IS_TRACED = 2;
/** What the two bits above those count in: 0, 1 or 2. */
const TERMS = 4;
/** What the bits above the flags count in: words of rules. */
const RULE_WORDS = 16;
const RULES = ["ratio", "learned"] as const satisfies readonly PruningRule["by"][];
const RULE_HEAD_WORDS = 4;

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
  /** Experts that its tokens do without; null: none. */
  readonly pruning: PruningRule | null;
}

export interface RowsFrame {
  readonly kind: "rows";
  readonly entries: readonly RingEntry[];
  /** What is asked of final rows; tokens are numbers within the step. */
  readonly asks: readonly HeadAsk[];
  readonly copies: readonly (readonly [from: number, to: number])[];
  readonly ids: Uint32Array;
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
  readonly nRuleWords: number;
}

/** Bytes of a `rows` frame that carries residuals. */
export const rowsFrameBytes = (of: RowsShape): number =>
  RING_HEADER_WORDS * 4 + of.nEntries * ENTRY_WORDS * 4 + askBytes(of) + pad16(of.nPages * 4) + pad16(of.nCopies * 8) + pad16(of.nTokens * 4) + pad16(of.nRuleWords * 4) + pad16(of.nTokens * of.hidden * 4);

/** Words of a rule for a model of so many layers, at most. */
export const ruleWords = (nLayers: number): number => RULE_HEAD_WORDS + nLayers;

/** Most tokens of a step whose `rows` frame fits, whatever is asked of them, with `nEntries` entries of `nPages` pages together, a copy for each, `nWanted` ids and `nRuleWords` words of rules. */
export function ringChunkTokens(of: { readonly nEntries: number; readonly nPages: number; readonly nWanted: number; readonly nRuleWords: number; readonly hidden: number }): number {
  const space = LIMITS.frameBytes - rowsFrameBytes({ ...of, nCopies: of.nEntries, nAsks: 0, nTokens: 0 }) - 32; // two sections' padding
  return Math.min(LIMITS.chunkTokens, Math.floor(space / (4 + ASK_WORDS * 4 + of.hidden * 4)));
}

export function rowsPayload({ entries, asks, copies, ids, hidden, rows, isTraced, terms }: RowsFrame): Payload {
  const shape = { nEntries: entries.length, nAsks: asks.length, nWanted: wantedOf(asks).length, nPages: entries.reduce((sum, { pages }) => sum + pages.length, 0), nCopies: copies.length, nTokens: ids.length, hidden, nRuleWords: 0 };
  const rules = [...new Set(entries.flatMap(({ pruning }) => pruning ?? []))];
  const words = rules.flatMap(wordsOfRule);
  shape.nRuleWords = words.length;
  const termsCode = terms === null ? 0 : terms.leavesOut ? 2 : 1;
  const { nEntries, nAsks, nTokens } = shape;
  return {
    bytes: rowsFrameBytes(shape) - (rows === null ? pad16(ids.length * hidden * 4) : 0),
    shape: { nEntries, nAsks, nTokens, hidden, from: shape.nPages, to: shape.nCopies, code: shape.nWanted, value: (rows === null ? 0 : HAS_ROWS) + (isTraced ? IS_TRACED : 0) + TERMS * termsCode + RULE_WORDS * words.length },
    write: (at) => {
      at.put(entries.flatMap((e) => [e.timeline, e.start, e.nTokens, e.maxTokens, e.ropeOffset, e.pages.length, e.pruning === null ? 0 : rules.indexOf(e.pruning) + 1, 0]));
      putAsks(at, asks);
      at.put(entries.flatMap(({ pages }) => Array.from(pages)));
      at.put(copies.flat());
      at.put(ids);
      at.put(words);
      if (rows !== null) at.bits(rows);
    },
  };
}

/** `expect` is told how many bytes the frame must have, before anything is read. */
export function takeRows(at: Sections, { nEntries, nTokens, nAsks, hidden, from, to, value, code }: Shape, expect: (bytes: number) => void): RowsFrame {
  const [flags, nRuleWords] = [value % RULE_WORDS, Math.floor(value / RULE_WORDS)];
  if (flags >= 3 * TERMS) bad(`A rows frame has flags ${flags}; expected 0 to ${3 * TERMS - 1}.`);
  const hasRows = (flags & HAS_ROWS) !== 0;
  expect(rowsFrameBytes({ nEntries, nAsks, nWanted: code, nPages: from, nCopies: to, nTokens, hidden, nRuleWords }) - (hasRows ? 0 : pad16(nTokens * hidden * 4)));
  const raw = at.take(nEntries * ENTRY_WORDS);
  const asks = takeAsks(at, nAsks, code);
  const pages = at.take(from);
  const copied = at.take(2 * to);
  asks.forEach(({ token }, i) => { if (token >= nTokens || (i > 0 && token < asks[i - 1]!.token)) bad(`Ask ${i} of a rows frame is about token ${token} of ${nTokens}; ascending ones were expected.`); });
  const ids = at.take(nTokens);
  const rules = takeRules(at.take(nRuleWords));
  return {
    kind: "rows", entries: takeEntries(raw, nEntries, pages, nTokens, rules), asks, hidden,
    copies: Array.from({ length: to }, (_, i): [number, number] => [copied[2 * i]!, copied[2 * i + 1]!]), ids, rows: hasRows ? at.floats(nTokens * hidden) : null,
    isTraced: (flags & IS_TRACED) !== 0, terms: flags < TERMS ? null : { leavesOut: flags >= 2 * TERMS },
  };
}

function takeEntries(raw: Uint32Array, nEntries: number, pages: Uint32Array, nTokens: number, rules: readonly PruningRule[]): RingEntry[] {
  let [page, token] = [0, 0];
  const entries = Array.from({ length: nEntries }, (_, i): RingEntry => {
    const [timeline, start, n, maxTokens, ropeOffset, nPages, rule] = raw.subarray(i * ENTRY_WORDS) as unknown as [number, number, number, number, number, number, number];
    if (n === 0 || n > nTokens - token || nPages > pages.length - page || nPages * 32 < start + n || start + n > maxTokens) {
      bad(`Entry ${i} of a rows frame has ${n} tokens from position ${start} of ${maxTokens} and ${nPages} pages, of ${nTokens - token} tokens and ${pages.length - page} pages left.`);
    }
    if (rule > rules.length) bad(`Entry ${i} of a rows frame goes by rule ${rule}; the frame has ${rules.length}.`);
    const own = pages.subarray(page, page + nPages);
    page += nPages;
    token += n;
    return { timeline, start, nTokens: n, maxTokens, ropeOffset, pages: own, pruning: rule === 0 ? null : rules[rule - 1]! };
  });
  if (token !== nTokens || page !== pages.length) bad(`The entries of a rows frame have ${token} tokens and ${page} pages; its header says ${nTokens} and ${pages.length}.`);
  return entries;
}

/** Kind, protected positions, 1 where weights are brought to their sum again, number of ratios, and these as f32. */
function wordsOfRule(rule: PruningRule): number[] {
  const ratios = rule.by === "ratio" ? Float32Array.from(rule.ratios) : new Float32Array(0);
  return [RULES.indexOf(rule.by) + 1, rule.protectFirst, rule.renormalize ? 1 : 0, ratios.length, ...new Uint32Array(ratios.buffer)];
}

function takeRules(words: Uint32Array): PruningRule[] {
  const rules: PruningRule[] = [];
  for (let at = 0; at < words.length;) {
    const [code, protectFirst, sums, n] = [words[at]!, words[at + 1], words[at + 2], words[at + 3]];
    const by = RULES[code - 1] ?? bad(`Rule ${rules.length + 1} of a rows frame has kind ${code}; expected 1 to ${RULES.length}.`);
    const end = at + RULE_HEAD_WORDS + (n ?? 0);
    if (protectFirst === undefined || n === undefined || sums! > 1 || end > words.length || (by === "learned" && n > 0)) return bad(`Rule ${rules.length + 1} of a rows frame has ${n ?? "no number of"} ratios; ${words.length - at} of its words are left.`);
    const common = { protectFirst, renormalize: sums === 1 };
    rules.push(by === "learned" ? { by, ...common } : { by, ...common, ratios: Array.from(new Float32Array(words.slice(at + RULE_HEAD_WORDS, end).buffer)) });
    at = end;
  }
  return rules;
}
