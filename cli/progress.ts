// Progress bars on stderr, one at a time. On a terminal a moving bar; elsewhere a line at the start and at the end, so that logs stay short.
// With --json nothing is shown. Refuses to write to stdout: that belongs to results.

import { Presets, SingleBar } from "cli-progress";

export interface Progress {
  /** Work done so far, in the unit of `total`. */
  update(done: number): void;
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
    return {
      update: (done) => void (last = done),
      stop: () => void process.stderr.write(`${label}: ${format(last)} of ${format(total)} ${unit}\n`),
    };
  }
  const bar = new SingleBar({
    format: `${label} {bar} {percentage} % | {shown} of ${format(total)} ${unit} | {eta_formatted}`,
    stream: process.stderr, hideCursor: true, clearOnComplete: false,
  }, Presets.shades_classic);
  bar.start(total, 0, { shown: format(0) });
  return {
    update: (done) => bar.update(done, { shown: format(done) }),
    stop: () => bar.stop(),
  };
}

const format = (n: number): string => (Number.isInteger(n) ? String(n) : n.toFixed(1));
