// The repository's wrangler.toml as wrangler itself reads it. Owns which fields we need of it. Refuses to change it: what a deployment adds goes into files of its own.

import { join } from "node:path";
import type { WranglerConfig } from "./script-configs.ts";
import { ROOT } from "./setup.mjs";

/** Loaded when asked for: wrangler takes more than a second (2026-11). */
export async function readBaseConfig(path: string = join(ROOT, "wrangler.toml")): Promise<WranglerConfig> {
  const { experimental_readRawConfig: readRawConfig } = await import("wrangler");
  const { rawConfig } = readRawConfig({ config: path });
  const { name, main, compatibility_date: date, durable_objects: objects } = rawConfig;
  if (name === undefined || main === undefined || date === undefined || objects === undefined || rawConfig.exports === undefined) {
    throw new Error(`${path} lacks one of name, main, compatibility_date, exports and durable_objects; expected the repository's configuration.`);
  }
  return { ...rawConfig, vars: rawConfig.vars ?? {} } as WranglerConfig;
}
