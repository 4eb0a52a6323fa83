// A thread that ends the process when one case does not: nothing in the same thread could say so. Owns the shared words that say what is running.
// Refuses to guess why: it prints how to run that case alone.

import { writeSync } from "node:fs";
import { Worker, isMainThread, workerData } from "node:worker_threads";

/** A case that runs longer than this will not end. */
const HANG_MS = 30_000;

export interface Watchdog {
  /** Notes that this case of this target is about to run. */
  note(target: number, number: number): void;
  stop(): Promise<void>;
}

export function startWatchdog(names: readonly string[], seed: number): Watchdog {
  const words = new Int32Array(new SharedArrayBuffer(8));
  const worker = new Worker(new URL(import.meta.url), { workerData: { words, names, seed } });
  return {
    note(target, number) {
      Atomics.store(words, 0, target);
      Atomics.store(words, 1, number);
    },
    stop: async () => void (await worker.terminate()),
  };
}

if (!isMainThread) {
  const { words, names, seed } = workerData as { words: Int32Array; names: readonly string[]; seed: number };
  let last = -1;
  setInterval(() => {
    const number = Atomics.load(words, 1);
    if (number === last) {
      const name = names[Atomics.load(words, 0)];
      writeSync(2, `Case ${number} of ${name} has run for ${HANG_MS / 1000} s. Alone: npm run fuzz -- --target ${name} --seed ${seed} --from ${number} --cases 1\n`);
      process.kill(process.pid, "SIGKILL");
    }
    last = number;
  }, HANG_MS);
}
