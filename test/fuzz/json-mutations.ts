// Changes to JSON that leave it JSON (mostly): one value put in another's place, keys taken away, renamed or given twice, numbers at their
// limits, nesting without end. Owns the choice of place: a walk from the outermost value inwards, so that settings are hit as often as the
// thousands of entries of a vocabulary. Refuses to know any schema. What is no JSON stays as it is: mutations.ts damages bytes.

import type { SeededRandom } from "../support/seeded-random.ts";

type Container = Record<string, unknown> | unknown[];

/** Stands for text that JSON.stringify would not write: it is put in place of the quoted mark afterwards. */
const raw = (text: string): string => `@raw<${text}>raw@`;
const RAW = /"@raw<(.*?)>raw@"/gs;
const nested = (open: string, close: string, depth: number): string => raw(open.repeat(depth) + close.repeat(depth));

const VALUES: readonly unknown[] = [
  null, true, false, 0, 1, -1, 0.5, 255, 65536, 2 ** 24, 2 ** 31, 2 ** 32, 2 ** 53, raw("9007199254740993"), raw("1e999"), raw("-1e999"), raw("-0"), raw("1e-400"),
  "", " ", "x", "0", "1e9", "../x", "__proto__", "constructor", "\u0000", "\ud800", "\u{1f600}", "a\nb", "x".repeat(5000), "[", "(a+)+$", "<|endoftext|>",
  [], {}, [[]], [null], [0], [""], { type: "Sequence" }, Array.from({ length: 300 }, () => 0), nested("[", "]", 200), raw(`${'{"a":'.repeat(200)}1${"}".repeat(200)}`),
];

/** A changed copy, or the same bytes where they are no JSON. */
export function changeJson(bytes: Uint8Array, random: SeededRandom): Uint8Array {
  let document: unknown;
  try {
    document = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return bytes;
  }
  if (typeof document !== "object" || document === null || random.below(60) === 0) return written(pick(random, VALUES));
  const doubled = change(document as Container, random);
  const text = written(document);
  // A key given twice, which no parsed document can hold.
  if (doubled === null || Array.isArray(document)) return text;
  const twice = `{${JSON.stringify(doubled.key)}:${JSON.stringify(doubled.value) ?? "null"},`;
  return new TextEncoder().encode(twice + new TextDecoder().decode(text).slice(1));
}

const written = (value: unknown): Uint8Array => new TextEncoder().encode((JSON.stringify(value) ?? "null").replace(RAW, (_, text: string) => text.replaceAll('\\"', '"')));

const pick = <T>(random: SeededRandom, list: readonly T[]): T => list[random.below(list.length)]!;

/** Changes one value in place; gives a key of the outermost object with a value where it is to be written twice. */
function change(root: Container, random: SeededRandom): { key: string; value: unknown } | null {
  const places: [Container, string][] = [];
  let at: Container = root;
  for (;;) {
    const keys = Object.keys(at);
    if (keys.length === 0) break;
    const key = pick(random, keys);
    places.push([at, key]);
    const inner = (at as Record<string, unknown>)[key];
    if (typeof inner !== "object" || inner === null || random.below(4) === 0) break;
    at = inner as Container;
  }
  if (places.length === 0) {
    if (Array.isArray(root)) root.push(pick(random, VALUES));
    else root["x"] = pick(random, VALUES);
    return null;
  }
  const [container, key] = places.at(-1)!;
  const values = container as Record<string, unknown>;
  const value = values[key];
  switch (random.below(8)) {
    case 0: // taken away
      if (Array.isArray(container)) container.splice(Number(key), 1);
      else delete values[key];
      return null;
    case 1: { // under another name, or once more at the end
      if (Array.isArray(container)) container.push(value);
      else {
        delete values[key];
        values[pick(random, [`${key}x`, key.slice(1), key.toUpperCase(), "__proto__", "", pick(random, Object.keys(root)) ?? "only"])] = value;
      }
      return null;
    }
    case 2: { // in another's place, and that in its
      const sibling = pick(random, Object.keys(values));
      [values[key], values[sibling]] = [values[sibling], value];
      return null;
    }
    case 3: return Array.isArray(root) ? null : { key: pick(random, Object.keys(root)) ?? "only", value: random.below(2) === 0 ? value : pick(random, VALUES) };
    case 4: case 5:
      if (typeof value === "number") {
        values[key] = pick(random, [value + 1, value - 1, value * 2, -value, value / 2, value + 2 ** 32, value * 2 ** 20, Math.round(value * 1.5), String(value), raw(`${value}e30`)]);
        return null;
      }
      if (typeof value === "string") {
        const i = random.below(value.length + 1);
        values[key] = pick(random, [value.slice(0, i), value.slice(i), value + value, value.slice(0, i) + pick(random, ["\u0000", "\ud800", " ", "\\", "(", "*", "\n", "<|"]) + value.slice(i), [value]]);
        return null;
      }
      values[key] = pick(random, VALUES);
      return null;
    default:
      values[key] = pick(random, VALUES);
      return null;
  }
}
