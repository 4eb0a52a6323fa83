// The sum of many runs: what went wrong how often, what became of the readers, and which seeds failed. Owns the counts and their table.
// Refuses to keep reports: a million of them do not fit.

import { FAULT_NAMES } from "./faults.ts";
import type { RunReport } from "./run.ts";

/** Failing seeds that are named; there is no use in more. */
const NAMED = 20;

export interface Failure {
  readonly seed: number;
  readonly problem: string;
}

/** As plain values, which threads can hand to each other. */
export interface Tally {
  runs: number;
  readonly faults: Record<string, number>;
  readonly outcomes: Record<string, number>;
  frames: number;
  flips: number;
  events: number;
  virtualMs: number;
  failed: number;
  readonly failures: Failure[];
}

export const emptyTally = (): Tally => ({ runs: 0, faults: {}, outcomes: {}, frames: 0, flips: 0, events: 0, virtualMs: 0, failed: 0, failures: [] });

const raise = (counts: Record<string, number>, name: string, by: number): void => { counts[name] = (counts[name] ?? 0) + by; };

export function addReport(tally: Tally, { seed, problem, faults, outcomes, frames, flips, nEvents, virtualMs }: Omit<RunReport, "errors" | "lines" | "met">): void {
  tally.runs++;
  for (const [name, count] of Object.entries(faults)) raise(tally.faults, name, count);
  for (const outcome of outcomes) raise(tally.outcomes, outcome, 1);
  tally.frames += frames;
  tally.flips += flips;
  tally.events += nEvents;
  tally.virtualMs += virtualMs;
  if (problem === null) return;
  tally.failed++;
  if (tally.failures.length < NAMED) tally.failures.push({ seed, problem });
}

export function addTally(to: Tally, more: Tally): void {
  to.runs += more.runs;
  for (const [name, count] of Object.entries(more.faults)) raise(to.faults, name, count);
  for (const [name, count] of Object.entries(more.outcomes)) raise(to.outcomes, name, count);
  to.frames += more.frames;
  to.flips += more.flips;
  to.events += more.events;
  to.virtualMs += more.virtualMs;
  to.failed += more.failed;
  to.failures.push(...more.failures.slice(0, NAMED - to.failures.length));
}

/** Lines for people: faults by how often they happened, then what became of the readers. */
export function tableOf({ runs, faults, outcomes, frames, flips, events, virtualMs }: Tally): string[] {
  const names = Object.keys(faults).some((name) => !(FAULT_NAMES as readonly string[]).includes(name)) ? Object.keys(faults) : FAULT_NAMES;
  const rows = names.map((name) => [name, faults[name] ?? 0] as const).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  const most = Math.max(1, rows[0]?.[1] ?? 1);
  const width = names.reduce((max, { length }) => Math.max(max, length), 0);
  const all = rows.reduce((sum, [, count]) => sum + count, 0);
  return [
    `Faults that happened: ${all} in ${runs} runs`,
    ...rows.map(([name, count]) => `  ${name.padEnd(width)} ${String(count).padStart(9)} ${"#".repeat(Math.ceil((count / most) * 40))}`),
    `Readers: ${Object.entries(outcomes).sort(([a], [b]) => (a < b ? -1 : 1)).map(([outcome, count]) => `${count} ${outcome}`).join(", ") || "none"}`,
    `${frames} frames, ${flips} plans that came into force in the middle of answers, ${events} events, ${(virtualMs / 3_600_000).toFixed(2)} hours of virtual time`,
  ];
}
