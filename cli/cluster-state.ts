// The state file of `serve --state-file`: which process of a local cluster holds which shards, its pid, and whether it is up. For whoever kills processes
// on purpose, or wants to know which one did what. Owns the document. A reader never sees half of it: it is put in place whole, without a wait in between,
// so that what is written last is what happened last.

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import type { ShardProcessState } from "./shard-process.ts";

export interface ClusterState {
  readonly url: string;
  /** Of the process that runs the API and the orchestrator; null before it was started. When it ends everything does. */
  readonly firstPid: number | null;
  readonly shardProcesses: readonly {
    /** Leader of a process group of its own, which is all of it: `kill -9 -<pid>` leaves nothing behind. Null while it is down. */
    readonly pid: number | null;
    readonly port: number;
    /** Shards of the first plan. Shard n of any plan lives in process n modulo the length of this list. */
    readonly shards: readonly number[];
    readonly state: ShardProcessState;
    readonly restarts: number;
    /** From its last end to when its shards could be reached again. */
    readonly lastOutageMs: number | null;
  }[];
}

export function writeClusterState(path: string, state: ClusterState): void {
  const beside = `${path}.partial`;
  writeFileSync(beside, `${JSON.stringify(state, null, 1)}\n`);
  renameSync(beside, path);
}

export const readClusterState = (path: string): ClusterState => JSON.parse(readFileSync(path, "utf8")) as ClusterState;
