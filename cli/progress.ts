// Progress bars on stderr, one at a time. On a terminal a moving bar; elsewhere a line at the start and at the end, so that logs stay short.
// With --json nothing is shown. Refuses to write to stdout: that belongs to results.

import { Presets, SingleBar } from "cli-progress";

export interface Progress {
  /** Work done so far, in the unit of `total`; `now`: what is being done, where that is worth a word. */
  update(done: number, now?: string): void;
  /** Must be called once, also when the work failed. */
  stop(): void;
}

export interface ProgressOptions {
  readonly label: string;
  readonly total: number;
  /** What is counted: "tokens", "MiB". */
  readonly unit: string;
  readonly quiet: boolean;
}

export function startProgress({ label, total, unit, quiet }: ProgressOptions): Progress {
  if (quiet) return { update() {}, stop() {} };
  if (!process.stderr.isTTY) {
    process.stderr.write(`${label} …\n`);
    let last = 0;
    let said: string | undefined;
    const start = performance.now();
    return {
      update: (done, now) => {
        last = done;
        if (now !== undefined && now !== said) process.stderr.write(`${label}: ${now}\n`);
        said = now;
      },
      stop: () => void process.stderr.write(`${label}: ${format(last)} of ${format(total)} ${unit} in ${format(Math.round((performance.now() - start) / 100) / 10)} s\n`),
    };
  }
  const bar = new SingleBar({
    format: `${label} {bar} {percentage} % | {shown} of ${format(total)} ${unit} | {rate} ${unit}/s | {eta_formatted}{now}`,
    stream: process.stderr, hideCursor: true, clearOnComplete: false,
  }, Presets.shades_classic);
  bar.start(total, 0, { shown: format(0), rate: "-", now: "" });
  const rateAt = recentRate();
  return {
    update: (done, now) => bar.update(done, { shown: format(done), rate: format(Math.round(10 * rateAt(done)) / 10), now: now === undefined ? "" : ` | ${now}` }),
    stop: () => bar.stop(),
  };
}

/** Units a second over the last ten seconds: what went fast at first (parts kept of an earlier run) says nothing of what comes. */
function recentRate(): (done: number) => number {
  const samples: [atMs: number, done: number][] = [[performance.now(), 0]];
  return (done) => {
    const now = performance.now();
    if (now - samples.at(-1)![0] > 100) samples.push([now, done]);
    while (samples.length > 2 && now - samples[0]![0] > 10_000) samples.shift();
    const [since, before] = samples[0]!;
    return now === since ? 0 : (1000 * (done - before)) / (now - since);
  };
}

const format = (n: number): string => (Number.isInteger(n) ? String(n) : n.toFixed(1));
