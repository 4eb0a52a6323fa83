// Where large test data lies: the folder that WORKERS_MOE_DATA names, by default ../shared/data beside the repository.
// The project commits none of it; tests that need a file skip where it is absent. Refuses downloading.

import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const FOLDER = resolve(ROOT, process.env.WORKERS_MOE_DATA ?? "../shared/data");

/** Path of a data file, or null where it is absent. */
export function dataFile(name: string): string | null {
  const path = `${FOLDER}/${name}`;
  return existsSync(path) ? path : null;
}
