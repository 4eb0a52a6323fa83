// What happened in a run, as one number: two runs of a seed must give the same one. Owns the digest of events and, on request, their words.
// Refuses what differs between equal runs: addresses, names of isolates, times of the machine. The digest is two FNV-1a chains of 32 bits side by side.

import type { Clock } from "../durable/clock.ts";

export class EventLog {
  readonly #clock: Clock;
  readonly #startMs: number;
  /** One line per event; null where nobody asked for words. */
  readonly lines: string[] | null;
  nEvents = 0;
  #a = 0x811c9dc5;
  #b = 0x9e3779b9;

  constructor(clock: Clock, withWords: boolean) {
    this.#clock = clock;
    this.#startMs = clock.nowMs();
    this.lines = withWords ? [] : null;
  }

  /** `what` is one of a few fixed words; numbers say the rest. */
  add(what: string, ...numbers: readonly number[]): void {
    this.nEvents++;
    const sinceMs = this.#clock.nowMs() - this.#startMs;
    this.#mix(codeOf(what));
    this.#mix(Math.round(sinceMs * 1000));
    for (const number of numbers) this.#mix(number);
    this.lines?.push(`${sinceMs.toFixed(3).padStart(12)} ms  ${what}${numbers.length === 0 ? "" : ` ${numbers.join(" ")}`}`);
  }

  get digest(): string {
    return (this.#a >>> 0).toString(16).padStart(8, "0") + (this.#b >>> 0).toString(16).padStart(8, "0");
  }

  #mix(word: number): void {
    this.#a = Math.imul(this.#a ^ word, 0x01000193);
    this.#b = Math.imul((this.#b ^ word) + 0x6d2b79f5, 0x85ebca6b);
    this.#b ^= this.#b >>> 15;
  }
}

const codes = new Map<string, number>();

function codeOf(word: string): number {
  let code = codes.get(word);
  if (code === undefined) {
    code = 0x811c9dc5;
    for (let i = 0; i < word.length; i++) code = Math.imul(code ^ word.charCodeAt(i), 0x01000193);
    codes.set(word, code);
  }
  return code;
}
