// `node bench/engine-against.ts --against DIR [--runs N] [--pack DIR] [--json]`: the engine's time of this checkout beside that of another, such as the one before a change, on the same pack: does what a
// request does not ask for cost anything? Owns the order (runs of both in turn, each in a fresh process, which goes first changing each time) and the interval. DIR is a checkout with its kernels
// built (npm ci; npm run build). Refuses other packs than both can read, and to run beside anything else: say what did.

import { execFileSync } from "node:child_process";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { ROOT } from "../cli/setup.mjs";
import { machineReport, tableText } from "./report.ts";
import { median, rounded } from "./statistics.ts";

interface EngineTimes {
  readonly promptMs: number;
  readonly tokenMs: number;
}

/** 0.975 quantile of Student's t, by runs less one; 19 for the usual twenty. */
const T_975: Readonly<Record<number, number>> = { 4: 2.776, 9: 2.262, 19: 2.093, 29: 2.045, 39: 2.023 };

/** Bounds within which 95 of 100 such runs lie, from the smallest and largest order statistics. */
function interval(values: readonly number[]): readonly [number, number] {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (q: number): number => {
    const place = q * (sorted.length - 1);
    const low = Math.floor(place);
    return sorted[low]! + (place - low) * ((sorted[low + 1] ?? sorted[low]!) - sorted[low]!);
  };
  return [at(0.025), at(0.975)];
}

function main(): void {
  const { values } = parseArgs({ options: { against: { type: "string" }, runs: { type: "string", default: "20" }, pack: { type: "string", default: join(ROOT, "demo/pack") }, json: { type: "boolean", default: false } } });
  if (values.against === undefined) throw new Error("--against names the other checkout, whose kernels are built.");
  const checkouts = { own: ROOT, other: resolve(values.against) };
  const nRuns = Number(values.runs);
  const run = (of: keyof typeof checkouts): EngineTimes =>
    JSON.parse(execFileSync(process.execPath, [join(ROOT, "bench/engine-time.ts"), checkouts[of], resolve(values.pack)], { encoding: "utf8" })) as EngineTimes;
  const times: Record<keyof typeof checkouts, EngineTimes[]> = { own: [], other: [] };
  run("own");
  for (let i = 0; i < nRuns; i++) for (const of of i % 2 === 0 ? (["own", "other"] as const) : (["other", "own"] as const)) times[of].push(run(of));
  const figures = (["promptMs", "tokenMs"] as const).map((what) => {
    const [own, other] = [times.own.map((of) => of[what]), times.other.map((of) => of[what])];
    const ratios = own.map((value, i) => value / other[i]!);
    const mean = ratios.reduce((a, b) => a + b) / nRuns;
    const deviation = Math.sqrt(ratios.reduce((sum, ratio) => sum + (ratio - mean) ** 2, 0) / (nRuns - 1));
    const half = ((T_975[nRuns - 1] ?? 1.96) * deviation) / Math.sqrt(nRuns);
    const within = interval(other);
    return { what, own: median(own), other: median(other), otherInterval: within, isWithin: median(own) >= within[0] && median(own) <= within[1], ratio: mean, ratioInterval: [mean - half, mean + half] as const };
  });
  const text = tableText([
    ["", "this, ms", "other, ms", "95 % of the other's runs", "this lies in it", "ratio, run by run (95 %)"],
    ...figures.map(({ what, own, other, otherInterval: [low, high], isWithin, ratio, ratioInterval: [from, to] }) => [what === "promptMs" ? "prompt, per token" : "reply, per token", rounded(own), rounded(other), `${rounded(low)} to ${rounded(high)}`, isWithin ? "yes" : "no", `${ratio.toFixed(4)} (${from.toFixed(4)} to ${to.toFixed(4)})`]),
  ]);
  (values.json ? process.stderr : process.stdout).write(`${text}\n`);
  if (values.json) process.stdout.write(`${JSON.stringify({ machine: machineReport(), runs: nRuns, figures })}\n`);
}

if (import.meta.main) main();
