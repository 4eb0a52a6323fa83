// `npm run sim -- --seed N | --seeds FROM-TO [--rings] [--workers N] [--json] [--log]`: simulated fleets under faults (run.ts), or rings of stages (ring.ts), one run per seed.
// Owns the seeds' spread over threads, the progress bar, the table and the exit status: 1 with the failing seeds, and how to see one of them again.
// Refuses chance: what a seed does depends on nothing else.

import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { parseArgs } from "node:util";
import { SingleBar } from "cli-progress";
import { RingSimulator } from "./ring.ts";
import { Simulator } from "./run.ts";
import { addReport, addTally, emptyTally, tableOf, type Tally } from "./tally.ts";

/** Seeds a thread takes at a time. */
const BATCH = 100;

interface Batch {
  readonly from: number;
  readonly to: number;
}

type Runs = Pick<Simulator | RingSimulator, "run">;

async function opened(rings: boolean): Promise<Runs> {
  const simulator = await Simulator.open();
  return rings ? RingSimulator.open(simulator.grounds, simulator.oracle) : simulator;
}

async function tallyOf(simulator: Runs, { from, to }: Batch): Promise<Tally> {
  const tally = emptyTally();
  for (let seed = from; seed <= to; seed++) addReport(tally, await simulator.run(seed));
  return tally;
}

/** Hands out batches to whoever is free, and adds up what comes back. */
async function spread({ from, to }: Batch, rings: boolean, nWorkers: number, onTally: (tally: Tally) => void): Promise<void> {
  let next = from;
  const take = (): Batch | null => {
    if (next > to) return null;
    const batch = { from: next, to: Math.min(to, next + BATCH - 1) };
    next = batch.to + 1;
    return batch;
  };
  if (nWorkers === 1) {
    const simulator = await opened(rings);
    for (let batch = take(); batch !== null; batch = take()) onTally(await tallyOf(simulator, batch));
    return;
  }
  await Promise.all(Array.from({ length: nWorkers }, () => new Promise<void>((resolve, reject) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: { rings } });
    const hand = (): void => {
      const batch = take();
      if (batch !== null) worker.postMessage(batch);
      else void worker.terminate().then(() => resolve());
    };
    worker.on("message", (tally: Tally | null) => {
      if (tally !== null) onTally(tally);
      hand();
    });
    worker.on("error", reject);
  })));
}

async function serveParent(port: NonNullable<typeof parentPort>): Promise<void> {
  const simulator = await opened((workerData as { rings: boolean }).rings);
  port.on("message", (batch: Batch) => void tallyOf(simulator, batch).then((tally) => port.postMessage(tally)));
  port.postMessage(null);
}

function wholeNumber(option: string, text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new Error(`Found "${text}" for ${option}, expected a whole number.`);
  return Number(text);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { seed: { type: "string" }, seeds: { type: "string" }, rings: { type: "boolean", default: false }, workers: { type: "string", default: "1" }, json: { type: "boolean", default: false }, log: { type: "boolean", default: false } },
  });
  const [first, last] = (values.seeds ?? values.seed ?? "1-1000").split("-") as [string, string | undefined];
  const seeds = { from: wholeNumber("--seeds", first), to: wholeNumber("--seeds", last ?? first) };
  if (seeds.to < seeds.from) throw new Error(`Found ${seeds.from}-${seeds.to} for --seeds, expected the lower one first.`);
  if (values.log) {
    if (values.rings) throw new Error("Found --log beside --rings; only fleets without rings have their events in words.");
    const simulator = await Simulator.open();
    for (let seed = seeds.from; seed <= seeds.to; seed++) {
      const { lines, ...report } = await simulator.run(seed, { words: true });
      console.log([...lines, JSON.stringify(report, null, 2)].join("\n"));
      if (report.problem !== null) process.exitCode = 1;
    }
    return;
  }
  const nWorkers = Math.max(1, wholeNumber("--workers", values.workers));
  const tally = emptyTally();
  const bar = new SingleBar({ format: "{bar} {value}/{total} runs, {failed} failed, {eta_formatted} to go", hideCursor: true, stream: process.stderr });
  const shows = process.stderr.isTTY && !values.json && seeds.to > seeds.from;
  if (shows) bar.start(seeds.to - seeds.from + 1, 0, { failed: 0 });
  const startMs = performance.now();
  const cpu = process.cpuUsage();
  await spread(seeds, values.rings, nWorkers, (more) => {
    addTally(tally, more);
    if (shows) bar.update(tally.runs, { failed: tally.failed });
  });
  if (shows) bar.stop();
  const seconds = (performance.now() - startMs) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const cpuMs = (user + system) / 1000 / tally.runs;
  if (values.json) console.log(JSON.stringify({ ...seeds, seconds, cpuMs, ...tally }));
  else {
    for (const line of tableOf(tally)) console.log(line);
    console.log(`${tally.runs} runs, seeds ${seeds.from} to ${seeds.to}, ${seconds.toFixed(1)} s on ${nWorkers} thread${nWorkers === 1 ? "" : "s"}, ${cpuMs.toFixed(2)} ms of CPU a run: ${tally.failed === 0 ? "nothing found" : `${tally.failed} failed`}`);
    for (const { seed, problem } of tally.failures) console.log(`Seed ${seed} failed: ${problem}\n  The same run again, event by event: npm run sim -- --seed ${seed} ${values.rings ? "--rings" : "--log"}`);
  }
  process.exitCode = tally.failed === 0 ? 0 : 1;
}

await (isMainThread ? main() : serveParent(parentPort!));
