// The isolate that this script's objects live in. Owns nothing but the way to the one there is, made at first use with the compiled kernels.
// Refuses to be imported by what runs without the platform: the kernels come in through the bundler.

import { thisIsolate, type Isolate } from "./isolate.ts";
import { kernelModules } from "./kernel-modules.ts";
import { LIMITS } from "./limits.ts";

export const hostIsolate = (): Isolate => thisIsolate(kernelModules, LIMITS);
