// `node bench/product-masks.ts --pack DIR --texts LABEL=FIND:JUDGE,... [--ratio 2] [--draws N] [--json]`: what product experts of one domain know, and nobody else: perplexity of each text
// with the experts of each domain masked (Monet, 2024, section 5: an expert is of the domain in which it is routed to at least twice as much as in any other), beside as many others drawn at random.
// Owns who belongs to whom, from texts to find with, and the figures, on other texts. Times nothing. Refuses models without product experts.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { evaluateText } from "../cli/commands/eval.ts";
import { evaluate, openPack, type LocalModel } from "../cli/open-pack.ts";
import { drawExperts } from "../fleet/expert-differences.ts";
import { productRouterLayer } from "../model/config.ts";
import type { ProductLayerMask, ProductMask } from "../model/product-mask.ts";
import type { Tap } from "../model/taps.ts";
import { tableText } from "./report.ts";

interface Domain {
  readonly label: string;
  readonly find: string;
  readonly judge: string;
}

/** Share of a token's weight that each expert (i, j) gets, mean over the text's tokens, of the layers that route: [nKeys * nKeys] each. */
async function sharesOf({ engine, tokenizer }: LocalModel, text: string): Promise<Map<number, Float64Array>> {
  const { nKeys, nHeads } = engine.config.productExperts!;
  const sums = new Map<number, Float64Array>();
  let tokens = 0;
  const tap: Tap = {
    at: "keys",
    run: ({ layer, nTokens, values, rowLength }) => {
      if (productRouterLayer(engine.config, layer) !== layer) return;
      const of = sums.get(layer) ?? new Float64Array(nKeys * nKeys);
      sums.set(layer, of);
      for (let t = 0; t < nTokens; t++) {
        for (let head = 0; head < nHeads; head++) {
          const first = values.subarray(t * rowLength + head * nKeys, t * rowLength + (head + 1) * nKeys);
          const second = values.subarray(t * rowLength + (nHeads + head) * nKeys, t * rowLength + (nHeads + head + 1) * nKeys);
          first.forEach((a, i) => { if (a !== 0) second.forEach((b, j) => { of[i * nKeys + j]! += a * b; }); });
        }
      }
    },
  };
  const ids = tokenizer!.encodeText(text);
  for (let start = 0; start < ids.length; start += engine.contextLength) {
    const window = ids.slice(start, start + engine.contextLength);
    tokens += window.length;
    await evaluate(engine, window, () => undefined, { taps: [tap] });
  }
  return new Map([...sums].map(([layer, of]) => [layer, of.map((x) => x / (tokens * nHeads))]));
}

/** Experts (i, j) of each domain, by the layer that routes: those with at least `ratio` times the share that any other domain gives them. */
function expertsOf(shares: readonly Map<number, Float64Array>[], ratio: number): Map<number, number[]>[] {
  return shares.map((own, domain) => new Map([...own].map(([layer, of]) => {
    const others = shares.filter((_, at) => at !== domain).map((map) => map.get(layer)!);
    return [layer, [...of.keys()].filter((expert) => of[expert]! > 0 && others.every((other) => of[expert]! >= ratio * other[expert]!))];
  })));
}

/** As many others of each layer, drawn evenly. */
function drawnInstead(experts: ReadonlyMap<number, readonly number[]>, nExperts: number, seed: number): Map<number, number[]> {
  const drawn = drawExperts({ nExperts }, [...experts].flatMap(([layer, of]) => of.map((expert) => ({ layer, expert }))), seed);
  return new Map([...experts.keys()].map((at) => [at, drawn.filter(({ layer }) => layer === at).map(({ expert }) => expert)]));
}

/** The mask of a model's every product layer, from those of the layers whose router they have. */
function maskOf({ engine: { config } }: LocalModel, experts: ReadonlyMap<number, readonly number[]>): ProductMask {
  const { nKeys } = config.productExperts!;
  const layers = config.layerFfns.flatMap((kind, layer): ProductLayerMask[] => {
    const own = experts.get(productRouterLayer(config, layer));
    return kind !== "product" || own === undefined ? [] : [{ layer, pairs: own.map((expert) => [Math.floor(expert / nKeys), expert % nKeys] as const) }];
  });
  return { layers };
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { pack: { type: "string" }, texts: { type: "string" }, ratio: { type: "string", default: "2" }, draws: { type: "string", default: "3" }, json: { type: "boolean", default: false } } });
  const domains = (values.texts ?? "").split(",").map((of): Domain => {
    const [, label, find, judge] = /^([^=]+)=(.+):([^:]+)$/.exec(of) ?? [];
    if (label === undefined) throw new Error(`--texts has "${of}"; LABEL=FIND:JUDGE,LABEL=FIND:JUDGE was expected, texts to find experts in and others to judge with.`);
    return { label, find: find!, judge: judge! };
  });
  if (values.pack === undefined || domains.length < 2) throw new Error("--pack with a pack of product experts and --texts with two domains or more were expected.");
  const model = await openPack(values.pack);
  const { productExperts } = model.engine.config;
  if (productExperts === undefined) throw new Error(`The pack "${model.manifest.id}" has no product experts.`);
  const shares = [];
  for (const { find } of domains) shares.push(await sharesOf(model, readFileSync(find, "utf8")));
  const own = expertsOf(shares, Number(values.ratio));
  const perplexity = async ({ judge }: Domain, mask: ProductMask | null): Promise<number> =>
    (await evaluateText(model, readFileSync(judge, "utf8"), true, judge, mask === null ? undefined : { productMask: mask })).perplexity;
  const plain: number[] = [];
  for (const domain of domains) plain.push(await perplexity(domain, null));
  const rises = async (experts: ReadonlyMap<number, readonly number[]>): Promise<number[]> => {
    const [mask, out]: [ProductMask, number[]] = [maskOf(model, experts), []];
    for (const [i, domain] of domains.entries()) out.push((await perplexity(domain, mask)) / plain[i]! - 1);
    return out;
  };
  const total = productExperts.nKeys ** 2;
  const rows = [];
  for (const [i, { label }] of domains.entries()) {
    const drawn = [];
    for (let seed = 1; seed <= Number(values.draws); seed++) drawn.push(await rises(drawnInstead(own[i]!, total, seed)));
    rows.push({ label, experts: [...own[i]!.values()].map(({ length }) => length), rises: await rises(own[i]!), drawn });
    console.error(`masked: ${label}`);
  }
  if (values.json) process.stdout.write(`${JSON.stringify({ pack: model.packHash, ratio: Number(values.ratio), total, texts: domains.map(({ label }, i) => ({ label, perplexity: plain[i] })), rows })}\n`);
  else {
    const percent = (x: number): string => `${x < 0 ? "" : "+"}${(100 * x).toFixed(1)} %`;
    process.stdout.write(tableText([["masked", "experts", ...domains.map(({ label }) => label), "drawn: all texts"], ["nothing", "0", ...plain.map((x) => x.toFixed(2)), ""],
      ...rows.map(({ label, experts, rises: of, drawn }) => [label, experts.join(" + "), ...of.map(percent), drawn.map((each) => percent(each.reduce((a, b) => a + b) / each.length)).join(", ")])]));
  }
}

if (import.meta.main) await main();
