// Puts the measured tables into docs/compression.md, between the marks of a model and a group, and their plots beside it. Refuses a page without the marks.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Document, type Figure, figuresOf, plot, table } from "./tables.ts";

/** Groups that have a plot, and its title. */
const PLOTS: Readonly<Record<string, string>> = { widths: "8 and 4 bits", mixed: "experts of 2 to 4 bits", merge: "fewer experts" };

/** `page` with what stands between the marks of `key` replaced. Throws where there are none. */
export function filled(page: string, key: string, text: string): string {
  const [begin, end] = [`<!-- ${key}: begin -->`, `<!-- ${key}: end -->`];
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`The page has no marks "${begin}" and "${end}" one after the other.`);
  return `${page.slice(0, from + begin.length)}\n${text}\n${page.slice(to)}`;
}

export async function writePages(document: Document, docs: string): Promise<void> {
  const path = join(docs, "compression.md");
  let page = readFileSync(path, "utf8");
  const byGroup = Map.groupBy(figuresOf(document), ({ group }: Figure) => group);
  for (const [group, figures] of byGroup) {
    const title = PLOTS[group];
    const name = `${document.model}-${group}.svg`;
    if (title !== undefined) {
      mkdirSync(join(docs, "compression"), { recursive: true });
      writeFileSync(join(docs, "compression", name), `${await plot(figures, `${document.model}: ${title}`)}\n`);
    }
    page = filled(page, `${document.model} ${group}`, `${table(figures)}${title === undefined ? "" : `\n\n![${document.model}: ${title}, size against perplexity](compression/${name})`}`);
  }
  writeFileSync(path, page);
}
