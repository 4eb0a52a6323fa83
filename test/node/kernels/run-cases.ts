// Program of the child processes in engine-flags.test.ts: runs the case table on every variant and prints what differs as JSON.

import { KERNEL_VARIANTS, kernelCases, mismatchesOf } from "../../kernel-cases.ts";
import { kernelModule } from "./modules.ts";

const cases = kernelCases();
const mismatches = KERNEL_VARIANTS.flatMap((variant) => mismatchesOf(kernelModule(variant), variant, cases));
console.log(JSON.stringify({ cases: cases.length, mismatches }));
