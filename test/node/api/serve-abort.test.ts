// Clients of `workers-moe serve` that abort a reply that is not streamed, with `fetch`, which keeps connections and asks for compression: the generation
// ends long before its last token, whenever that is. Readers that hang up in the middle of a stream: serve.test.ts.

import { afterAll, beforeAll, expect, it } from "vitest";
import { LONG_CONTEXT, startServe, writeTinyPack, type Serving } from "../../support/serve.ts";

let pack: { folder: string; remove: () => void };
let server: Serving;

beforeAll(async () => {
  pack = await writeTinyPack();
  server = await startServe(pack.folder);
});
afterAll(async () => {
  await server?.stop();
  pack?.remove();
});

interface Generations { readonly active: number; readonly queued: number; readonly cancelled: number }
const generations = async (): Promise<Generations> => ((await (await fetch(`${server.url}/v1/fleet`)).json()) as { generations: Generations }).generations;
/** Asks until the condition holds; the test's time limit is the only clock. */
async function until(holds: (found: Generations) => boolean): Promise<Generations> {
  for (;;) {
    const found = await generations();
    if (holds(found)) return found;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

it.each<[string, (asked: Promise<Response>) => Promise<unknown>]>([
  ["while its prompt waits or is read", () => until(({ active, queued }) => active + queued > 0)],
  ["when its status has come", (asked) => asked],
])("%s", async (_, moment) => {
  const { cancelled } = await generations();
  const abort = new AbortController();
  const asked = fetch(`${server.url}/v1/completions`, {
    method: "POST", headers: { "Content-Type": "application/json" }, signal: abort.signal,
    body: JSON.stringify({ model: "tiny", prompt: "abc", temperature: 1, seed: 1, max_tokens: LONG_CONTEXT - 3 }),
  });
  const failed = asked.then((response) => response.text()).catch((cause: unknown) => (cause as Error).name);
  await moment(asked);
  abort.abort();
  expect(await failed).toMatch(/AbortError|TypeError/);
  expect(await until(({ active }) => active === 0)).toMatchObject({ cancelled: cancelled + 1 });
});
