// The packages measured beside ours live in a folder of their own, installed when a benchmark first needs them: 140 MB that nobody
// else has to download. Owns their installation and their versions. Refuses versions other than those of bench/peers/package.json.

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

export const PEERS = import.meta.dirname;
const wanted = (): Record<string, string> =>
  (JSON.parse(readFileSync(join(PEERS, "package.json"), "utf8")) as { dependencies: Record<string, string> }).dependencies;

/** Version that is installed, or null. */
export function peerVersion(name: string): string | null {
  const manifest = join(PEERS, "node_modules", name, "package.json");
  return existsSync(manifest) ? (JSON.parse(readFileSync(manifest, "utf8")) as { version: string }).version : null;
}

export const arePeersInstalled = (): boolean => Object.entries(wanted()).every(([name, version]) => peerVersion(name) === version);

/** Installs them with npm ci unless they are there. Throws when that fails. */
export function installPeers(): void {
  if (arePeersInstalled()) return;
  console.error("Installing what the benchmarks compare with (onnxruntime-web; about 140 MB, once) ...");
  const done = spawnSync("npm", ["ci", "--no-audit", "--no-fund", "--ignore-scripts"], { cwd: PEERS, stdio: ["ignore", "ignore", "inherit"], shell: process.platform === "win32" });
  if (done.status !== 0) throw new Error(`npm ci in bench/peers failed (${done.error?.message ?? `exit code ${done.status}`}); the benchmark needs the packages named in bench/peers/package.json.`);
}
