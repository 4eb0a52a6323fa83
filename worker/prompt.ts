// From a request to token ids: the four forms of `prompt`, or messages through the model's own template. Owns the checks of length and range,
// and the sampling parameters with their defaults. Refuses text that becomes no token at all.

import { type ChatMessage, type ChatTemplateOptions, encodeChat, renderChat, takesTools } from "../model/chat-template.ts";
import { ModelError } from "../model/config.ts";
import type { LogitAdjustments } from "../model/logit-adjustments.ts";
import type { SamplingParams } from "../model/sampling.ts";
import { invalid, RequestError } from "./errors.ts";
import type { EdgePack } from "./pack.ts";
import type { ChatRequest, CompletionRequest } from "./schemas.ts";

export interface Prompt {
  readonly ids: readonly number[];
  /** The prompt as an echo shows it. */
  readonly text: string;
}

/** Every prompt of a completion request, in order. */
export function completionPrompts(pack: EdgePack, prompt: CompletionRequest["prompt"], param = "prompt"): Prompt[] {
  if (typeof prompt === "string") return [textPrompt(pack, prompt, param)];
  if (isIds(prompt)) return [idPrompt(pack, prompt, param)];
  return (prompt as (string | number[])[]).map((entry, i) =>
    typeof entry === "string" ? textPrompt(pack, entry, `${param}[${i}]`) : idPrompt(pack, entry, `${param}[${i}]`));
}

const isIds = (prompt: readonly unknown[]): prompt is number[] => typeof prompt[0] === "number";

function textPrompt(pack: EdgePack, text: string, param: string): Prompt {
  const ids = withBos(pack, pack.tokenizer.encodeText(text));
  if (ids.length === 0) throw invalid(param, `\`${param}\` is empty: found "", expected text of at least one token (this model has no beginning-of-text token to start from).`, "empty_prompt");
  return { ids, text };
}

function idPrompt(pack: EdgePack, ids: readonly number[], param: string): Prompt {
  const { vocabSize } = pack.config;
  const bad = ids.findIndex((id) => id >= vocabSize);
  if (bad >= 0) throw invalid(`${param}[${bad}]`, `\`${param}[${bad}]\` is not a token of this model: found ${ids[bad]}, expected an id from 0 to ${vocabSize - 1}.`, "token_out_of_range");
  return { ids, text: pack.tokenizer.decode(ids) };
}

/** Puts the beginning-of-text token before a prompt where the tokenizer does so and it is not there yet. */
function withBos(pack: EdgePack, ids: readonly number[]): readonly number[] {
  const { bosTokenId } = pack.config;
  return pack.addBos && bosTokenId !== null && ids[0] !== bosTokenId ? [bosTokenId, ...ids] : ids;
}

/** `add_special` of /tokenize. */
export const tokenizeText = (pack: EdgePack, text: string, addSpecial: boolean): readonly number[] =>
  addSpecial ? withBos(pack, pack.tokenizer.encodeText(text)) : pack.tokenizer.encodeText(text);

type Messages = ChatRequest["messages"];

/** What of a chat request goes into its prompt. */
type ChatContext = Pick<ChatRequest, "messages" | "tools" | "tool_choice" | "documents" | "reasoning_effort" | "chat_template_kwargs" | "moe">;

/** Messages as templates want them: content is text, parts are joined, null is empty. */
const plainMessages = (messages: Messages): ChatMessage[] => messages.map((message) => ({
  role: message.role,
  content: typeof message.content === "string" ? message.content : (message.content ?? []).map((part) => part.text).join(""),
  ...(message.name == null ? {} : { name: message.name }),
  ...(message.reasoning_content == null ? {} : { reasoning: message.reasoning_content }),
  ...(message.tool_calls == null ? {} : { toolCalls: message.tool_calls.map(({ id, type, function: call }) => ({ type, function: call, ...(id == null ? {} : { id }) })) }),
  ...(message.tool_call_id == null ? {} : { toolCallId: message.tool_call_id }),
}));

/** True when the model is shown tools it may call. */
export const hasTools = ({ tools, tool_choice }: Pick<ChatRequest, "tools" | "tool_choice">): boolean => tools != null && tools.length > 0 && tool_choice !== "none";

function templateOf(pack: EdgePack): string {
  if (pack.chatTemplate === null) {
    throw invalid("messages", `The model "${pack.id}" has no chat template, so it cannot take messages; expected a request to /v1/completions with a \`prompt\`.`, "no_chat_template");
  }
  return pack.chatTemplate;
}

