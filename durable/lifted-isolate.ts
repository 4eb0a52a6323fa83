// A larger isolate than production's, on a local machine: workerd enforces no memory limit there (2026-11). Owns the variable ISOLATE_MIB and the
// moment: the isolate is made before its first object enters it. Only entries that are never deployed import this (worker/local-worker.ts,
// worker/local-shards.ts, bench/). Refuses more than a WebAssembly memory can hold.

import type { DurableEnv } from "./env.ts";
import { thisIsolate } from "./isolate.ts";
import { kernelModules } from "./kernel-modules.ts";
import { LIMITS, type Limits } from "./limits.ts";

export interface LocalEnv extends DurableEnv {
  readonly ISOLATE_MIB: string;
}

const MIB = 1024 * 1024;
const MOST_MIB = Math.floor(LIMITS.memoryMaximumBytes / MIB);

/** The limits with the isolate's bytes that the environment names. */
export function liftedLimits(env: LocalEnv): Limits {
  const mebibytes = Number(env.ISOLATE_MIB);
  if (!Number.isInteger(mebibytes) || mebibytes < 1 || mebibytes > MOST_MIB) throw new RangeError(`The variable ISOLATE_MIB is "${env.ISOLATE_MIB}"; expected a whole number from 1 to ${MOST_MIB}.`);
  return Object.freeze({ ...LIMITS, isolateBytes: mebibytes * MIB });
}

/** Makes the isolate with the local limit unless it is there; gives the environment back. */
export function lifted<Env extends LocalEnv>(env: Env): Env {
  thisIsolate(kernelModules, liftedLimits(env));
  return env;
}
