// `--prune` and what goes with it: experts left out while a pack is evaluated, by the very rule that a request with `moe.prune` gets. Owns the words of the command line.
// Refuses, in a sentence, what the model has no part for.

import { type Command, InvalidArgumentError, Option } from "commander";
import type { ModelConfig } from "../model/config.ts";
import { pruningRule, type PruningRule, type PruningWish } from "../model/online-pruning-rule.ts";

export interface PruneOptions {
  readonly prune?: "calibrated" | "learned" | { readonly ratio: number | readonly number[] };
  readonly pruneLayers?: readonly number[];
  readonly protectFirst?: number;
  readonly pruneRenormalize?: "yes" | "no";
}

export const withPruning = (command: Command): Command => command
  .option("--prune <rule>", "leave experts out: a ratio such as 0.4, one for each layer (0,0.4,0.4,0), calibrated, or learned", ruleOf)
  .option("--prune-layers <list>", "with one ratio: the layers it holds for, such as 1,2; otherwise all", layersOf)
  .option("--protect-first <n>", "with a ratio: tokens at so many first positions lose nothing", wholeNumber)
  .addOption(new Option("--prune-renormalize <yes|no>", "with a ratio: whether weights of those that stay are brought to the router's sum again").choices(["yes", "no"]));

/** Null where nothing was asked for. Throws a sentence. */
export function pruningOf(config: ModelConfig, { prune, pruneLayers, protectFirst, pruneRenormalize }: PruneOptions): PruningRule | null {
  if (prune === undefined || typeof prune === "string") {
    if (pruneLayers !== undefined || protectFirst !== undefined || pruneRenormalize !== undefined) throw new Error("--prune-layers, --protect-first and --prune-renormalize go with --prune and a ratio.");
    if (prune === undefined) return null;
  }
  const wish: PruningWish = typeof prune === "string" ? prune : { ...prune, layers: pruneLayers, protectFirst, renormalize: pruneRenormalize === undefined ? undefined : pruneRenormalize === "yes" };
  const rule = pruningRule(config, wish);
  if (typeof rule === "string") throw new Error(rule);
  return rule;
}

function ruleOf(text: string): NonNullable<PruneOptions["prune"]> {
  if (text === "calibrated" || text === "learned") return text;
  const ratios = text.split(",").map((part) => (part.trim() === "" ? NaN : Number(part)));
  if (ratios.some((ratio) => !(ratio >= 0 && ratio <= 1))) throw new InvalidArgumentError("Expected numbers from 0 to 1, calibrated, or learned.");
  return { ratio: ratios.length === 1 ? ratios[0]! : ratios };
}

function layersOf(text: string): number[] {
  const layers = text.split(",").map((part) => (/^\s*\d+\s*$/.test(part) ? Number(part) : NaN));
  if (layers.some(Number.isNaN)) throw new InvalidArgumentError("Expected numbers of layers, such as 1,2.");
  return layers;
}

function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError("Expected a whole number.");
  return Number(text);
}
