// Character classes of a grammar's text, rewritten so that the library reads them as they are meant. Owns the reading of a class and its writing as UTF-8.
// Refuses nothing: a class that cannot be read is left for the library to complain about. Why: XGrammar 0.1.27 takes the lowest byte of each character of
// a class as a byte of the text, so that [à-ü] stands for broken bytes; and it lets into JSON strings what JSON does not have there.

import { ModelError } from "../model/config.ts";

type Range = readonly [from: number, to: number];

const LAST = 0x10ffff;
/** What stands for itself in a JSON string: no control character, quote or backslash. */
const IN_STRINGS: readonly Range[] = [[0x20, 0x21], [0x23, 0x5b], [0x5d, LAST]];
const NOT_IN_STRINGS = "\\0-\\x1f\\\"\\\\";
/** A comment, a literal, or a class with what is in it. */
const PIECES = /#[^\n]*|"(?:\\.|[^"\\])*"|\[((?:\\.|[^\]\\])*)\]/g;
const ESCAPED: Readonly<Record<string, number>> = { n: 10, t: 9, r: 13, a: 7, b: 8, f: 12, v: 11, e: 27, 0: 0 };

/** The grammar with classes beyond ASCII written as bytes. */
export const withUtf8Classes = (grammar: string): string => grammar.replace(PIECES, (whole, inside?: string) => {
  if (inside === undefined) return whole;
  const ranges = rangesOf(inside.replace(/^\^/, ""));
  if (ranges === null || !ranges.some(([, to]) => to > 0x7f)) return whole;
  return utf8Class(inside.startsWith("^") ? complement(ranges) : ranges);
});

/** The grammar of a JSON schema, as the library writes it, without the characters that its strings cannot have. */
export function withJsonStrings(grammar: string): string {
  const inStrings = (whole: string, inside?: string): string => {
    if (inside === undefined) return whole;
    const isNegative = inside.startsWith("^");
    const ranges = rangesOf(inside.replace(/^\^/, ""));
    if (ranges === null) return whole;
    if (isNegative && !ranges.some(([, to]) => to > 0x7f)) return inside.startsWith(`^${NOT_IN_STRINGS}`) ? whole : `[^${NOT_IN_STRINGS}${inside.slice(1)}]`;
    const left = (isNegative ? complement(ranges) : ranges).flatMap(([from, to]) => IN_STRINGS.map(([low, high]): Range => [Math.max(from, low), Math.min(to, high)]).filter(([a, b]) => a <= b));
    if (left.length === 0) throw new ModelError(`a pattern in it asks for ${whole}, which JSON writes only as escapes`);
    return left.some(([, to]) => to > 0x7f) ? utf8Class(left) : `[${left.map(classRange).join("")}]`;
  };
  // What follows a backslash may be a quote.
  return grammar.split("\n").map((rule) => (/^basic_escape\b/.test(rule) ? rule : rule.replace(PIECES, inStrings))).join("\n");
}

/** Characters and escapes, two of them around a "-" that is no escape; null where that is not all there is. */
function rangesOf(inside: string): Range[] | null {
  const parts = inside.match(/\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)|[^\\]/gsu) ?? [];
  if (parts.length === 0 || parts.some((part) => /^\\[dDsSwWpPxuU]$/.test(part))) return null;
  const valueOf = (part: string): number => {
    if (!part.startsWith("\\")) return part.codePointAt(0)!;
    return part.length > 2 && "xuU".includes(part[1]!) ? parseInt(part.slice(2), 16) : ESCAPED[part[1]!] ?? part.codePointAt(1)!;
  };
  const ranges: Range[] = [];
  for (let i = 0; i < parts.length; i++) {
    const from = valueOf(parts[i]!);
    const isRange = parts[i + 1] === "-" && i + 2 < parts.length;
    const to = isRange ? valueOf(parts[i + 2]!) : from;
    if (from > to || to > LAST) return null;
    ranges.push([from, to]);
    if (isRange) i += 2;
  }
  return ranges;
}

function complement(ranges: readonly Range[]): Range[] {
  const out: Range[] = [];
  let next = 0;
  for (const [from, to] of [...ranges].sort((a, b) => a[0] - b[0])) {
    if (from > next) out.push([next, from - 1]);
    next = Math.max(next, to + 1);
  }
  return next <= LAST ? [...out, [next, LAST]] : out;
}

const hex = (of: number): string => `\\x${of.toString(16).padStart(2, "0")}`;
const classRange = ([from, to]: Range): string => (from === to ? hex(from) : `${hex(from)}-${hex(to)}`);

/** A class of up to \xff is one of bytes for the library, and a code point below zero its lowest byte. */
const byteText = ([from, to]: Range): string => (from < to ? `[${classRange([from, to])}]` : from < 0x80 ? `"${hex(from)}"` : `"\\UFFFFFF${from.toString(16).toUpperCase()}"`);
const utf8Class = (ranges: readonly Range[]): string =>
  `(${ranges.flatMap(([from, to]) => utf8Sequences(from, to)).map((bytes) => bytes.map(byteText).join(" ")).join(" | ")})`;

/** Sequences of ranges of bytes that are the UTF-8 of the characters from..to; without surrogates, which have none. */
function utf8Sequences(from: number, to: number): Range[][] {
  if (from > to) return [];
  for (const last of [0x7f, 0x7ff, 0xd7ff, 0xdfff, 0xffff]) if (from <= last && to > last) return [...utf8Sequences(from, last), ...utf8Sequences(last + 1, to)];
  if (from >= 0xd800 && to <= 0xdfff) return [];
  const nBytes = to <= 0x7f ? 1 : to <= 0x7ff ? 2 : to <= 0xffff ? 3 : 4;
  for (let i = 1; i < nBytes; i++) {
    const low = (1 << (6 * i)) - 1;
    if ((from & ~low) === (to & ~low)) continue;
    if ((from & low) !== 0) return [...utf8Sequences(from, from | low), ...utf8Sequences((from | low) + 1, to)];
    if ((to & low) !== low) return [...utf8Sequences(from, (to & ~low) - 1), ...utf8Sequences(to & ~low, to)];
  }
  const [first, last] = [from, to].map((of) => [...new TextEncoder().encode(String.fromCodePoint(of))]);
  return [first!.map((byte, i): Range => [byte, last![i]!])];
}
