// POST /v1/embeddings: texts as vectors, each the mean of its tokens' states after the final norm, of length 1. Owns the order of the
// answers and both encodings. Refuses `dimensions` other than the model's own: a cut vector of such a model means nothing.

import type { Route } from "../durable/edge-fleet.ts";
import type { GenerateRequest } from "../durable/generate.ts";
import { generate, type GenerateWay } from "../durable/generate-client.ts";
import { PLAIN_SAMPLING } from "../model/sampling.ts";
import { withinTokens, type AdmissionSettings } from "./admission.ts";
import type { Caller } from "./auth.ts";
import { invalid, RequestError } from "./errors.ts";
import type { Router } from "./fleets.ts";
import { failureError } from "./generation.ts";
import { EDGE_LIMITS } from "./limits.ts";
import type { WatchedRequest } from "./log-middleware.ts";
import { mergeIndexed } from "./merge.ts";
import type { EdgePack } from "./pack.ts";
import { completionPrompts, requireModel, tokensToGenerate, type Prompt } from "./prompt.ts";
import type { EmbeddingsRequest } from "./schemas.ts";
import { placeText } from "./stream-position.ts";

interface Asked {
  readonly caller: Caller;
  readonly settings: AdmissionSettings;
  readonly signal: AbortSignal;
  readonly record: WatchedRequest;
}

export async function embeddingsReply(router: Router, pack: EdgePack, request: EmbeddingsRequest, { caller, settings, signal, record }: Asked): Promise<Response> {
  const prompts = await record.timed("tokenise", () => promptsOf(pack, request));
  const vectors: (readonly number[])[] = [];
  const routes: Route[] = [];
  const starts = prompts.map((of, index) => () => embed((generation) => (routes[index] = router(generation)).ways, of, caller, signal));
  const nTokens = prompts.reduce((sum, { ids }) => sum + ids.length, 0);
  let nEvaluated = 0;
  return withinTokens(nTokens, caller, settings, async (use) => {
    for await (const { index, value } of mergeIndexed(starts, EDGE_LIMITS.generationsAtOnce)) {
      vectors[index] = value;
      use(prompts[index]!.ids.length);
      record.embedded(prompts[index]!.ids.length, ++nEvaluated === prompts.length);
    }
    const { served } = routes[0]!;
    return Response.json({
      object: "list", model: pack.id,
      data: vectors.map((vector, index) => ({ object: "embedding", index, embedding: request.encoding_format === "base64" ? base64(vector) : vector })),
      usage: { prompt_tokens: nTokens, total_tokens: nTokens },
    }, { headers: { "X-Served-By": placeText(served) } });
  });
}

function promptsOf(pack: EdgePack, request: EmbeddingsRequest): Prompt[] {
  requireModel(pack, request.model);
  const { hiddenSize } = pack.config;
  if (request.dimensions != null && request.dimensions !== hiddenSize) {
    throw invalid("dimensions", `\`dimensions\` is ${request.dimensions}; vectors of this model have ${hiddenSize}, expected that number or no such field.`, "unsupported_parameter");
  }
  const prompts = completionPrompts(pack, request.input, "input");
  for (const { ids } of prompts) tokensToGenerate(pack, ids.length, 0, "input");
  return prompts;
}

async function* embed(waysOf: (request: GenerateRequest) => readonly GenerateWay[], { ids }: Prompt, caller: Caller, signal: AbortSignal): AsyncGenerator<readonly number[]> {
  const request: GenerateRequest = { promptIds: ids, maxTokens: 0, sampling: { ...PLAIN_SAMPLING, seed: 0 }, stopIds: [], embedding: true, caller: caller.account };
  let found = false;
  for await (const event of generate(waysOf(request), request, { signal })) {
    if (event.type === "error") throw failureError(event);
    if (event.type !== "embedding" || found) continue;
    found = true; // a stream that broke is asked again, and says the same
    yield event.values;
  }
  if (!found) throw new RequestError({ status: 502, code: "stream_broken", message: "The orchestrator's stream ended without a vector." });
}

/** f32, little endian. */
function base64(vector: readonly number[]): string {
  const bytes = new Uint8Array(Float32Array.from(vector).buffer);
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}
