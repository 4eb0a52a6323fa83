// `node bench/product-masks.ts --pack DIR --texts LABEL=FIND:JUDGE,... [--ratio 2] [--draws N] [--json]`: what product experts of one domain know, and nobody else: perplexity of each text
// with the experts of each domain masked (Monet, 2024, section 5: an expert is of the domain in which it is routed to at least twice as much as in any other), beside as many others drawn at random.
// Owns who belongs to whom, from texts to find with, and the figures, on other texts. Times nothing. Refuses models without product experts.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { evaluateText } from "../cli/commands/eval.ts";
import { openPack, type LocalModel } from "../cli/open-pack.ts";
import { routeSequence } from "../cli/profile/route-sequence.ts";
import { chooseExperts, differenceMap, drawExperts, ownDifferences } from "../fleet/expert-differences.ts";
import { productShape } from "../fleet/product-routing.ts";
import { ClassRouting } from "../fleet/sequence-routing.ts";
import { maskOfRouters, type ProductMask } from "../model/product-mask.ts";
import { tableText } from "./report.ts";

interface Domain {
  readonly label: string;
  readonly find: string;
  readonly judge: string;
}

/** What one of the texts takes, in windows of the context. */
async function routingOf({ engine, tokenizer }: LocalModel, text: string): Promise<ClassRouting> {
  const routing = new ClassRouting(productShape(engine.config));
  const ids = tokenizer!.encodeText(text);
  for (let start = 0; start < ids.length; start += engine.contextLength) routing.add(await routeSequence(engine, ids.slice(start, start + engine.contextLength)));
  return routing;
}

/** Experts (i, j) of each domain, by the layer that routes: those with at least `ratio` times the share that any other domain gives them. */
function expertsOf(routings: readonly ClassRouting[], ratio: number): Map<number, number[]>[] {
  const shares = routings.map((routing) => routing.meanShares("weight"));
  return routings.map(({ shape }, domain) => {
    const others = shares.filter((_, at) => at !== domain);
    const found = chooseExperts(shape, ownDifferences(differenceMap(shares[domain]!, others), shares[domain]!, others, ratio), { layers: shape.moeLayers, tau: 0 });
    return new Map(shape.moeLayers.map((layer) => [layer, found.filter((of) => of.layer === layer).map(({ expert }) => expert)]));
  });
}

/** As many others of each layer, drawn evenly. */
function drawnInstead(experts: ReadonlyMap<number, readonly number[]>, nExperts: number, seed: number): Map<number, number[]> {
  const drawn = drawExperts({ nExperts }, [...experts].flatMap(([layer, of]) => of.map((expert) => ({ layer, expert }))), seed);
  return new Map([...experts.keys()].map((at) => [at, drawn.filter(({ layer }) => layer === at).map(({ expert }) => expert)]));
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
  const routings = [];
  for (const { find } of domains) routings.push(await routingOf(model, readFileSync(find, "utf8")));
  const own = expertsOf(routings, Number(values.ratio));
  const perplexity = async ({ judge }: Domain, mask: ProductMask | null): Promise<number> =>
    (await evaluateText(model, readFileSync(judge, "utf8"), true, judge, mask === null ? undefined : { productMask: mask })).perplexity;
  const plain: number[] = [];
  for (const domain of domains) plain.push(await perplexity(domain, null));
  const rises = async (experts: ReadonlyMap<number, readonly number[]>): Promise<number[]> => {
    const [mask, out]: [ProductMask, number[]] = [maskOfRouters(model.engine.config, experts), []];
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
