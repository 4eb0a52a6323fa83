// `workers-moe trace <pack> --text FILE`, `trace <address>`, `trace <file>`: which experts tokens take. Of a text by the engine that serves, of real
// traffic as a served model keeps it (TRACE_SHARE), or of a trace file made before. Owns the way to the records; the file is formats/trace.ts,
// the load fleet/expert-load.ts, the page cli/report/trace-page.ts. A file is written beside its name and renamed when complete.

import { type Command, InvalidArgumentError } from "commander";
import { existsSync, readFileSync, statSync } from "node:fs";
import { readTrace, TRACE_COLUMNS, traceHeader, traceHeaderBytes, traceRecords, type Trace, type TraceColumn, type TraceHeader } from "../../formats/trace.ts";
import { ChosenWeights } from "../../fleet/chosen-weights.ts";
import { ExpertLoad, type LayerLoad } from "../../fleet/expert-load.ts";
import { type LayerLocality, meanCaches, TraceLocality } from "../../fleet/trace-locality.ts";
import { moeLayersOf } from "../../model/config.ts";
import type { ProductLayerUse } from "../../model/product-use.ts";
import type { RequestRouting } from "../../model/request-routing.ts";
import { RoutingNotes } from "../../passes/routing-notes.ts";
import { traceActivity } from "../expert-activity.ts";
import { openPack, type LocalModel } from "../open-pack.ts";
import { startProgress } from "../progress.ts";
import { readText } from "../read-text.ts";
import { tracePage } from "../report/trace-page.ts";
import { type ProfileOption, routingOf, withProfile } from "../routing-option.ts";
import { percent, showTable } from "../sizes.ts";
import { writeText, writeWhole } from "../whole-file.ts";
import { keysDocument, keysOfText, showKeys } from "./trace-keys.ts";

interface TraceOptions extends ProfileOption {
  readonly text?: string;
  readonly out?: string;
  readonly columns?: readonly TraceColumn[];
  readonly key?: string;
  readonly locality?: boolean;
  readonly l0?: boolean;
  readonly report?: string;
  readonly json?: boolean;
}

export function register(program: Command): void {
  withProfile(program.command("trace"))
    .description("record which experts tokens take, and show how evenly they are used")
    .argument("<source>", "folder of a pack (with --text), address of a served model (what TRACE_SHARE kept), or a trace file")
    .option("--text <file>", "UTF-8 text, routed by the pack")
    .option("--out <file>", "write the trace here (docs/formats.md)")
    .option("--columns <names>", `what to write of each token and layer: ${TRACE_COLUMNS.join(", ")}, or all`, columnsOf)
    .option("--key <key>", "API key with the scope admin, for an address; otherwise the variable WORKERS_MOE_KEY")
    .option("--locality", "also say how local routing is in time: segments that few experts serve, and what caches of experts would hit (docs/planning.md)")
    .option("--l0", "instead say how many neurons of an expert work on a token of the text; <source> is then a model that is no pack (docs/routing.md)")
    .option("--report <file>", "write a page with plots here, and its figures as .json beside it; must not exist")
    .option("--json", "print one JSON document")
    .action(trace);
}

/** Columns by name, in the file's order; ids and weights are always among them. */
function columnsOf(text: string): TraceColumn[] {
  const names = text === "all" ? TRACE_COLUMNS : text.split(",").map((name) => name.trim());
  const unknown = names.find((name) => !(TRACE_COLUMNS as readonly string[]).includes(name));
  if (unknown !== undefined) throw new InvalidArgumentError(`Found "${unknown}"; expected ${TRACE_COLUMNS.join(", ")}, or all.`);
  return TRACE_COLUMNS.filter((column) => column === "ids" || column === "weights" || names.includes(column));
}

