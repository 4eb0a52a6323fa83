// `node test/api-page.ts [--write]`: the generated parts of docs/api.md: endpoints, fields with type, range, default and meaning, errors, and field -> test.
// All of it comes from the OpenAPI document (worker/openapi.ts) and test/support/conformance.ts. --write puts it into the page instead of printing it.
// Refuses words of its own about fields: they stand in the schemas.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../cli/setup.mjs";
import { ENDPOINTS, ERROR_MEANINGS, errorsOf, openApiDocument, type SchemaName } from "../worker/openapi.ts";
import { CONFORMANCE, refusalsIn } from "./support/conformance.ts";

interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly default?: unknown;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly items?: Schema;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: Schema | boolean;
  readonly required?: readonly string[];
  readonly pattern?: string;
  readonly [limit: string]: unknown;
}
const schemas = (openApiDocument()["components"] as { schemas: Readonly<Record<string, Schema>> }).schemas;

const cell = (text: string): string => text.replaceAll("|", "\\|").replaceAll("\n", " ");
const table = (rows: readonly (readonly string[])[]): string => {
  const [head, ...body] = rows;
  return [head!, head!.map(() => "---"), ...body].map((row) => `| ${row.map(cell).join(" | ")} |\n`).join("");
};
const code = (text: string): string => `\`${text}\``;
const heading = (name: string): string => name.replace(/(?<=[a-z])(?=[A-Z])/g, " ").toLowerCase();
const anchor = (name: string): string => `[${heading(name)}](#${heading(name).replaceAll(" ", "-")})`;

/** " (1 to 5 entries)", or nothing. */
function range(schema: Schema): string {
  const of = (low: string, high: string, unit: string): string[] => {
    const [from, to] = [schema[low], schema[high]];
    if (from === undefined && to === undefined) return [];
    return [`${from === undefined ? `at most ${String(to)}` : to === undefined ? `at least ${String(from)}` : `${String(from)} to ${String(to)}`}${unit}`];
  };
  const above = schema["exclusiveMinimum"] === undefined ? of("minimum", "maximum", "") : [`above ${String(schema["exclusiveMinimum"])}, at most ${String(schema["maximum"])}`];
  const limits = [...above, ...of("minLength", "maxLength", " characters"), ...of("minItems", "maxItems", " entries")];
  return limits.length === 0 ? "" : ` (${limits.join(", ")})`;
}

/** A type in words. Objects' fields have rows of their own. */
function typeOf(schema: Schema): string {
  if (schema.$ref !== undefined) return anchor(schema.$ref.split("/").at(-1)!);
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices !== undefined) return [...new Set(choices.filter((choice) => choice.type !== "null").map(typeOf))].join(" or ");
  if (schema.const !== undefined) return code(JSON.stringify(schema.const));
  if (schema.enum !== undefined) return schema.enum.map((value) => code(JSON.stringify(value))).join(", ");
  const types = (Array.isArray(schema.type) ? schema.type as readonly string[] : [schema.type as string | undefined]).filter((type) => type !== "null");
  if (types[0] === undefined) return "anything";
  if (types[0] === "array") return `array${range(schema)} of ${typeOf(schema.items ?? {})}`;
  if (types[0] === "object") {
    const fields = Object.entries(schema.properties ?? {});
    if (fields.length > 0) return `{ ${fields.map(([name, of]) => `${code(name)}${schema.required?.includes(name) ? "" : "?"}${of.const === undefined ? "" : `: ${code(JSON.stringify(of.const))}`}`).join(", ")} }`;
    return typeof schema.additionalProperties === "object" && Object.keys(schema.additionalProperties).length > 0 ? `object of ${typeOf(schema.additionalProperties)}` : "object";
  }
  return `${types.join(" or ")}${range(schema)}`;
}

/** Objects inside a field, one level at a time, by their path. */
function inner(path: string, schema: Schema): [string, Schema, boolean][] {
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices !== undefined) return choices.flatMap((choice) => inner(path, choice));
  if (schema.items !== undefined) return inner(`${path}[]`, schema.items);
  return Object.entries(schema.properties ?? {}).flatMap(([name, of]) => [[`${path}.${name}`, of, schema.required?.includes(name) === true] as [string, Schema, boolean], ...inner(`${path}.${name}`, of)]);
}

