// Control tokens in grammars, which are texts (EBNF). Owns their spelling: a byte that no text has, for each token that a grammar names.
// Refuses code points that do not exist, by which a grammar of a request could spell such bytes itself.
// Format: XGrammar 0.1.27's EBNF; https://xgrammar.mlc.ai/docs/xgrammar_features/ebnf_guide.html.

import { ModelError } from "../model/config.ts";

/** Bytes from here on are in no UTF-8 text, nor does the library take them for any; there are eight. */
export const FIRST_NON_TEXT_BYTE = 0xf8;
/** They and the others that are in no text. */
export const NON_TEXT_BYTES: readonly number[] = [0xc0, 0xc1, 0xf5, 0xf6, 0xf7, ...Array.from({ length: 0x100 - FIRST_NON_TEXT_BYTE }, (_, i) => FIRST_NON_TEXT_BYTE + i)];

/**
 * The grammar with a rule for each control token it names: `controls` has the token by the rule's name, `byteOf` the byte it is spelled as. The library
 * writes a code point below zero as its lowest byte (0.1.27), which is how a byte that is no text gets into a text; its tests fail where that changes.
 */
export function withControls(grammar: string, controls: Readonly<Record<string, string>>, byteOf: ReadonlyMap<string, number>): string {
  const rules = Object.entries(controls).filter(([name]) => new RegExp(`\\b${name}\\b`).test(grammar)).map(([name, token]) => {
    const byte = byteOf.get(token);
    if (byte === undefined) throw new ModelError(`the vocabulary has no control token ${token}.`);
    return `${name} ::= "\\UFFFFFF${byte.toString(16).toUpperCase()}"`;
  });
  return [grammar, ...rules].join("\n");
}

/** Throws where a grammar of a request names a code point beyond the last one. */
export function requireCodePoints(grammar: string): void {
  const found = /\\U(?!000[0-9a-f]|0010)[0-9a-f]{8}/i.exec(grammar)?.[0];
  if (found !== undefined) throw new ModelError(`it names the code point ${found}; expected one of \\U00000000 to \\U0010FFFF.`);
}
