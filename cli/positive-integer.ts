// A whole number above 0 as an option's value. Refuses signs, fractions and exponents, in words that commander prints behind the option's name.

import { InvalidArgumentError } from "commander";

export function positiveInteger(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError("Expected a whole number above 0.");
  return Number(text);
}
