// The rules of a grammar as the library writes them, one a line: equal ones become one, those that nothing reaches go. Owns this text alone; what it
// describes stays the same. Why: compiling takes time for every place in every rule (a string of at most 40 characters is 40 rules), on the thread of
// the token loop. Merged, all limited strings of a schema share the rules of the longest. Refuses nothing: a line that is no rule stays as it is.

/** A comment, a literal, a class, or a name. */
const PIECES = /#[^\n]*|"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|([A-Za-z_][\w-]*)/g;
const RULE = /^([A-Za-z_][\w-]*) ::= (.*)$/;
const ROOT = "root";

const renamed = (body: string, names: ReadonlyMap<string, string>): string => body.replace(PIECES, (whole, name?: string) => (name === undefined ? whole : names.get(name) ?? name));
const namesIn = (body: string): string[] => [...body.matchAll(PIECES)].flatMap(([, name]) => name ?? []);

export function mergedRules(grammar: string): string {
  const rules = new Map<string, string>();
  for (const line of grammar.split("\n")) {
    if (line.trim() === "") continue;
    const [, name, body] = RULE.exec(line) ?? [];
    if (name === undefined || rules.has(name)) return grammar;
    rules.set(name, body!);
  }
  // Rules mostly refer to later ones, so going backwards merges a whole chain at once.
  for (let before = -1; before !== rules.size;) {
    before = rules.size;
    const nameOf = new Map<string, string>();
    const names = new Map<string, string>();
    for (const [name, body] of [...rules].reverse()) {
      const own = renamed(body, names);
      rules.set(name, own);
      const same = nameOf.get(own);
      if (same === undefined || name === ROOT) nameOf.set(own, name);
      else {
        names.set(name, same);
        rules.delete(name);
      }
    }
    for (const [name, body] of rules) rules.set(name, renamed(body, names));
  }
  const reached = new Set([ROOT]);
  for (const name of reached) for (const next of namesIn(rules.get(name) ?? "")) if (rules.has(next)) reached.add(next);
  return [...rules].filter(([name]) => reached.has(name)).map(([name, body]) => `${name} ::= ${body}\n`).join("");
}
