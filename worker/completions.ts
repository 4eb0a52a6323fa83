// POST /v1/completions and /v1/chat/completions: a checked request becomes choices (one generation each) and a reply. What a chat makes of its request
// (`chatChoices`) serves the other chat APIs too.

import type { Constraint } from "../durable/generate.ts";
import { createReplyParser } from "../model/reply-parser.ts";
import type { Caller } from "./auth.ts";
import { invalid } from "./errors.ts";
import { openAiForm } from "./openai-form.ts";
import type { EdgePack } from "./pack.ts";
import { chatPrompt, completionPrompts, hasTools, requireModel, samplingOf, stopsOf, tokensToGenerate, type Prompt } from "./prompt.ts";
import { chatConstraint, textConstraint } from "./reply-constraint.ts";
import type { Choice, Reply, ReplyHead } from "./reply-form.ts";
import { routingOf } from "./request-routing.ts";
import type { ChatRequest, CompletionRequest } from "./schemas.ts";
import { chatShape, completionShape } from "./shapes.ts";

/** OpenAI's default for completions; a chat goes on for as long as the context has room. */
const COMPLETION_TOKENS_DEFAULT = 16;

export function completionReply(pack: EdgePack, request: CompletionRequest, caller: Caller): Reply {
  requireModel(pack, request.model);
  const maxTokens = request.max_tokens ?? COMPLETION_TOKENS_DEFAULT;
  const echo = request.echo ?? false;
  if (maxTokens === 0 && !echo) throw invalid("max_tokens", "`max_tokens` is 0, which is allowed only with `echo: true` (scoring a prompt); expected an integer of at least 1.", "invalid_value");
  const prompts = completionPrompts(pack, request.prompt);
  const nTop = request.logprobs ?? null;
  const choices = choicesOf(pack, request, caller, prompts, (prompt) => tokensToGenerate(pack, prompt.ids.length, maxTokens, "prompt"), nTop, echo && nTop !== null, textConstraint(request))
    // An echo without scores needs nothing from the orchestrator.
    .map((choice) => (echo && nTop === null ? { ...choice, opening: [{ kind: "prompt" as const, tokens: [] }] } : choice));
  const shapesOf = (head: ReplyHead) => choices.map(({ promptIndex }, index) => completionShape({ ...shapeOptions(pack, request, nTop, index, head), echoText: echo ? prompts[promptIndex]!.text : null }));
  return {
    model: pack.id, stream: request.stream === true, choices, idPrefix: "cmpl-",
    form: (head) => openAiForm(head, { object: "text_completion", chunkObject: "text_completion", ...wishes(request), choices, shapes: shapesOf(head), openingChoices: [] }),
  };
}

export function chatReply(pack: EdgePack, request: ChatRequest, caller: Caller): Reply {
  const { choices, nTop } = chatChoices(pack, request, caller);
  return {
    model: pack.id, stream: request.stream === true, choices, idPrefix: "chatcmpl-",
    form: (head) => openAiForm(head, {
      object: "chat.completion", chunkObject: "chat.completion.chunk", ...wishes(request), choices, shapes: choices.map((_, index) => chatShape(shapeOptions(pack, request, nTop, index, head))),
      openingChoices: choices.map((_, index) => ({ index, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null })),
    }),
  };
}

/** The generations of a chat request, and how many alternatives of each token were asked for; null for no log-probabilities. */
export function chatChoices(pack: EdgePack, request: ChatRequest, caller: Caller): { choices: Choice[]; nTop: number | null } {
  requireModel(pack, request.model);
  const maxTokens = request.max_completion_tokens ?? request.max_tokens ?? null;
  const param = request.max_completion_tokens == null ? "max_tokens" : "max_completion_tokens";
  if (maxTokens === 0) throw invalid(param, `\`${param}\` is 0; expected an integer of at least 1.`, "invalid_value");
  if (request.top_logprobs != null && request.logprobs !== true) {
    throw invalid("top_logprobs", `\`top_logprobs\` is ${request.top_logprobs} without \`logprobs: true\`; expected both, or neither.`, "invalid_value");
  }
  const prompt = chatPrompt(pack, request);
  const nTop = request.logprobs === true ? request.top_logprobs ?? 0 : null;
  const reply = () => createReplyParser(pack.tokenizer, pack.replyFormat!, prompt.text, hasTools(request));
  const choices = choicesOf(pack, request, caller, [prompt], () => tokensToGenerate(pack, prompt.ids.length, maxTokens, "messages"), nTop, false, chatConstraint(pack, request, prompt))
    .map((choice) => ({ ...choice, input: { ...choice.input, reply } }));
  return { choices, nTop };
}

function choicesOf(
  pack: EdgePack, request: ChatRequest | CompletionRequest, caller: Caller, prompts: readonly Prompt[], maxTokensOf: (prompt: Prompt) => number,
  nTop: number | null, scorePrompt: boolean, constraint: Constraint | null,
): Choice[] {
  const sampling = samplingOf(pack, request);
  const draftTokens = request.moe?.draft_tokens;
  const routing = routingOf(pack, request.moe);
  return prompts.flatMap((prompt, promptIndex) => Array.from({ length: request.n ?? 1 }, (_, choice) => ({
    promptIndex, opening: [],
    input: {
      stops: stopsOf(request), reply: null,
      request: {
        promptIds: prompt.ids, maxTokens: maxTokensOf(prompt), sampling, choice, stopIds: pack.config.eosTokenIds, trace: request.moe?.trace === true,
        ...(nTop === null ? {} : { logprobs: nTop }), ...(scorePrompt ? { echo: true } : {}),
        ...(constraint === null ? {} : { constraint }),
        ...(draftTokens == null ? {} : { draftTokens }), ...(request.moe?.degrade === true ? { degrade: true } : {}), ...(routing === undefined ? {} : { routing }), ...(request.moe?.cache === false ? {} : { cacheScope: caller.id }),
      },
    },
  })));
}

const wishes = (request: ChatRequest | CompletionRequest): { includeUsage: boolean; withTrace: boolean } =>
  ({ includeUsage: request.stream_options?.include_usage === true, withTrace: request.moe?.trace === true });

const shapeOptions = (pack: EdgePack, request: ChatRequest | CompletionRequest, nTop: number | null, index: number, { id }: ReplyHead) => ({
  tokenizer: pack.tokenizer, index, withLogprobs: nTop !== null, everyToken: request.moe?.trace === true || nTop !== null, echoText: null, callPrefix: `call_${id.slice(-24)}${index}`,
});
