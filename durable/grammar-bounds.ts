// What a schema or a grammar may ask of the library: it recurses as deep as its text nests, multiplies what repeats within what repeats, and looks at the whole
// vocabulary for every wide class, all without a pause on the thread of the token loop. Owns these bounds, checked before the library sees a text.
// Refuses, with a ModelError, what would take seconds for everyone or break the library. Measured with XGrammar 0.1.27 (2026-11).

import { ModelError } from "../model/config.ts";
import type { Limits } from "./limits.ts";

export type GrammarLimits = Pick<Limits, "grammarDepth" | "grammarRefs" | "grammarRepeats" | "grammarChars" | "grammarWork">;

/** A comment, a literal or a class; what is left are names, brackets and repetitions. */
const TEXTS = /#[^\n]*|"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]/g;
const PATTERN_TEXTS = /\\.|\[(?:\\.|[^\]\\])*\]/g;

/** Of a JSON schema. */
export function requireBoundedSchema(text: string, limits: GrammarLimits): void {
  let schema: unknown;
  try {
    schema = JSON.parse(text);
  } catch (cause) {
    throw new ModelError(`it is no JSON: ${cause instanceof Error ? cause.message : String(cause)}.`);
  }
  let nRefs = 0;
  const visit = (value: unknown, depth: number): void => {
    if (depth > limits.grammarDepth) throw new ModelError(`it nests objects and lists more than ${limits.grammarDepth} deep.`);
    if (typeof value !== "object" || value === null) return;
    for (const [key, part] of Object.entries(value)) {
      // Each may lead to the next one.
      if (key === "$ref" && ++nRefs > limits.grammarRefs) throw new ModelError(`it has more than ${limits.grammarRefs} references.`);
      if (key === "pattern" && typeof part === "string") requireBounded(part.replace(PATTERN_TEXTS, "a"), limits);
      if (key === "patternProperties" && typeof part === "object" && part !== null) for (const pattern of Object.keys(part)) requireBounded(pattern.replace(PATTERN_TEXTS, "a"), limits);
      visit(part, depth + 1);
    }
  };
  visit(schema, 0);
}

/** Of a grammar's text, as a request has it. */
export const requireBoundedGrammar = (grammar: string, limits: GrammarLimits): void => requireBounded(grammar.replace(TEXTS, "a"), limits);

/** Depth of brackets, and how often what is innermost may come in all where repetitions nest. */
function requireBounded(text: string, { grammarDepth, grammarRepeats }: GrammarLimits): void {
  /** Repeats within each open bracket. */
  const open: number[] = [];
  let closed = 1;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "(") {
      if (open.push(1) > grammarDepth) throw new ModelError(`it nests brackets more than ${grammarDepth} deep.`);
      closed = 1;
    } else if (text[i] === ")") {
      closed = open.pop() ?? 1;
      const parent = open.length - 1;
      if (parent >= 0) open[parent] = Math.max(open[parent]!, closed);
    } else if (text[i] === "{") {
      const [whole, least, most] = /^\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}/.exec(text.slice(i, i + 40)) ?? [];
      if (whole === undefined) continue;
      const times = Math.max(1, Number(least), Number(most ?? 0));
      // What is not itself a repetition may come as often as it likes.
      if (closed > 1 && closed * times > grammarRepeats) throw new ModelError(`repetitions within repetitions come to ${closed * times}; ${grammarRepeats} is the limit.`);
      if (open.length > 0) open[open.length - 1] = Math.max(open.at(-1)!, closed * times);
      i += whole.length - 1;
      closed = 1;
    } else if (!/[\s?*+]/.test(text[i]!)) closed = 1;
  }
}

/** Of a grammar as the library writes it, everything unfolded: its length, and how often the vocabulary must be looked at for its wide classes. */
export function requireBoundedRules(rules: string, vocabSize: number, { grammarChars, grammarWork }: GrammarLimits): void {
  if (rules.length > grammarChars) throw new ModelError(`unfolded it has ${rules.length} characters; ${grammarChars} is the limit.`);
  const work = wideClasses(rules) * vocabSize;
  if (work > grammarWork) {
    throw new ModelError(`its strings and classes would have the ${vocabSize} tokens of the vocabulary looked at ${Math.round(work / vocabSize)} times; ${Math.floor(grammarWork / vocabSize)} is the limit. Fewer or shorter limited strings (\`maxLength\`) need less.`);
  }
}

/** Classes that take most of a text: those with an "e", or of all but a few. */
function wideClasses(rules: string): number {
  let n = 0;
  for (const [text] of rules.matchAll(TEXTS)) {
    if (!text.startsWith("[")) continue;
    const isNegative = text.startsWith("[^");
    const inside = text.slice(isNegative ? 2 : 1, -1).replace(/\\x([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)));
    let hasE = false;
    for (let i = 0; i < inside.length && !hasE; i++) {
      const to = inside[i + 1] === "-" && i + 2 < inside.length ? inside[i + 2]! : inside[i]!;
      hasE = inside[i]! <= "e" && "e" <= to;
      if (to !== inside[i]) i += 2;
    }
    if (hasE !== isNegative) n++;
  }
  return n;
}