function templateOptions(pack: EdgePack, template: string, request: ChatContext): ChatTemplateOptions {
  if (hasTools(request) && !takesTools(template)) {
    throw invalid("tools", `The chat template of the model "${pack.id}" does not take tools; expected the field to be absent.`, "unsupported_parameter");
  }
  const { tools, documents, reasoning_effort, chat_template_kwargs, moe } = request;
  return {
    addGenerationPrompt: true, bosToken: pack.bosToken, eosToken: pack.eosToken,
    // Without a date in the request it is the day of the request: the same day gives the same prompt.
    date: new Date(moe?.date == null ? Date.now() : `${moe.date}T00:00:00Z`),
    ...(hasTools(request) ? { tools: tools! } : {}),
    ...(documents == null ? {} : { documents }),
    variables: { ...(reasoning_effort == null ? {} : { reasoning_effort }), ...chat_template_kwargs },
  };
}

/** Runs a template; what it raises is about the messages, so it is a 400. */
function templated<T>(run: () => T): T {
  try {
    return run();
  } catch (cause) {
    throw cause instanceof ModelError ? invalid("messages", cause.message, "template_refused") : cause;
  }
}

/** The prompt of a chat, as text too: how it ends says how the reply begins. */
export function chatPrompt(pack: EdgePack, request: ChatContext): Prompt {
  const template = templateOf(pack);
  const options = templateOptions(pack, template, request);
  const { text, ids } = templated(() => encodeChat(pack.tokenizer, template, plainMessages(request.messages), options));
  if (ids.length === 0) throw invalid("messages", "The messages make no token at all; at least one was expected.", "empty_prompt");
  return { ids: withBos(pack, ids), text };
}

/** The text a template makes of messages. */
export function renderedMessages(pack: EdgePack, request: ChatContext): string {
  const template = templateOf(pack);
  const options = templateOptions(pack, template, request);
  return templated(() => renderChat(template, plainMessages(request.messages), options));
}

/** Checks prompt and `maxTokens` (null: as many as fit) against the context; returns the tokens to generate. */
export function tokensToGenerate(pack: EdgePack, nPromptTokens: number, maxTokens: number | null, param: string): number {
  const limit = pack.contextLength;
  const wanted = maxTokens ?? Math.max(1, limit - nPromptTokens);
  if (nPromptTokens + wanted <= limit) return wanted;
  throw new RequestError({
    status: 400, code: "context_length_exceeded", param,
    message: `This model's maximum context length is ${limit} tokens. However, you requested ${nPromptTokens + wanted} tokens (${nPromptTokens} in the ${param}, ${wanted} in the completion). Please reduce the length of the ${param}${maxTokens === null ? "" : " or of the completion"}.`,
  });
}

/** Sampling as the engine takes it. OpenAI's default temperature is 1. A seed left out is drawn, and reported in the reply's `moe.seed`. */
export function samplingOf(pack: EdgePack, request: ChatRequest | CompletionRequest): SamplingParams {
  return {
    temperature: request.temperature ?? 1,
    topK: request.top_k ?? 0,
    typicalP: request.typical_p ?? 1,
    topP: request.top_p ?? 1,
    minP: request.min_p ?? 0,
    adjustments: adjustmentsOf(pack, request),
    seed: request.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!,
  };
}

/** What the request does to logits; null where it asks for nothing. */
function adjustmentsOf(pack: EdgePack, { logit_bias, repetition_penalty, frequency_penalty, presence_penalty }: ChatRequest | CompletionRequest): LogitAdjustments | null {
  const { vocabSize } = pack.config;
  const bias = Object.entries(logit_bias ?? {}).map(([key, value]): [number, number] => {
    const id = Number(key);
    if (id >= vocabSize) throw invalid(`logit_bias.${key}`, `\`logit_bias\` has the token id ${key}; this model's ids are 0 to ${vocabSize - 1}.`, "token_out_of_range");
    return [id, value];
  });
  const found = { bias, repetitionPenalty: repetition_penalty ?? 1, frequencyPenalty: frequency_penalty ?? 0, presencePenalty: presence_penalty ?? 0 };
  return bias.length === 0 && found.repetitionPenalty === 1 && found.frequencyPenalty === 0 && found.presencePenalty === 0 ? null : found;
}

export const stopsOf = (request: ChatRequest | CompletionRequest): readonly string[] =>
  request.stop == null ? [] : typeof request.stop === "string" ? [request.stop] : request.stop;

/** Throws 404 unless `model` is the one served. */
export function requireModel(pack: EdgePack, model: string): void {
  if (model === pack.id) return;
  throw new RequestError({ status: 404, code: "model_not_found", param: "model", message: `The model "${model}" does not exist here; this server has "${pack.id}".` });
}
