// POST /v1/completions and /v1/chat/completions: a checked request becomes choices (one generation each) and a reply.

import type { Constraint } from "../durable/generate.ts";
import { createReplyParser } from "../model/reply-parser.ts";
import type { Caller } from "./auth.ts";
import { invalid } from "./errors.ts";
import type { EdgePack } from "./pack.ts";
import { chatPrompt, completionPrompts, hasTools, requireModel, samplingOf, stopsOf, tokensToGenerate, type Prompt } from "./prompt.ts";
import { chatConstraint, completionConstraint } from "./reply-constraint.ts";
import type { Choice, Reply } from "./respond.ts";
import type { ChatRequest, CompletionRequest } from "./schemas.ts";
import { chatShape, completionShape, type ShapeOptions } from "./shapes.ts";

/** OpenAI's default for completions; a chat goes on for as long as the context has room. */
const COMPLETION_TOKENS_DEFAULT = 16;

export function completionReply(pack: EdgePack, request: CompletionRequest, caller: Caller): Reply {
  requireModel(pack, request.model);
  const maxTokens = request.max_tokens ?? COMPLETION_TOKENS_DEFAULT;
  const echo = request.echo ?? false;
  if (maxTokens === 0 && !echo) throw invalid("max_tokens", "`max_tokens` is 0, which is allowed only with `echo: true` (scoring a prompt); expected an integer of at least 1.", "invalid_value");
  const prompts = completionPrompts(pack, request.prompt);
  const nTop = request.logprobs ?? null;
  const choices = choicesOf(pack, request, caller, prompts, (prompt) => tokensToGenerate(pack, prompt.ids.length, maxTokens, "prompt"), nTop, echo && nTop !== null,
    (prompt, options) => completionShape({ ...options, echoText: echo ? prompt.text : null }), completionConstraint(request))
    // An echo without scores needs nothing from the orchestrator.
    .map((choice) => (echo && nTop === null ? { ...choice, opening: [{ kind: "prompt" as const, tokens: [] }] } : choice));
  return { ...replyOf(pack, request, choices), idPrefix: "cmpl", object: "text_completion", chunkObject: "text_completion", openingChoices: [] };
}

export function chatReply(pack: EdgePack, request: ChatRequest, caller: Caller): Reply {
  requireModel(pack, request.model);
  const maxTokens = request.max_completion_tokens ?? request.max_tokens ?? null;
  const param = request.max_completion_tokens == null ? "max_tokens" : "max_completion_tokens";
  if (maxTokens === 0) throw invalid(param, `\`${param}\` is 0; expected an integer of at least 1.`, "invalid_value");
  if (request.top_logprobs != null && request.logprobs !== true) {
    throw invalid("top_logprobs", `\`top_logprobs\` is ${request.top_logprobs} without \`logprobs: true\`; expected both, or neither.`, "invalid_value");
  }
  const prompt = chatPrompt(pack, request);
  const nTop = request.logprobs === true ? request.top_logprobs ?? 0 : null;
  const choices = choicesOf(pack, request, caller, [prompt], () => tokensToGenerate(pack, prompt.ids.length, maxTokens, "messages"), nTop, false,
    (_, options) => chatShape(options), chatConstraint(pack, request, prompt))
    .map((choice) => ({ ...choice, input: { ...choice.input, reply: () => createReplyParser(pack.tokenizer, pack.replyFormat!, prompt.text, hasTools(request)) } }));
  return {
    ...replyOf(pack, request, choices), idPrefix: "chatcmpl", object: "chat.completion", chunkObject: "chat.completion.chunk",
    openingChoices: choices.map((_, index) => ({ index, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null })),
  };
}

function choicesOf(
  pack: EdgePack, request: ChatRequest | CompletionRequest, caller: Caller, prompts: readonly Prompt[], maxTokensOf: (prompt: Prompt) => number,
  nTop: number | null, scorePrompt: boolean, shapeOf: (prompt: Prompt, options: ShapeOptions) => Choice["shape"], constraint: Constraint | null,
): Choice[] {
  const sampling = samplingOf(pack, request);
  const trace = request.moe?.trace === true;
  const draftTokens = request.moe?.draft_tokens;
  const n = request.n ?? 1;
  return prompts.flatMap((prompt, promptIndex) => Array.from({ length: n }, (_, choice) => ({
    promptIndex, opening: [],
    input: {
      stops: stopsOf(request), reply: null,
      request: {
        promptIds: prompt.ids, maxTokens: maxTokensOf(prompt), sampling, choice, stopIds: pack.config.eosTokenIds, trace,
        ...(nTop === null ? {} : { logprobs: nTop }), ...(scorePrompt ? { echo: true } : {}),
        ...(constraint === null ? {} : { constraint }),
        ...(draftTokens == null ? {} : { draftTokens }), ...(request.moe?.cache === false ? {} : { cacheScope: caller.id }),
      },
    },
    shape: shapeOf(prompt, { tokenizer: pack.tokenizer, index: promptIndex * n + choice, withLogprobs: nTop !== null, everyToken: trace || nTop !== null, echoText: null }),
  })));
}

/** What both endpoints say alike. */
const replyOf = (pack: EdgePack, request: ChatRequest | CompletionRequest, choices: readonly Choice[]) => ({
  model: pack.id,
  stream: request.stream === true,
  includeUsage: request.stream_options?.include_usage === true,
  withTrace: request.moe?.trace === true,
  choices,
  moe: { seed: choices[0]!.input.request.sampling.seed },
});
