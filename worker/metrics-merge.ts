// Texts of several orchestrators for one scrape: each family once, every sample with the labels of whom it is. Owns that merge of Prometheus' text format
// (version 0.0.4, as durable/metrics-text.ts writes it). Refuses sums: whoever reads them adds up over labels.

import { type Labels, MetricsText } from "../durable/metrics-text.ts";

interface Family {
  readonly head: string[];
  readonly samples: string[];
}

/** A text without labels of its own is taken as it is. */
export function mergedMetrics(texts: readonly { readonly labels: Labels; readonly text: string }[]): string {
  const families = new Map<string, Family>();
  for (const { labels, text } of texts) {
    const own = Object.entries(labels).map(([name, value]) => `${name}="${value}"`).join(",");
    let family: Family | null = null;
    for (const line of text.split("\n")) {
      if (line === "") continue;
      const [, name] = /^# (?:HELP|TYPE) (\S+)/.exec(line) ?? [];
      if (name !== undefined) {
        family = families.get(name) ?? { head: [], samples: [] };
        families.set(name, family);
        if (!family.head.includes(line)) family.head.push(line);
        continue;
      }
      family!.samples.push(own === "" ? line : line.replace(/^([^\s{]+)(?:\{([^}]*)\})?/, (_, metric: string, given: string | undefined) => `${metric}{${own}${given === undefined || given === "" ? "" : `,${given}`}}`));
    }
  }
  return [...families.values()].flatMap(({ head, samples }) => [...head, ...samples]).map((line) => `${line}\n`).join("");
}

/** Whether each orchestrator answered. */
export const upMetrics = (lanes: readonly { readonly labels: Labels; readonly isUp: boolean }[]): string =>
  new MetricsText().gauge("orchestrator_up", "1 where the orchestrator answered this scrape.", lanes.map(({ labels, isUp }) => ({ labels, value: isUp ? 1 : 0 }))).toString();
