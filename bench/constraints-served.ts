// What a constraint adds to a token of the demo model as it is served: bare Miniflare, four shards, one request at a time, with and without in turn.
// Owns the requests and the time per token, which is the server's own (`moe.timings`, whole milliseconds over the reply). Refuses short replies.

import { join } from "node:path";
import { ROOT } from "../cli/setup.mjs";
import { startServer } from "./serving.ts";
import { median, rounded } from "./statistics.ts";

const ROUNDS = 40;
const TOKENS = 256;

/** Each leaves room for as many tokens as are asked for. */
const CASES: Readonly<Record<string, object>> = {
  "json_schema, a list of objects": { response_format: { type: "json_schema", json_schema: { strict: true, schema: { type: "array", minItems: 200, items: { type: "object", properties: { name: { type: "string", minLength: 8 }, n: { type: "integer" } }, required: ["name", "n"], additionalProperties: false } } } } },
  "GBNF, any text": { grammar: "root ::= [^\\0]*" },
};

export interface ServedCase {
  readonly name: string;
  readonly sampling: "greedy" | "drawn";
  readonly bareMsPerToken: number;
  readonly msPerToken: number;
  /** What a token takes longer, over one without a constraint: the median of pairs, one after the other, since the machine drifts more than they differ. */
  readonly share: number;
}

export async function benchServed(): Promise<{ readonly profile: string; readonly cases: readonly ServedCase[] }> {
  const server = await startServer(join(ROOT, "demo", "pack"), { packId: "demo", shards: 4, isolateMiB: 90 });
  try {
    const msPerToken = async (more: object, temperature: number, seed: number): Promise<number | null> => {
      const response = await fetch(`${server.url}/v1/completions`, {
        method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ model: "demo", prompt: "Once upon a time", max_tokens: TOKENS, temperature, seed, moe: { cache: false, draft_tokens: 0 }, ...more }),
      });
      const body = await response.json() as { usage: { completion_tokens: number }; moe: { timings: { completion_ms: number } }; error?: { message: string } };
      if (!response.ok) throw new Error(`POST /v1/completions was answered ${response.status}: ${body.error?.message}`);
      // A short one is over before its whole milliseconds say much.
      return body.usage.completion_tokens < TOKENS / 4 ? null : body.moe.timings.completion_ms / (body.usage.completion_tokens - 1);
    };
    const cases: ServedCase[] = [];
    for (const [name, more] of Object.entries(CASES)) {
      for (const [sampling, temperature] of [["greedy", 0], ["drawn", 0.8]] as const) {
        const [bare, held]: [number[], number[]] = [[], []];
        for (let round = -1; bare.length < ROUNDS; round++) {
          if (round > 4 * ROUNDS) throw new Error(`Replies with the constraint "${name}" are too short to be measured.`);
          const isFirst = round % 2 === 0;
          const early = await msPerToken(isFirst ? more : {}, temperature, round + 9);
          const late = await msPerToken(isFirst ? {} : more, temperature, round + 9);
          if (round < 0 || early === null || late === null) continue;
          held.push(isFirst ? early : late);
          bare.push(isFirst ? late : early);
        }
        const [bareMs, heldMs] = [median(bare), median(held)];
        cases.push({ name, sampling, bareMsPerToken: rounded(bareMs), msPerToken: rounded(heldMs), share: rounded(median(held.map((ms, i) => ms / bare[i]! - 1))) });
      }
    }
    return { profile: server.profile, cases };
  } finally {
    await server.close();
  }
}