async function trace(source: string, options: TraceOptions): Promise<void> {
  if (options.l0 === true) return void process.stdout.write(await traceActivity(source, options.text, options.json === true));
  const { report, out } = options;
  const pages = report === undefined ? [] : [report, `${report.replace(/\.html$/, "")}.json`];
  const there = pages.find((file) => existsSync(file));
  if (there !== undefined) throw new Error(`${there} exists already; give another --report or remove it first.`);
  const routed = await routedBy(source, options);
  if ("keys" in routed) {
    process.stdout.write(options.json === true ? `${JSON.stringify(keysDocument(routed.of, routed.keys))}\n` : showKeys(routed.of, routed.keys));
    return;
  }
  const load = routed.load.layers;
  const locality = routed.locality?.layers();
  const { model, packHash, nExperts, topK } = routed.header;
  const figures = {
    model, packHash, experts: nExperts, expertsPerToken: topK, requests: routed.requests,
    layers: load.map(({ chosen, ...layer }) => ({ ...layer, chosen: Array.from(chosen) })), ...(locality === undefined ? {} : { locality }),
  };
  if (report !== undefined) {
    const weights = routed.weights.layers;
    const page = await tracePage({ header: routed.header, requests: routed.requests, load, weights, locality });
    await writeText(pages[1], `${JSON.stringify({ ...figures, weights }, null, 1)}\n`);
    await writeText(report, page);
  }
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ ...figures, ...(out === undefined ? {} : { out }), ...(report === undefined ? {} : { report }) })}\n`);
    return;
  }
  process.stdout.write(`${model}: ${load[0]?.tokens ?? 0} tokens of ${routed.requests} ${routed.requests === 1 ? "request" : "requests"}, ${topK} of ${nExperts} experts per token and layer.\n${showLoad(load, nExperts)}`);
  if (locality !== undefined) process.stdout.write(showLocality(locality));
  if (out !== undefined) process.stdout.write(`${out} has ${routed.records} records.\n`);
  if (report !== undefined) process.stdout.write(`${pages.join(", ")} written.\n`);
}

interface Routed {
  readonly header: TraceHeader;
  readonly load: ExpertLoad;
  readonly weights: ChosenWeights;
  /** Where it was asked for. */
  readonly locality: TraceLocality | undefined;
  readonly records: number;
  readonly requests: number;
}

/** Of a model whose experts are made of halves. */
interface RoutedKeys {
  readonly of: LocalModel;
  readonly keys: readonly ProductLayerUse[];
}

async function routedBy(source: string, { text, out, columns, key, locality, json, profile }: TraceOptions): Promise<Routed | RoutedKeys> {
  const quiet = json === true;
  if (columns !== undefined && (text === undefined || out === undefined)) throw new Error("--columns goes with --text and --out: it says what is written of a text.");
  if (profile !== undefined && text === undefined) throw new Error("--profile goes with --text: it says how a text is routed.");
  if (/^https?:\/\//.test(source)) {
    if (text !== undefined) throw new Error("An address was given together with --text; a served model's trace is of its own traffic. Give the folder of a pack for a text.");
    const bytes = await download(source, key ?? process.env["WORKERS_MOE_KEY"]);
    await writeWhole(out, (write) => write(bytes));
    return recordsOf(readTrace(bytes, source), locality === true);
  }
  if (statSync(source, { throwIfNoEntry: false })?.isFile() === true) {
    if (text !== undefined || out !== undefined) throw new Error(`${source} is a file; --text and --out go with the folder of a pack.`);
    return recordsOf(readTrace(readFileSync(source), source), locality === true);
  }
  if (text === undefined) throw new Error(`${source} is neither a trace file nor an address, so --text must say which text its experts are to be traced over.`);
  const model = await openPack(source);
  const { config } = model.manifest;
  if (config.productExperts !== undefined && moeLayersOf(config).length === 0 && out === undefined && locality !== true) return { of: model, keys: await keysOfText(model, readText(text), text, quiet) };
  return traceText(model, readText(text), text, out, quiet, { columns, withLocality: locality === true, routing: routingOf(model, profile === undefined ? {} : { profile }) });
}

function recordsOf(trace: Trace, withLocality: boolean): Routed {
  const load = new ExpertLoad(trace.header);
  const weights = new ChosenWeights(trace.header);
  const locality = withLocality ? new TraceLocality(trace.header) : undefined;
  const requests = new Set<number>();
  for (let i = 0; i < trace.length; i++) {
    const record = trace.record(i);
    load.add(record);
    weights.add(record);
    locality?.add(record);
    requests.add(record.request);
  }
  return { header: trace.header, load, weights, locality, records: trace.length, requests: requests.size };
}

async function download(address: string, key: string | undefined): Promise<Uint8Array> {
  const url = new URL("/v1/traces", address);
  let response: Response;
  try {
    response = await fetch(url, { headers: key === undefined ? {} : { Authorization: `Bearer ${key}` } });
  } catch (cause) {
    throw new Error(`${url.href} cannot be reached: ${cause instanceof Error && cause.cause instanceof Error ? cause.cause.message : String(cause)}.`, { cause });
  }
  if (!response.ok) {
    const said = await response.json().then((body) => (body as { error?: { message?: string } }).error?.message, () => undefined);
    throw new Error(`${url.href} answered ${response.status}: ${said ?? response.statusText}`);
  }
  return new Uint8Array(await response.arrayBuffer());
}

export interface TraceTextOptions {
  readonly columns?: readonly TraceColumn[] | undefined;
  readonly withLocality?: boolean;
  /** What is asked of its routing; the trace is of the outcome. */
  readonly routing?: RequestRouting | undefined;
}

/** Every token of a text once, in windows of the context length; each window is a request, begun with BOS where the tokenizer adds one. */
export async function traceText({ engine, tokenizer, manifest, packHash }: LocalModel, text: string, name: string, out: string | undefined, quiet: boolean, { columns, withLocality = false, routing }: TraceTextOptions = {}): Promise<Routed> {
  if (tokenizer === null) throw new Error(`The pack "${manifest.id}" has no tokenizer, which trace needs.`);
  const { config } = manifest;
  const header = traceHeader({ manifest, packHash }, columns);
  if (header.moeLayers.length === 0 && config.productExperts !== undefined) throw new Error(`The pack "${manifest.id}" has product experts alone, of which a trace has no records; leave --out and --locality away, and the keys that tokens keep are counted.`);
  if (header.moeLayers.length === 0) throw new Error(`The pack "${manifest.id}" is a dense model: it has no experts to trace.`);
  const ids = tokenizer.encodeText(text);
  if (ids.length === 0) throw new Error(`${name} has no text to trace.`);
  const before = manifest.tokenizer?.addBos === true && config.bosTokenId !== null ? [config.bosTokenId] : [];
  const room = engine.contextLength - before.length;
  const load = new ExpertLoad(header);
  const weights = new ChosenWeights(header);
  const locality = withLocality ? new TraceLocality(header) : undefined;
  let [records, requests] = [0, 0];
  await writeWhole(out, async (write) => {
    write(traceHeaderBytes(header));
    const bar = startProgress({ label: "trace", total: ids.length, unit: "tokens", quiet });
    try {
      for (let start = 0; start < ids.length; start += room, requests++) {
        await routeWindow(engine, [...before, ...ids.slice(start, start + room)], header.columns, routing, (nDone, notes) => {
          const found = notes.take(requests);
          for (const record of found) {
            load.add(record);
            weights.add(record);
            locality?.add(record);
          }
          records += found.length;
          write(traceRecords(header, found));
          bar.update(Math.min(ids.length, start + nDone));
        });
      }
    } finally {
      bar.stop();
    }
  });
  return { header, load, weights, locality, records, requests };
}

/** Evaluates one sequence; after each chunk hands out how many of its tokens are done, and what was noted. */
async function routeWindow(engine: LocalModel["engine"], window: readonly number[], columns: readonly TraceColumn[], routing: RequestRouting | undefined, onChunk: (nDone: number, notes: RoutingNotes) => void): Promise<void> {
  const timeline = engine.kv.open(window.length);
  const notes = new RoutingNotes(engine.config, columns);
  try {
    while (timeline.length < window.length) {
      await engine.step([{ timeline, ids: window.slice(timeline.length, timeline.length + engine.maxChunkTokens), logits: "none", routing }], notes.taps);
      onChunk(timeline.length, notes);
    }
  } finally {
    engine.kv.close(timeline);
  }
}

/** A line per layer: how uneven it is, and who is chosen most. */
function showLoad(load: readonly LayerLoad[], nExperts: number): string {
  const lines = load.map(({ layer, chosen, imbalance, entropyBits, idle }) => {
    const total = chosen.reduce((sum, n) => sum + n, 0);
    const busiest = Array.from(chosen.keys()).sort((a, b) => chosen[b]! - chosen[a]! || a - b).slice(0, 4);
    const share = (expert: number): string => `${expert} (${((100 * chosen[expert]!) / Math.max(1, total)).toFixed(1)} %)`;
    return [`layer ${layer}`, `${imbalance.toFixed(2)} x mean`, `${entropyBits.toFixed(2)} of ${Math.log2(nExperts).toFixed(2)} bits`, `${idle} idle`, `busiest ${busiest.map(share).join(", ")}`];
  });
  const widths = [0, 1, 2, 3].map((column) => Math.max(...lines.map((line) => line[column]!.length)));
  return lines.map((line) => `${line.map((cell, i) => (i < 4 ? cell.padEnd(widths[i]!) : cell)).join("  ")}\n`).join("");
}

/** SRP by layer and length, then hit rates by layer and size. */
function showLocality(layers: readonly LayerLocality[]): string {
  const rows = (layer: LayerLocality): [string, string][] => [
    ...layer.segments.map(({ segmentTokens, srp, interval, rho }): [string, string] => [`  segments of ${segmentTokens}`, `SRP ${srp.toFixed(3)}${interval === null ? "" : ` (${interval[0].toFixed(3)} to ${interval[1].toFixed(3)})`}, ${rho.toFixed(2)} times the places asked for`]),
    ...layer.caches.map(({ experts, recentlyUsed, segment, best }): [string, string] => [`  cache of ${experts}`, `LRU ${percent(recentlyUsed)}, SCH ${percent(segment)}, best possible ${percent(best)} of choices hit`]),
  ];
  const [, advised] = meanCaches(layers.map(({ caches }) => caches));
  const advice = advised === undefined ? "" : `A cache of ${advised.experts} experts a layer, twice those of a token, would serve ${percent(advised.recentlyUsed)} of choices by LRU, and ${percent(advised.best)} at best.\n`;
  return `${layers.map((layer) => `layer ${layer.layer}\n${showTable(rows(layer))}`).join("")}${advice}`;
}
