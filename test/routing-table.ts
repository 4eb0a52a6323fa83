// `node test/routing-table.ts [--write]`: the table of kinds in docs/routing.md, made of the registry (model/routing-kinds.ts) and of the golden cases (support/routing-cases.ts,
// fixtures/routing-golden.json). --write puts it into the page instead of printing it. Owns the words of the table. Refuses a kind without a case: the types do.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../cli/setup.mjs";
import { kindsOf, ROUTING_KINDS, type RoutingKindName, TRAINING_ONLY } from "../model/routing-kinds.ts";
import { ROUTING_CASES } from "./support/routing-cases.ts";
import { goldenRoutings } from "./support/routing-golden.ts";

const PAGE = join(ROOT, "docs/routing.md");
const [BEGIN, END] = ["<!-- kinds: begin -->", "<!-- kinds: end -->"];

/** The part of the page between its marks. */
export function routingTable(): string {
  const goldens = goldenRoutings().map(({ name, config }) => ({ name, kinds: kindsOf(config) }));
  const rows = Object.entries(ROUTING_KINDS).flatMap(([stage, kinds]) => Object.entries(kinds).map(([kind, { does, source }]) => {
    const against = goldens.filter(({ kinds: has }) => has.includes(`${stage}:${kind}` as RoutingKindName)).length;
    return `| ${stage} | \`${kind}\` | ${does} | ${source ?? ""} | ${against === 0 ? "definition" : `definition, ${against} of PyTorch`} |\n`;
  }));
  const families = Object.entries(TRAINING_ONLY).map(([family, why]) => `| ${family} | ${why} |\n`);
  return `| stage | kind | what it does | source | golden models |\n|---|---|---|---|---|\n${rows.join("")}\n${Object.keys(ROUTING_CASES).length} kinds. Families of gates that only training knows:\n\n| family | why there is nothing to serve |\n|---|---|\n${families.join("")}`;
}

/** The page with the table of now. */
export function pageWithTable(page: string): string {
  const [before, rest] = page.split(BEGIN);
  const after = rest?.split(END)[1];
  if (before === undefined || after === undefined) throw new Error(`docs/routing.md has no place for the table; expected ${BEGIN} and ${END}.`);
  return `${before}${BEGIN}\n${routingTable()}${END}${after}`;
}

if (import.meta.main) {
  if (process.argv.includes("--write")) writeFileSync(PAGE, pageWithTable(readFileSync(PAGE, "utf8")));
  else process.stdout.write(routingTable());
}