function fieldTable(name: string): string {
  const { properties = {}, required = [] } = schemas[name]!;
  const rows = Object.entries(properties).flatMap(([field, schema]) =>
    // Of what lies inside, the parts that say something: the rest is in the type.
    [[field, schema, required.includes(field)] as [string, Schema, boolean], ...inner(field, schema).filter(([, { description }]) => description !== undefined)]);
  const seen = new Set<string>();
  return table([["field", "type", "default", "meaning"], ...rows.flatMap(([path, schema, isRequired]) => {
    if (seen.has(path)) return [];
    seen.add(path);
    return [[code(path), typeOf(schema), schema.default === undefined ? (isRequired ? "required" : "") : code(JSON.stringify(schema.default)), schema.description ?? ""]];
  })]);
}

const requests = [...new Set(ENDPOINTS.flatMap(({ request }) => (request === undefined ? [] : [request])))];

const endpointTable = (): string => table([
  ["endpoint", "", "request", "reply", "event of a stream", "errors", "scope"],
  ...ENDPOINTS.map((endpoint) => ({ ...endpoint, statuses: errorsOf(endpoint) })).map(({ method, path, summary, request, reply, event, isPublic, needsAdmin, statuses }) => [
    code(`${method.toUpperCase()} ${path}`), summary, request === undefined ? "" : anchor(request), typeof reply === "string" ? anchor(reply) : reply.mediaType, event === undefined ? "" : anchor(event),
    statuses.join(", "), isPublic ? "no key" : needsAdmin ? "admin" : "infer",
  ]),
]);
const requestTables = (): string => [...requests, "MoeExtensions"].map((name) => `### ${heading(name)[0]!.toUpperCase()}${heading(name).slice(1)}\n${fieldTable(name)}`).join("\n");
const replyTables = (): string => {
  const names = Object.keys(schemas).filter((name) => !requests.includes(name as SchemaName) && name !== "MoeExtensions");
  return names.map((name) => {
    const schema = schemas[name]!;
    const variants = schema.oneOf ?? schema.anyOf;
    const body = variants === undefined ? fieldTable(name) : table([["one of"], ...variants.map((variant) => [typeOf(variant)])]);
    return `### ${heading(name)[0]!.toUpperCase()}${heading(name).slice(1)}\n${schema.description === undefined ? "" : `${schema.description}\n\n`}${body}`;
  }).join("\n");
};
const errorTable = (): string => table([["status", "meaning"], ...Object.entries(ERROR_MEANINGS).map(([status, meaning]) => [status, meaning])]);

const API_TESTS = "test/workerd/api-refusals.test.ts";
function conformanceTable(): string {
  const refused = refusalsIn(readFileSync(join(ROOT, API_TESTS), "utf8"));
  return [...requests, "MoeExtensions" as const].map((name) => {
    const fieldsOf = Object.keys(schemas[name]!.properties ?? {});
    const isOpenAi = name === "ChatCompletionRequest" || name === "CompletionRequest";
    return `**${heading(name)[0]!.toUpperCase()}${heading(name).slice(1)}**\n\n${table([
      ["field", "tests", ...(isOpenAi ? [`refused in ${code(API_TESTS)}`] : [])],
      ...fieldsOf.map((field) => [code(field), (CONFORMANCE[name]?.[field] ?? []).map(code).join("; "), ...(isOpenAi ? [(refused.get(field) ?? []).join("; ")] : [])]),
    ])}`;
  }).join("\n");
}

const PAGE = join(ROOT, "docs/api.md");
const PARTS = { endpoints: endpointTable, requests: requestTables, replies: replyTables, errors: errorTable, conformance: conformanceTable } as const;
const marks = (name: string): readonly [string, string] => [`<!-- ${name}: made by \`node test/api-page.ts --write\` -->\n`, `<!-- end of ${name} -->`];

function between(text: string, name: string): string {
  const [begin, end] = marks(name);
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`docs/api.md has no place for "${name}"; expected the lines ${begin.trim()} and ${end}.`);
  return text.slice(from + begin.length, to);
}

/** A part as the page has it, and as it is computed. */
export const parts = (): { readonly name: string; readonly written: string; readonly computed: string }[] =>
  Object.entries(PARTS).map(([name, compute]) => ({ name, written: between(readFileSync(PAGE, "utf8"), name), computed: compute() }));

/** Fields of requests: [schema, field]. */
export const requestFields = (): (readonly [SchemaName, string])[] =>
  [...requests, "MoeExtensions" as const].flatMap((name) => Object.keys(schemas[name]!.properties ?? {}).map((field) => [name, field] as const));

if (import.meta.main) {
  if (!process.argv.includes("--write")) for (const compute of Object.values(PARTS)) process.stdout.write(`${compute()}\n`);
  else {
    let page = readFileSync(PAGE, "utf8");
    for (const [name, compute] of Object.entries(PARTS)) page = page.replace(marks(name)[0] + between(page, name), () => marks(name)[0] + compute());
    writeFileSync(PAGE, page);
  }
}
