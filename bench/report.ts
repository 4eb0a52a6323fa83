// What every benchmark's document has in common: the machine, the targets with bar and stretch, and how they are printed.
// Refuses judgement beyond the figures: a missed bar is printed, and the exit code stays 0.

import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, totalmem } from "node:os";
import { join } from "node:path";
import { ROOT } from "../cli/setup.mjs";
import { rounded } from "./statistics.ts";

export interface Target {
  readonly measured: number;
  readonly bar: number;
  readonly stretch: number;
  readonly wanted: "at least" | "at most";
  readonly reached: "stretch" | "bar" | "neither";
}

/** A figure against its bar and stretch, which may be the same. Less is better where the stretch is below the bar, or where it is said. */
export function target(measured: number, bar: number, stretch: number, wanted: Target["wanted"] = stretch < bar ? "at most" : "at least"): Target {
  const most = wanted === "at most";
  const meets = (limit: number): boolean => (most ? measured <= limit : measured >= limit);
  return { measured: rounded(measured), bar, stretch, wanted, reached: meets(stretch) ? "stretch" : meets(bar) ? "bar" : "neither" };
}

export interface MachineReport {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly node: string;
  readonly v8: string;
  readonly when: string;
  /** Runnable processes over the last minute when the benchmark began: what else ran. */
  readonly loadAtStart: number;
}

export const machineReport = (): MachineReport => ({
  cpu: cpus()[0]?.model ?? "unknown", cores: availableParallelism(), memoryGiB: Math.round(totalmem() / 2 ** 30), node: process.version, v8: process.versions.v8,
  when: new Date().toISOString().slice(0, 16), loadAtStart: rounded(loadavg()[0]!),
});

export interface Report {
  readonly machine: MachineReport;
  readonly targets: Readonly<Record<string, Target>>;
}

/** Rows of a table, the first being its head; columns after the first are right-aligned. */
export function tableText(rows: readonly (readonly (string | number)[])[]): string {
  const cells = rows.map((row) => row.map(String));
  const widths = cells[0]!.map((_, column) => Math.max(...cells.map((row) => (row[column] ?? "").length)));
  return cells.map((row) => row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!))).join("  ").trimEnd()).join("\n");
}

export const targetLines = (targets: Readonly<Record<string, Target>>): string =>
  Object.entries(targets).map(([name, t]) => `${({ stretch: "stretch", bar: "bar    ", neither: "missed " })[t.reached]} ${name}: ${t.measured} (${t.wanted} ${t.bar}, stretch ${t.stretch})`).join("\n");

/** Runs a benchmark as a program: its table on standard output, its document in build/bench/<name>.json; with --json the document on standard output too. */
export async function present<T extends Report>(name: string, run: () => Promise<T>, table: (report: T) => string): Promise<void> {
  const report = await run();
  const json = JSON.stringify(report, null, 1);
  mkdirSync(join(ROOT, "build", "bench"), { recursive: true });
  writeFileSync(join(ROOT, "build", "bench", `${name}.json`), `${json}\n`);
  const { machine: m } = report;
  const text = `${name} on ${m.cpu}, ${m.cores} cores, Node ${m.node}, ${m.when}, load ${m.loadAtStart} at the start\n${table(report)}\n${targetLines(report.targets)}\n`;
  if (process.argv.includes("--json")) {
    process.stderr.write(text);
    process.stdout.write(`${json}\n`);
  } else process.stdout.write(text);
}

/** The value after `--name` on the command line, or null. */
export function option(name: string): string | null {
  const at = process.argv.indexOf(`--${name}`);
  const value = at < 0 ? undefined : process.argv[at + 1];
  if (at >= 0 && (value === undefined || value.startsWith("--"))) throw new Error(`--${name} was given without a value.`);
  return value ?? null;
}
