// What is told of a line to a shard, and what is told of a shard to which several lines of one deployment lead: each stage of a ring has its own.
// Owns how they become one. Refuses to ask for them (ring-figures.ts), and round trips: they are each line's own.

import type { ShardClient } from "./client.ts";
import type { LineFault } from "./fault-log.ts";
import type { ShardStatus } from "./generate.ts";

export interface LineFigures extends Pick<ShardStatus, "name" | "state" | "read" | "loadedBytes" | "totalBytes" | "frames" | "bytes" | "retries" | "hedges"> {
  readonly wasOpen: boolean;
  /** Oldest first. */
  readonly faults: readonly LineFault[];
}

export const lineFiguresOf = ({ name, state, wasOpen, read, loadedBytes, totalBytes, frames, bytes, retries, hedges, faults }: ShardClient): LineFigures =>
  ({ name, state, wasOpen, read, loadedBytes, totalBytes, frames, bytes, retries, hedges, faults });

/** Lines that lead to one shard, the own one first. Those that nobody ever wanted say nothing: a stage asks only the shards of its layers. */
export function together(lines: readonly [LineFigures, ...LineFigures[]]): LineFigures {
  const used = lines.filter(({ state, wasOpen, faults }) => state !== "idle" || wasOpen || faults.length > 0);
  const [first, ...more] = used;
  if (first === undefined) return lines[0];
  if (more.length === 0) return first;
  const sum = (of: (line: LineFigures) => number): number => used.reduce((total, line) => total + of(line), 0);
  const { name, read, loadedBytes, totalBytes } = used.toSorted((a, b) => b.totalBytes - b.loadedBytes - (a.totalBytes - a.loadedBytes))[0]!;
  return {
    name, read, loadedBytes, totalBytes, wasOpen: used.some((line) => line.wasOpen),
    state: (["connecting", "open", "idle", "closed"] as const).find((state) => used.some((line) => line.state === state))!,
    frames: sum((line) => line.frames), bytes: sum((line) => line.bytes), retries: sum((line) => line.retries), hedges: sum((line) => line.hedges),
    faults: used.flatMap(({ faults }) => faults).sort((a, b) => a.atMs - b.atMs),
  };
}
