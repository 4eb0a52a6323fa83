// `npm run sim -- --seed N | --seeds FROM-TO [--rings] [--steered] [--workers N] [--json] [--log]`: simulated fleets under faults (run.ts), or rings of stages (ring.ts), one run per seed; with --steered readers intervene in routing.
// Owns the seeds' spread over threads, the progress bar, the table and the exit status: 1 with the failing seeds, and how to see one of them again.
// Refuses chance: what a seed does depends on nothing else.

import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { SingleBar } from "cli-progress";
import { Command, InvalidArgumentError, Option } from "commander";
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

interface Kind {
  readonly rings: boolean;
  readonly steered: boolean;
}

async function opened({ rings, steered }: Kind): Promise<(seed: number) => ReturnType<Runs["run"]>> {
  const simulator = await Simulator.open();
  const runs: Runs = rings ? await RingSimulator.open(simulator.grounds, simulator.oracle) : simulator;
  return (seed) => runs.run(seed, { steered });
}

async function tallyOf(run: Awaited<ReturnType<typeof opened>>, { from, to }: Batch): Promise<Tally> {
  const tally = emptyTally();
  for (let seed = from; seed <= to; seed++) addReport(tally, await run(seed));
  return tally;
}

/** Hands out batches to whoever is free, and adds up what comes back. */
async function spread({ from, to }: Batch, kind: Kind, nWorkers: number, onTally: (tally: Tally) => void): Promise<void> {
  let next = from;
  const take = (): Batch | null => {
    if (next > to) return null;
    const batch = { from: next, to: Math.min(to, next + BATCH - 1) };
    next = batch.to + 1;
    return batch;
  };
  if (nWorkers === 1) {
    const run = await opened(kind);
    for (let batch = take(); batch !== null; batch = take()) onTally(await tallyOf(run, batch));
    return;
  }
  await Promise.all(Array.from({ length: nWorkers }, () => new Promise<void>((resolve, reject) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: kind });
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
  const run = await opened(workerData as Kind);
  port.on("message", (batch: Batch) => void tallyOf(run, batch).then((tally) => port.postMessage(tally)));
  port.postMessage(null);
}

/** "7" or "1-1000". */
function seedsOf(text: string): Batch {
  const [first, last = first] = text.split("-");
  if (!/^\d{1,15}(-\d{1,15})?$/.test(text) || Number(first) > Number(last)) throw new InvalidArgumentError("Expected a whole number, or two with - between them, the lower one first.");
  return { from: Number(first), to: Number(last) };
}

function threadsOf(text: string): number {
  if (!/^[1-9]\d{0,2}$/.test(text)) throw new InvalidArgumentError("Expected a whole number above 0.");
  return Number(text);
}

interface Options {
  readonly seed?: Batch;
  readonly seeds: Batch;
  readonly rings: boolean;
  readonly steered: boolean;
  readonly workers: number;
  readonly json: boolean;
  readonly log: boolean;
}

async function main(): Promise<void> {
  const values = new Command("npm run sim --").description("Runs simulated fleets under seeded faults: kills, slow and lost frames, wrong answers, changes of the plan. Each answer must be right or a clean error.")
    .addOption(new Option("--seed <n>", "one run").argParser(seedsOf).conflicts("seeds"))
    .addOption(new Option("--seeds <from-to>", "runs").argParser(seedsOf).default({ from: 1, to: 1000 }, "1-1000"))
    .option("--rings", "rings of stages instead of fleets", false)
    .option("--steered", "readers ask for interventions and pruning too", false)
    .option("--workers <n>", "threads", threadsOf, 1)
    .option("--json", "print one JSON document", false)
    .option("--log", "print every event of every run; not of rings", false)
    .parse().opts<Options>();
  const seeds = values.seed ?? values.seeds;
  if (values.log) {
    if (values.rings) throw new Error("Found --log beside --rings; only fleets without rings have their events in words.");
    const simulator = await Simulator.open();
    for (let seed = seeds.from; seed <= seeds.to; seed++) {
      const { lines, ...report } = await simulator.run(seed, { words: true, steered: values.steered });
      console.log([...lines, JSON.stringify(report, null, 2)].join("\n"));
      if (report.problem !== null) process.exitCode = 1;
    }
    return;
  }
  const nWorkers = values.workers;
  const tally = emptyTally();
  const bar = new SingleBar({ format: "{bar} {value}/{total} runs, {failed} failed, {eta_formatted} to go", hideCursor: true, stream: process.stderr });
  const shows = process.stderr.isTTY && !values.json && seeds.to > seeds.from;
  if (shows) bar.start(seeds.to - seeds.from + 1, 0, { failed: 0 });
  const startMs = performance.now();
  const cpu = process.cpuUsage();
  await spread(seeds, values, nWorkers, (more) => {
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
    for (const { seed, problem } of tally.failures) console.log(`Seed ${seed} failed: ${problem}\n  The same run again, event by event: npm run sim -- --seed ${seed} ${values.rings ? "--rings" : "--log"}${values.steered ? " --steered" : ""}`);
  }
  process.exitCode = tally.failed === 0 ? 0 : 1;
}

await (isMainThread ? main() : serveParent(parentPort!));
