// The page that reports stand on: one file that asks nobody for anything, light or dark as the reader's system is, readable on a telephone.
// Owns its frame and style. Refuses scripts: the content policy forbids them, and every other request.

export interface Page {
  readonly title: string;
  /** A line below the title. */
  readonly lead: string;
  /** Name and value: what matters first. */
  readonly facts: readonly (readonly [name: string, value: string])[];
  /** HTML of the sections. */
  readonly sections: readonly string[];
}

const ENTITIES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

export const escapeHtml = (text: string): string => text.replaceAll(/[&<>"']/g, (character) => ENTITIES[character]!);

/** Colours of plots, as specifications name them. `heat-0` to `heat-5`: few bits to many. */
const STYLE = `
:root { color-scheme: light dark; --paper: #fcfbf8; --card: #fff; --ink: #22201c; --soft: #6b665d; --line: #e3dfd6; --accent: #b4491f; --muted: #a39b8d; --second: #3f7f93;
  --heat-0: #f3e3cf; --heat-1: #efc48f; --heat-2: #e39a5c; --heat-3: #c96a3a; --heat-4: #963f24; --heat-5: #5a2216; }
@media (prefers-color-scheme: dark) { :root { --paper: #171614; --card: #1f1e1b; --ink: #ece8e0; --soft: #a19b8f; --line: #35322d; --accent: #f08a5d; --muted: #7d766a; --second: #7cc0d4;
  --heat-0: #33261c; --heat-1: #5c3a22; --heat-2: #8f5129; --heat-3: #c26f38; --heat-4: #ea9a5c; --heat-5: #fbd6ab; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; -webkit-text-size-adjust: 100%; overflow-wrap: anywhere; }
header, main, footer { max-width: 46rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.6rem; }
h1 { font: 600 1.5rem/1.25 "Iowan Old Style", Palatino, Georgia, "Noto Serif", serif; margin: 0; }
h2 { font-size: 1rem; margin: 0; }
p { margin: .2rem 0 .6rem; color: var(--soft); }
dl { display: grid; grid-template-columns: auto 1fr; gap: .25rem 1.2rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; }
figure, section { margin: 1.2rem 0; padding: 1rem 1.1rem; background: var(--card); border: 1px solid var(--line); border-radius: .8rem; }
svg { display: block; max-width: 100%; height: auto; }
svg.narrow { display: none; }
details { margin-top: .5rem; }
summary { cursor: pointer; color: var(--soft); }
summary:focus-visible, .table:focus-visible, pre:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.table { overflow-x: auto; max-height: 28rem; overflow-y: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: right; padding: .25rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 400; }
tbody th { font-weight: 400; }
pre { margin: .4rem 0 0; padding: .7rem .9rem; background: var(--paper); border: 1px solid var(--line); border-radius: .5rem; overflow-x: auto; overflow-wrap: normal; font: .82rem/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
footer { color: var(--soft); font-size: .84rem; padding-bottom: 1.6rem; }
@media (max-width: 46rem) { svg.wide { display: none; } svg.narrow { display: block; } figure, section { padding: .8rem .7rem; } dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } }
@media print { details { display: block; } }
`;

export const pageHtml = ({ title, lead, facts, sections }: Page): string => `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>${escapeHtml(title)}</title><link rel="icon" href="data:,"><style>${STYLE}</style></head>
<body><header><h1>${escapeHtml(title)}</h1><p>${escapeHtml(lead)}</p></header>
<main><dl>${facts.map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd>`).join("\n")}</dl>
${sections.join("\n")}</main>
<footer><p>Written by workers-moe. The same numbers are in the .json beside this page.</p></footer></body></html>
`;
