// The largest resident memory of a process and its children together, sampled from /proc. Owns the sampling; where there is no /proc it says 0.
// Refuses exactness: peaks shorter than the pause between samples are missed, and shared pages count in every process that has them.

import { readdirSync, readFileSync } from "node:fs";

const PAUSE_MS = 250;

function statusField(pid: string, field: string): number {
  try {
    return Number(new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0);
  } catch {
    return 0; // it has ended
  }
}

/** Resident bytes of the process and all below it. */
function residentBytes(root: number): number {
  let pids: string[];
  try {
    pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  } catch {
    return 0;
  }
  const parents = new Map(pids.map((pid) => [pid, statusField(pid, "PPid")]));
  const belongs = (pid: string): boolean => {
    for (let at = Number(pid); at > 1; at = parents.get(String(at)) ?? 0) if (at === root) return true;
    return false;
  };
  return pids.filter(belongs).reduce((sum, pid) => sum + 1024 * statusField(pid, "VmRSS"), 0);
}

/** Samples until the returned function is called, which gives the largest sum seen. */
export function watchPeak(pid: number): () => number {
  let peakBytes = 0;
  const sample = (): void => { peakBytes = Math.max(peakBytes, residentBytes(pid)); };
  const timer = setInterval(sample, PAUSE_MS);
  return () => {
    clearInterval(timer);
    return peakBytes;
  };
}
