// Metrics as text that Prometheus reads: its exposition format 0.0.4 (2026-11). Owns the form of lines and the prefix of names.
// Refuses to keep anything, and two families of one name: their lines must stand together.

import type { Histogram } from "./histogram.ts";

export const METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";
const PREFIX = "workers_moe_";

export type Labels = Readonly<Record<string, string | number>>;
export interface Sample {
  readonly labels?: Labels;
  readonly value: number;
}

export class MetricsText {
  readonly #lines: string[] = [];
  readonly #names = new Set<string>();

  /** What only ever grows, until the isolate that counts starts anew. Its name ends with _total. */
  counter(name: string, help: string, samples: number | readonly Sample[]): this {
    return this.#family(name, "counter", help, samples);
  }

  gauge(name: string, help: string, samples: number | readonly Sample[]): this {
    return this.#family(name, "gauge", help, samples);
  }

  histogram(name: string, help: string, series: readonly { readonly labels?: Labels; readonly of: Histogram }[]): this {
    this.#head(name, "histogram", help);
    for (const { labels = {}, of } of series) {
      let count = 0;
      of.counts.forEach((n, bucket) => {
        count += n;
        this.#sample(`${name}_bucket`, { ...labels, le: of.bounds[bucket] ?? "+Inf" }, count);
      });
      this.#sample(`${name}_sum`, labels, of.sum);
      this.#sample(`${name}_count`, labels, count);
    }
    return this;
  }

  toString(): string {
    return this.#lines.join("");
  }

  #family(name: string, type: string, help: string, samples: number | readonly Sample[]): this {
    this.#head(name, type, help);
    for (const { labels = {}, value } of typeof samples === "number" ? [{ value: samples }] : samples) this.#sample(name, labels, value);
    return this;
  }

  #head(name: string, type: string, help: string): void {
    if (this.#names.has(name)) throw new Error(`The metric ${name} was written twice; expected all its samples at once.`);
    this.#names.add(name);
    this.#lines.push(`# HELP ${PREFIX}${name} ${help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")}\n# TYPE ${PREFIX}${name} ${type}\n`);
  }

  #sample(name: string, labels: Labels, value: number): void {
    const pairs = Object.entries(labels).map(([key, label]) => `${key}="${String(label).replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll('"', '\\"')}"`);
    this.#lines.push(`${PREFIX}${name}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`} ${value}\n`);
  }
}

/** Samples of counts by the value of one label. */
export const byLabel = (label: string, counts: ReadonlyMap<string, number>): Sample[] =>
  Array.from(counts, ([key, value]) => ({ labels: { [label]: key }, value }));

export const increment = (counts: Map<string, number>, key: string): void => void counts.set(key, (counts.get(key) ?? 0) + 1);
