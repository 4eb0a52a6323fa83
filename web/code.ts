// The request of the page as code to copy: curl, and the `openai` client in Node and Python. Owns the quoting for each of them.
// Refuses secrets: a key is always read from the environment. Fields the Python client does not know go into its `extra_body`.

import type { Asked } from "./request.ts";

export type Language = "curl" | "node" | "python";

/** Of the fields the page sends, those that are not OpenAI's. */
const EXTENSIONS = new Set(["top_k", "min_p", "typical_p", "repetition_penalty", "grammar", "moe"]);

export function codeFor(language: Language, origin: string, asked: Asked, needsKey: boolean): string {
  const body = { ...asked.body, stream: true };
  switch (language) {
    case "curl":
      return curl(`${origin}${asked.path}`, body, needsKey);
    case "node":
      return node(`${origin}/v1`, asked.path, body, needsKey);
    case "python":
      return python(`${origin}/v1`, asked.path, body, needsKey);
  }
}

const shellQuoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

function curl(url: string, body: object, needsKey: boolean): string {
  const lines = [`curl --no-buffer ${shellQuoted(url)}`, "-H 'Content-Type: application/json'"];
  if (needsKey) lines.push("-H \"Authorization: Bearer $API_KEY\"");
  lines.push(`-d ${shellQuoted(JSON.stringify(body, null, 2))}`);
  return `${lines.join(" \\\n  ")}\n`;
}

const isChat = (path: Asked["path"]): boolean => path === "/v1/chat/completions";
const method = (path: Asked["path"]): string => (isChat(path) ? "client.chat.completions.create" : "client.completions.create");

function node(baseUrl: string, path: Asked["path"], body: object, needsKey: boolean): string {
  const piece = isChat(path) ? "chunk.choices[0]?.delta.content" : "chunk.choices[0]?.text";
  const calls = "tools" in body ? `
  for (const call of chunk.choices[0]?.delta.tool_calls ?? []) {
    process.stdout.write((call.function?.name ?? "") + (call.function?.arguments ?? ""));
  }` : "";
  return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: ${JSON.stringify(baseUrl)}, apiKey: ${needsKey ? "process.env.API_KEY" : "\"none\""} });

const stream = await ${method(path)}(${JSON.stringify(body, null, 2)});

for await (const chunk of stream) {
  process.stdout.write(${piece} ?? "");${calls}
}
`;
}

function python(baseUrl: string, path: Asked["path"], body: Readonly<Record<string, unknown>>, needsKey: boolean): string {
  const known = Object.entries(body).filter(([name]) => !EXTENSIONS.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => EXTENSIONS.has(name)));
  const given = [...known, ...(Object.keys(extra).length === 0 ? [] : [["extra_body", extra] as const])];
  const piece = isChat(path) ? "chunk.choices[0].delta.content" : "chunk.choices[0].text";
  const calls = "tools" in body ? `
        for call in chunk.choices[0].delta.tool_calls or []:
            print((call.function.name or "") + (call.function.arguments or ""), end="", flush=True)` : "";
  return `${needsKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(baseUrl)}, api_key=${needsKey ? "os.environ[\"API_KEY\"]" : "\"none\""})

stream = ${method(path)}(
${given.map(([name, value]) => `    ${name}=${pythonLiteral(value, "    ")},\n`).join("")})

for chunk in stream:
    if chunk.choices:
        print(${piece} or "", end="", flush=True)${calls}
`;
}

/** JSON as Python writes it: the same strings and numbers, other names for true, false and null. */
function pythonLiteral(value: unknown, indent: string): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const entries = Array.isArray(value)
    ? value.map((entry) => pythonLiteral(entry, inner))
    : Object.entries(value).map(([name, entry]) => `${JSON.stringify(name)}: ${pythonLiteral(entry, inner)}`);
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  return entries.length === 0 ? `${open}${close}` : `${open}\n${entries.map((entry) => `${inner}${entry},\n`).join("")}${indent}${close}`;
}
