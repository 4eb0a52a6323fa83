// Which tests put which field of the API to use: the conformance table of docs/api.md. Owns the assignment; api-page.test.ts finds every title in its file
// and asks for every field. What is refused is not listed here: rows of api-refusals.test.ts name the field themselves.

import type { SchemaName } from "../../worker/openapi.ts";

/** The files are named by the first group of their titles. */
const api = (title: string): string => `test/workerd/api-${{ chat: "chat", completions: "completions", streams: "streams", embeddings: "models" }[title.split(" > ")[0]!]!}.test.ts > ${title}`;
const fields = (title: string): string => `test/workerd/openapi-fields.test.ts > ${title}`;
const structured = (title: string): string => `test/workerd/structured.test.ts > ${title}`;
const clients = (title: string): string => `test/node/api/clients.test.ts > ${title}`;
const resume = (title: string): string => `test/workerd/resume.test.ts > ${title}`;
const admission = (title: string): string => `test/workerd/admission.test.ts > ${title}`;
const known = (title: string): string => `test/workerd/known-failures.test.ts > ${title}`;
const endings = (title: string): string => `test/workerd/finish-reasons.test.ts > ${title}`;
const degrade = (title: string): string => `test/workerd/degrade.test.ts > ${title}`;
const steer = (title: string): string => `test/workerd/interventions.test.ts > ${title}`;
const asked = (title: string): string => `test/workerd/asked-routing.test.ts > ${title}`;
const directory = (title: string): string => `test/workerd/directory.test.ts > ${title}`;
const failover = (title: string): string => `test/workerd/failover.test.ts > ${title}`;
const templates = (title: string): string => `test/node/model/chat-templates.test.ts > ${title}`;

const GREEDY = fields("sampling > with %s of %d is greedy at any temperature");
const PENALTIES = api("completions > follow penalties, alone, beside others and when guesses hold");
const SAMPLING = {
  temperature: [GREEDY], top_p: [GREEDY], min_p: [GREEDY], top_k: [GREEDY, api("completions > top_k of 1 is greedy at any temperature")],
  typical_p: [PENALTIES], repetition_penalty: [PENALTIES], presence_penalty: [PENALTIES], frequency_penalty: [PENALTIES],
  logit_bias: [api("completions > follow a bias: a token is forced, or never said")],
  seed: [api("completions > repeat with a seed, and differ between choices and between seeds"), api("completions > report the seed drawn where none was given, and repeat with it")],
  stop: [api("completions > cut at a stop string, wherever it lies"), endings("a stop string > across tokens ends a chat too, whole and streamed, and never inside a call")],
} as const;
const COMMON = {
  ...SAMPLING, model: [clients("openai > is told what is wrong in its own errors")], max_tokens: [api("completions > stop at max_tokens and say so")], n: [api("streams > carry several choices at once")],
  stream: [api("streams > are server-sent events whose text is the whole reply's"), resume("goes on from every event")], stream_options: [api("streams > end with usage only when asked"), known("item 11: usage, echo, log-probabilities > usage in a stream of %s comes only when asked, then once, in a chunk without choices")],
  moe: [api("streams > carry the experts of every token in every layer when asked")],
  response_format: [structured("response_format > json_schema is followed at any temperature, seed %i"), structured("response_format > json_object gives an object"), structured("response_format > with one way to say it is said that way, in a chat, a completion and a stream")],
  grammar: [structured("grammar > in GBNF is followed")],
} as const;
const TEMPLATE = {
  messages: [api("chat > is what the template makes of the messages"), api("chat > takes content as parts, and null"), known("item 12: clients of Workers AI > content may be an array in every role, null, or absent beside calls"), clients("openai > takes content in parts, null content, all roles, log-probabilities and several choices"), fields("the template is given > names, thoughts, calls and the ids of their results")],
  documents: [fields("the template is given > documents")], reasoning_effort: [fields("the template is given > the effort")], chat_template_kwargs: [fields("the template is given > more variables"), structured("response_format > waits for the end of a thought")],
} as const;
const TOOLS = {
  tools: [structured("tools > are called when they must be, with arguments that fit"), known("item 12: clients of Workers AI > a call streams as it is written: its name, then its arguments in pieces, in every API"), clients("openai > gets calls of tools, streamed in pieces"), clients("ai with @ai-sdk/openai-compatible > calls a tool, streamed")],
  tool_choice: [structured("tools > by name alone when one is named"), structured("tools > are not called where they must not be")],
} as const;
const LOGPROBS = api("chat > gives log-probabilities with bytes");
const RESPONSES = clients("openai > gets responses, whole and streamed, the same");
const RESPONSE_CALLS = clients("openai > gets structured responses and function calls");
const MESSAGES = clients("@anthropic-ai/sdk > sends a message, whole and streamed, the same text");
const MESSAGE_CALLS = clients("@anthropic-ai/sdk > uses a tool, and takes its result");
const REPEATED = fields("a response > repeats what it was asked with, and that nothing is stored");
const REFUSED = fields("a response > refuses %s");
const MESSAGE_SAMPLING = fields("sampling > of a message takes the same, and top_p of 0");

