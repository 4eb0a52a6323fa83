// Runs cases of one target: case `number` of a seed is always the same input, whatever ran before. Owns what counts as a find: an error that is
// none of ours, a message that is no printable sentence, more than CASE_MS_MAX, more than CASE_BYTES_MAX of memory. Refuses to stop at one.

import { getHeapStatistics } from "node:v8";
import { SourceError } from "../../formats/byte-source.ts";
import { ModelError } from "../../model/config.ts";
import { RequestError } from "../../worker/errors.ts";
import { isSentence } from "../support/refusal.ts";
import { largestAllocation, resetAllocations } from "./allocations.ts";
import { Mutator } from "./mutations.ts";
import type { FuzzTarget } from "./targets.ts";

/** No input of a few thousand bytes has a reason to take longer. */
export const CASE_MS_MAX = 1000;
/** Nor to take more memory, at once or in all: the first read of a GGUF header asks for 1 MiB. */
export const CASE_BYTES_MAX = 32 * 1024 * 1024;

export interface Find {
  readonly number: number;
  readonly problem: string;
  /** The same for cases that fail in the same way. */
  readonly kind: string;
  readonly input: Uint8Array;
}

/** The input of a case. */
export function inputOf(target: FuzzTarget, corpus: readonly Uint8Array[], seed: number, number: number): Uint8Array {
  const mutator = new Mutator(Math.imul(number + 1, 0x9e3779b1) ^ Math.imul(seed, 0x85ebca6b) ^ Math.imul(target.name.length, 0xc2b2ae35));
  const original = mutator.pick(corpus);
  let bytes: Uint8Array = original.slice();
  const isKnowing = mutator.below(4) > 0;
  if (isKnowing) for (let n = 1 + mutator.below(3); n > 0; n--) bytes = target.change(bytes, mutator, original);
  if (!isKnowing || mutator.below(5) === 0) bytes = mutator.mutate(bytes, corpus);
  return target.repair !== undefined && mutator.below(4) > 0 ? target.repair(bytes) : bytes;
}

/** What is wrong with how the target took the input, or null. What took too long is asked once more: the machine may have had other work. */
export async function problemOf(target: FuzzTarget, bytes: Uint8Array): Promise<string | null> {
  const first = await measured(target, bytes);
  if (first.problem !== null) return first.problem;
  if (first.tookBytes > CASE_BYTES_MAX) return `It took ${first.tookBytes} bytes of memory, expected at most ${CASE_BYTES_MAX}.`;
  if (first.tookMs <= CASE_MS_MAX) return null;
  const { tookMs } = await measured(target, bytes);
  return tookMs <= CASE_MS_MAX ? null : `It took ${Math.round(tookMs)} ms, expected at most ${CASE_MS_MAX}.`;
}

async function measured(target: FuzzTarget, bytes: Uint8Array): Promise<{ problem: string | null; tookMs: number; tookBytes: number }> {
  resetAllocations();
  const before = memoryInUse();
  const from = performance.now();
  let problem: string | null = null;
  try {
    await target.parse(bytes);
  } catch (error) {
    if (error instanceof ModelError || error instanceof SourceError || error instanceof RequestError) problem = isSentence(error.message, target.quotes === true) ? null : `The message is no printable sentence: ${error.message}`;
    else problem = error instanceof Error ? `${error.name}: ${error.message.slice(0, 500)}\n${error.stack?.split("\n").filter((line) => line.startsWith("    at ")).slice(0, 6).join("\n")}` : String(error);
  }
  return { problem, tookMs: performance.now() - from, tookBytes: Math.max(memoryInUse() - before, largestAllocation()) };
}

/** Runs cases [first, first + count) and reports finds as they come. `onCase` hears of each before it runs. */
export async function runCases(
  target: FuzzTarget, corpus: readonly Uint8Array[], seed: number, first: number, count: number, onFind: (find: Find) => void, onCase: (number: number) => void = () => undefined,
): Promise<void> {
  for (let number = first; number < first + count; number++) {
    onCase(number);
    const input = inputOf(target, corpus, seed, number);
    const problem = await problemOf(target, input);
    // Numbers and names within a message differ from case to case.
    if (problem !== null) onFind({ number, problem, kind: problem.replaceAll(/"[^"]*"|\S*[\d_.\uFFFD\p{Cc}]\S*|\d+/gu, "#").slice(0, 200), input });
  }
}

function memoryInUse(): number {
  const { used_heap_size, external_memory } = getHeapStatistics();
  return used_heap_size + external_memory;
}
