// The fields of the form that hold JSON: tools, and the schema of an answer. Owns what is checked of them while they are typed, in whole sentences, and the
// examples to start from. Refuses the DOM (settings.ts) and what only the server can judge: whether it knows each word of a schema.

export const TOOLS_EXAMPLE = `[
  {
    "type": "function",
    "function": {
      "name": "get_weather",
      "description": "The weather in a town.",
      "parameters": {
        "type": "object",
        "properties": {
          "town": { "type": "string", "maxLength": 20 },
          "unit": { "enum": ["celsius", "fahrenheit"] }
        },
        "required": ["town", "unit"]
      }
    }
  }
]`;

const SCHEMA_EXAMPLE = `{
  "type": "object",
  "properties": {
    "name": { "type": "string", "maxLength": 12 },
    "age": { "type": "integer", "minimum": 1, "maximum": 120 },
    "likes": { "enum": ["cats", "tea", "rain"] }
  },
  "required": ["name", "age", "likes"]
}`;
/** By the choice of a shape that has a text of its own. */
export const SHAPE_EXAMPLES: Readonly<Record<string, string>> = { json_schema: SCHEMA_EXAMPLE, grammar: "root ::= (\"yes\" | \"no\") \", because \" [a-z ]{10,40} \".\"" };

type JsonObject = Readonly<Record<string, unknown>>;
const isObject = (value: unknown): value is JsonObject => typeof value === "object" && value !== null && !Array.isArray(value);
const kindOf = (value: unknown): string => (value === null ? "null" : Array.isArray(value) ? "an array" : typeof value === "object" ? "an object" : value === undefined ? "missing" : JSON.stringify(value));

function parsed(name: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Error(`${name} not JSON: ${cause instanceof Error ? cause.message : String(cause)}.`);
  }
}

/** Tools as the API takes them; none for an empty text. Throws an Error whose message says what was found and expected. */
export function toolsIn(text: string): readonly unknown[] {
  if (text.trim() === "") return [];
  const tools = parsed("The tools are", text);
  if (!Array.isArray(tools)) throw new Error(`The tools are ${kindOf(tools)}; expected an array such as [{"type": "function", "function": {"name": "…"}}].`);
  tools.forEach((tool: unknown, i) => {
    const at = `Tool ${i + 1}`;
    if (!isObject(tool)) throw new Error(`${at} is ${kindOf(tool)}; expected an object {"type": "function", "function": {"name": "…"}}.`);
    if (tool["type"] !== "function") throw new Error(`The type of tool ${i + 1} is ${kindOf(tool["type"])}; expected "function".`);
    const made = tool["function"];
    if (!isObject(made)) throw new Error(`The function of tool ${i + 1} is ${kindOf(made)}; expected an object with a name.`);
    if (typeof made["name"] !== "string" || made["name"] === "") throw new Error(`The name of tool ${i + 1} is ${kindOf(made["name"])}; expected a text of at least one letter.`);
    if (made["parameters"] != null && !isObject(made["parameters"])) throw new Error(`The parameters of the tool "${made["name"]}" are ${kindOf(made["parameters"])}; expected a JSON schema as an object.`);
  });
  return tools;
}

/** The text of a shape as a part of the request. Throws an Error whose message says what was found and expected. */
export function shapeIn(kind: string, text: string): JsonObject {
  switch (kind) {
    case "json_object":
      return { response_format: { type: "json_object" } };
    case "json_schema": {
      const schema = parsed("The schema is", text);
      if (!isObject(schema)) throw new Error(`The schema is ${kindOf(schema)}; expected an object such as {"type": "object", "properties": {…}}.`);
      return { response_format: { type: "json_schema", json_schema: { name: "answer", strict: true, schema } } };
    }
    case "grammar":
      if (text.trim() === "") throw new Error("The grammar is empty; expected rules, the first of them called root.");
      return { grammar: text };
    default:
      return {};
  }
}

/** Why a text is refused; empty where it is taken. */
export function problemWith(read: () => unknown): string {
  try {
    read();
    return "";
  } catch (cause) {
    return cause instanceof Error ? cause.message : String(cause);
  }
}