/** Requests -> field -> file > title of test. */
export const CONFORMANCE: Partial<Readonly<Record<SchemaName, Readonly<Record<string, readonly string[]>>>>> = {
  ChatCompletionRequest: {
    ...COMMON, ...TEMPLATE, ...TOOLS, max_completion_tokens: [api("chat > takes max_completion_tokens")],
    logprobs: [LOGPROBS, api("streams > carry log-probabilities of several choices, those of the whole reply"), known("item 11: usage, echo, log-probabilities > log-probabilities, tools and a stream go together: every token has its score, of calls too")], top_logprobs: [LOGPROBS],
    n: [...COMMON.n, api("streams > carry log-probabilities of several choices, those of the whole reply")],
    parallel_tool_calls: [structured("tools > are called when they must be, with arguments that fit")],
  },
  CompletionRequest: {
    ...COMMON, prompt: [api("completions > take a prompt in all four forms")], logprobs: [api("completions > give log-probabilities that are consistent")],
    echo: [api("completions > echo with max_tokens 0 scores a prompt, and agrees with what generating said"), api("completions > echo without log-probabilities shows the prompt first"), known("item 11: usage, echo, log-probabilities > echo with logprobs scores the prompt, whole and streamed, with and without a continuation")],
  },
  MoeExtensions: {
    trace: [api("streams > carry the experts of every token in every layer when asked")], date: [fields("the template is given > names, thoughts, calls and the ids of their results"), templates("templates of the families (skipped where the data folder is absent) > Llama 3.x names the date it is given; Llama 3.1 its own")],
    degrade: [degrade("those who opted in go on, flagged, and the others wait for the shard")],
    interventions: [steer("moe.interventions > say the same over any shards and beside anybody, in every API, and /v1/models says which there are"), steer("moe.interventions > need the scope admin, and leave one line in the audit log without what was said")],
    profile: [steer("a profile > is stored, shown, used, replaced and deleted by admin, with a line in the audit log for each change and use"), steer("a profile > opens itself to other keys only where it says so, and to change one always needs admin")],
    task: [asked("moe.task > says which router a model of several tasks goes by, and must be said")], condition: [asked("moe.condition > is what a model's routers read, and must be given whole")],
    mask_experts: [asked("moe.mask_experts > leaves product experts out, by admin only, with a line in the audit log"), asked("moe.mask_experts > are kept in a profile, those of the request beside them")],
    prune: ["test/workerd/online-pruning.test.ts > leaves out experts by the request's own rule, the same over any shards and beside anybody, and counts them", "test/methods/22-mc-sharp.test.ts > a generation > is what it is alone beside others with other settings, and in a ring"],
    draft_tokens: [PENALTIES], cache: [api("completions > take over a prompt the same key sent before, say how much, and answer the same")],
    deadline_ms: [admission("turns and deadlines > a reply cut by its deadline has what was said, and says why it ended"), admission("turns and deadlines > a deadline that passes before the reply begins is a 504 of OpenAI's shape")],
  },
  ResponseRequest: {
    ...SAMPLING,
    model: [RESPONSES], input: [RESPONSES, RESPONSE_CALLS], instructions: [REPEATED], max_output_tokens: [RESPONSES], stream: [RESPONSES, resume("goes on from every event")], tools: [RESPONSE_CALLS], tool_choice: [RESPONSE_CALLS],
    parallel_tool_calls: [RESPONSE_CALLS], text: [RESPONSE_CALLS], reasoning: [REPEATED], metadata: [REPEATED], store: [REPEATED], previous_response_id: [REFUSED, RESPONSE_CALLS], conversation: [REFUSED], background: [REFUSED], moe: COMMON.moe,
  },
  MessageRequest: {
    model: [clients("@anthropic-ai/sdk > is told what is wrong in its own errors")], messages: [MESSAGES, MESSAGE_CALLS], system: [MESSAGES], tools: [MESSAGE_CALLS], tool_choice: [MESSAGE_CALLS],
    thinking: [fields("the template is given > whether to think, as Anthropic's clients say it")], max_tokens: [MESSAGES], temperature: [MESSAGE_SAMPLING], top_p: [MESSAGE_SAMPLING], top_k: [MESSAGE_SAMPLING],
    stop_sequences: [clients("@anthropic-ai/sdk > stops at a stop sequence and says which")], stream: [MESSAGES, resume("goes on from every event")], moe: COMMON.moe,
  },
  CountTokensRequest: {
    model: [MESSAGES], messages: [MESSAGES], system: [MESSAGES], tools: ["test/workerd/openapi.test.ts > takes what the program takes"], tool_choice: ["test/workerd/openapi.test.ts > takes what the program takes"],
    thinking: [fields("the template is given > whether to think, as Anthropic's clients say it")],
  },
  EmbeddingRequest: {
    model: [clients("openai > embeds texts")], input: [api("embeddings > are vectors of length 1, in order, the same alone and in company, as text and as ids")], encoding_format: [api("embeddings > come as base64 of f32 when asked, and count their tokens")],
    dimensions: [api("embeddings > are refused in numbers the model has not, and beyond its context")],
  },
  FleetChangeRequest: {
    shards: [directory("over HTTP > a change is begun by its wish, told while it runs, and refused beside another"), directory("4 to 6 to 3 shards under load > fails and alters nothing, moves what was computed, and ends with the shards wished")],
    replicas: [directory("4 to 6 to 3 shards under load > goes on from its storage when the directory is evicted in the middle"), directory("over HTTP > what cannot be is refused with its reason")],
    plan: [directory("over HTTP > a plan of one's own is taken, with its own epoch unread"), directory("over HTTP > what cannot be is refused with its reason")],
    region: [failover("regions > have plans of their own, which must be named")],
  },
  RoutingProfile: { maskExperts: [asked("moe.mask_experts > are kept in a profile, those of the request beside them")], ...Object.fromEntries(["format", "version", "name", "description", "model", "packHash", "access", "interventions", "found"].map((field) => [field, [
    steer("a profile > is stored, shown, used, replaced and deleted by admin, with a line in the audit log for each change and use"), steer("a profile > is of one model, and of one pack where it says so"),
  ]])) },
  TokenizeRequest: { content: [fields("add_special puts the first token before a text")], add_special: [fields("add_special puts the first token before a text")] },
  DetokenizeRequest: { tokens: [fields("add_special puts the first token before a text")] },
  ApplyTemplateRequest: { ...TEMPLATE, tools: [fields("the template is given > tools")], tool_choice: [fields("the template is given > no tools where none may be called")], moe: [fields("the template is given > the day of the request, where it names none")] },
};

/** Requirements of api-refusals.test.ts whose refusal is about a field, as its rows say: by the field's name. */
export function refusalsIn(source: string): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  for (const [, requirement, param] of source.matchAll(/requirement: "([^"]+)".*?param: "(\w+)[."[]/g)) found.set(param!, [...(found.get(param!) ?? []), requirement!]);
  return found;
}
