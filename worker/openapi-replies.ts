// What the API answers with, as zod schemas, for the OpenAPI document: shapes.ts, the forms and wire-types.ts write them. Nothing is checked against these
// at run time; test/workerd/openapi.test.ts holds real replies to them, so that each field of a reply is named here and means what it says.

import { z } from "zod";
import { WARMTHS } from "../durable/warmth.ts";
import { INTERVENTION_OPS } from "../model/interventions.ts";

const text = z.string();
const count = z.int().min(0);
const finite = z.number();

export const usage = z.object({
  prompt_tokens: count,
  prompt_tokens_details: z.object({ cached_tokens: count.describe("Of these, tokens that an earlier request of the same key had evaluated.") }),
  completion_tokens: count,
  total_tokens: count,
});

export const replyCost = z.object({
  seed: z.int().describe("The seed that repeats this reply, given or drawn."),
  steps: count.describe("Passes of the model it took part in; like what follows, of the choices that ran to their end."),
  frames: count.describe("Messages between orchestrator and shards in those steps."),
  bytes: count.describe("Bytes of those messages."),
  retries: count.describe("Messages that were sent again."),
  hedges: count.describe("Messages that were late and went to another holder as well."),
  region: text.nullable().describe("Where it was said; null in a deployment without regions. Of several choices the first's, as is `lane`."),
  lane: count.describe("The orchestrator there that said it, by its number."),
  cold_starts: count.describe("Objects that came up or read weights while the reply waited."),
  timings: z.object({ queue_ms: count, prompt_ms: count, completion_ms: count })
    .describe("Waiting for room, reading the prompt, and from the first token to the last, in whole milliseconds; of several choices the longest. 0 where a stop string ended the reply."),
  degraded: z.object({ tokens: count.describe("Tokens chosen right after something was left out; later ones build on them."), expert_rows: count.describe("What was left out: one for each token evaluated, layer and expert.") })
    .optional().describe("Present where `moe.degrade` let the reply go on without some experts."),
  pruned: z.object({ left_out: count.describe("Calls of experts that were left out."), of: count.describe("How many all would have been: one for each token evaluated, layer and rank.") })
    .optional().describe("Present with `moe.prune`, for choices that ran to their end. What the prefix cache had needed no evaluation and is not in it; guesses are, whether they held or not."),
  deadline_exceeded: z.literal(true).optional().describe("Present where `moe.deadline_ms` ended the reply."),
}).describe("What the reply cost the fleet. A step is shared by all generations in it, and counted by each.");

export const tokenTrace = z.object({
  id: count.describe("The token."),
  experts: z.array(z.array(count)).describe("Experts that evaluated its predecessor and so chose it: by layer with experts, ascending, and by rank."),
  weights: z.array(z.array(finite)).optional().describe("Their weights, in the same order."),
  shards: z.array(z.array(count.nullable())).optional().describe("The shard that holds each, by its number in /v1/fleet (of an expert spread over shards, its first part's); null in the orchestrator itself."),
  frames: z.array(z.array(z.object({ shard: count, ms: finite.describe("Until its reply was taken."), bytes: count.describe("Both ways.") }))).optional()
    .describe("By layer with experts: the messages that took the token to its experts, shared by all tokens of the step. Unlike the rest of a trace they differ from run to run."),
  degraded: count.optional().describe("With `moe.degrade`: expert rows that were left out of what it was chosen by; absent for none."),
}).describe("With `moe.trace`.");

export const errorReply = z.object({ error: z.object({
  message: text.describe("A sentence: what was found, what was expected."),
  type: text.describe("invalid_request_error, rate_limit_error, insufficient_quota or server_error."),
  param: text.nullable().describe("The field it is about."),
  code: text.nullable().describe("A word for programs."),
}) });
export const messagesErrorReply = z.object({ type: z.literal("error"), error: z.object({ type: text, message: text }) });

const head = { id: text, created: z.int().describe("Seconds since 1970."), model: text };
const tokensOfChoice = { moe: z.object({ tokens: z.array(tokenTrace) }).optional().describe("With `moe.trace`.") };
const finishReason = z.enum(["stop", "length", "tool_calls"]);
const completionLogprobs = z.object({
  tokens: z.array(text), token_logprobs: z.array(finite.nullable()), text_offset: z.array(count),
  top_logprobs: z.array(z.record(z.string(), finite).nullable()),
});
const completionChoice = { index: count, text, logprobs: completionLogprobs.nullable() };
export const completion = z.object({
  ...head, object: z.literal("text_completion"),
  choices: z.array(z.object({ ...completionChoice, finish_reason: z.enum(["stop", "length"]), ...tokensOfChoice })),
  usage, moe: replyCost,
});
/** The last chunk has the cost; with a trace each token's has its experts. */
const chunkMoe = z.union([z.object({ token: tokenTrace }), replyCost]).optional().describe("With `moe.trace` the experts of the chunk's token; in the last chunk what the reply cost.");
export const completionChunk = z.object({
  ...head, object: z.literal("text_completion"),
  choices: z.array(z.object({ ...completionChoice, finish_reason: z.enum(["stop", "length"]).nullable() })),
  usage: usage.nullable().optional(), moe: chunkMoe,
});

const chatToken = { token: text, logprob: finite, bytes: z.array(z.int().min(0).max(255)).nullable() };
const chatLogprobs = z.object({ content: z.array(z.object({ ...chatToken, top_logprobs: z.array(z.object(chatToken)) })), refusal: z.null() });
const toolCall = z.object({ id: text, type: z.literal("function"), function: z.object({ name: text, arguments: text.describe("A JSON text.") }) });
export const chatCompletion = z.object({
  ...head, object: z.literal("chat.completion"),
  choices: z.array(z.object({
    index: count,
    message: z.object({
      role: z.literal("assistant"), content: text.nullable(), refusal: z.null(),
      reasoning_content: text.optional().describe("What the model thought first, where it marks thoughts."),
      tool_calls: z.array(toolCall).optional(),
    }),
    logprobs: chatLogprobs.nullable(), finish_reason: finishReason, ...tokensOfChoice,
  })),
  usage, moe: replyCost,
});
export const chatCompletionChunk = z.object({
  ...head, object: z.literal("chat.completion.chunk"),
  choices: z.array(z.object({
    index: count,
    delta: z.object({
      role: z.literal("assistant").optional(), content: text.optional(), reasoning_content: text.optional(),
      tool_calls: z.array(z.object({ index: count, id: text.optional(), type: z.literal("function").optional(), function: z.object({ name: text.optional(), arguments: text.optional() }) })).optional(),
    }),
    logprobs: chatLogprobs.nullable(), finish_reason: finishReason.nullable(),
  })),
  usage: usage.nullable().optional(), moe: chunkMoe,
});

export const embeddingList = z.object({
  object: z.literal("list"), model: text,
  data: z.array(z.object({ object: z.literal("embedding"), index: count, embedding: z.union([z.array(finite), text]).describe("Numbers, or base64 of f32 values.") })),
  usage: z.object({ prompt_tokens: count, total_tokens: count }),
});

const block = z.discriminatedUnion("type", [
  z.object({ type: z.literal("text"), text }),
  z.object({ type: z.literal("thinking"), thinking: text, signature: text }),
  z.object({ type: z.literal("tool_use"), id: text, name: text, input: z.record(z.string(), z.unknown()) }),
]);
const messageUsage = z.object({ input_tokens: count, cache_creation_input_tokens: count, cache_read_input_tokens: count, output_tokens: count });
const ending = { stop_reason: z.enum(["end_turn", "max_tokens", "stop_sequence", "tool_use"]).nullable(), stop_sequence: text.nullable() };
const messageHead = { id: text, type: z.literal("message"), role: z.literal("assistant"), model: text, content: z.array(block), ...ending, usage: messageUsage };
export const message = z.object({ ...messageHead, moe: replyCost });
export const messageEvent = z.discriminatedUnion("type", [
  z.object({ type: z.literal("message_start"), message: z.object(messageHead) }),
  z.object({ type: z.literal("content_block_start"), index: count, content_block: block }),
  z.object({ type: z.literal("content_block_delta"), index: count, delta: z.discriminatedUnion("type", [
    z.object({ type: z.literal("text_delta"), text }), z.object({ type: z.literal("thinking_delta"), thinking: text }), z.object({ type: z.literal("input_json_delta"), partial_json: text }),
  ]) }),
  z.object({ type: z.literal("content_block_stop"), index: count }),
  z.object({ type: z.literal("message_delta"), delta: z.object(ending), usage: messageUsage, moe: replyCost }),
  z.object({ type: z.literal("message_stop") }),
  messagesErrorReply,
]);
export const inputTokens = z.object({ input_tokens: count });

const status = z.enum(["in_progress", "completed", "incomplete"]);
const outputText = z.object({ type: z.literal("output_text"), text, annotations: z.array(z.never()), logprobs: z.array(z.never()) });
const outputItem = z.discriminatedUnion("type", [
  z.object({ type: z.literal("reasoning"), id: text, summary: z.array(z.never()), content: z.array(z.object({ type: z.literal("reasoning_text"), text })), status }),
  z.object({ type: z.literal("message"), id: text, role: z.literal("assistant"), status, content: z.array(outputText) }),
  z.object({ type: z.literal("function_call"), id: text, call_id: text, name: text, arguments: text, status }),
]);
export const response = z.object({
  id: text, object: z.literal("response"), created_at: z.int(), status: z.enum(["in_progress", "completed", "incomplete", "failed"]), background: z.literal(false), model: text,
  error: z.object({ code: text, message: text }).nullable(),
  incomplete_details: z.object({ reason: z.literal("max_output_tokens") }).nullable(),
  output: z.array(outputItem), previous_response_id: z.null(), store: z.literal(false), truncation: z.literal("disabled"), service_tier: z.literal("default"), user: z.null(),
  instructions: text.nullable(), max_output_tokens: z.int().nullable(), temperature: finite, top_p: finite, tools: z.array(z.record(z.string(), z.unknown())),
  tool_choice: z.union([text, z.record(z.string(), z.unknown())]), parallel_tool_calls: z.boolean(), text: z.object({ format: z.record(z.string(), z.unknown()) }),
  reasoning: z.object({ effort: text.nullable(), summary: z.null() }), metadata: z.record(z.string(), z.string()),
  usage: z.object({
    input_tokens: count, input_tokens_details: z.object({ cached_tokens: count }), output_tokens: count, output_tokens_details: z.object({ reasoning_tokens: count }), total_tokens: count,
  }).nullable(),
  moe: replyCost.optional().describe("Absent while in progress."),
});
export const responseEvent = z.looseObject({
  type: text.describe("response.created, response.in_progress, response.output_item.added, response.content_part.added, response.output_text.delta, response.reasoning_text.delta, response.function_call_arguments.delta, the .done of each, and response.completed, response.incomplete, response.failed or error."),
  sequence_number: count,
  response: response.optional(),
  item: outputItem.optional(),
});

export const modelObject = z.object({
  id: text, object: z.literal("model"), created: z.literal(0).describe("A pack carries no date."), owned_by: text,
  moe: z.object({
    architecture: text, context_length: count, vocabulary: count, experts: count, experts_per_token: count,
    moe_layers: z.array(count).describe("Layers that have experts, ascending: the rows of a trace."),
    product_experts: z.object({ layers: z.array(count), experts: count }).optional().describe("Layers whose experts are made of halves, and how many experts each of them has; absent where none has."),
    prune: z.array(z.enum(["ratio", "calibrated", "learned"])).describe("Rules by which a request's `moe.prune` may leave experts out; empty where it may not."),
    interventions: z.array(z.enum(INTERVENTION_OPS)).describe("Operations that a request's `moe.interventions` may have; empty where it may have none."),
    tasks: count.optional().describe("Tasks that `moe.task` chooses among; absent where the model does not route by task."), condition_numbers: count.optional().describe("Numbers of `moe.condition`; absent where the model does not route by one."),
    chat: z.boolean().describe("Whether it takes messages."), routing_map: z.boolean().describe("Whether GET /v1/routing-map has a map of it."), pack_hash: text,
  }),
});
const profileSummary = z.object({
  name: text, description: text, model: text, packHash: text.nullable().describe("The only pack it is for; null for any of the model."), access: z.enum(["admin", "infer"]).describe("The scope a key needs to use it."),
  ops: z.array(z.enum([...INTERVENTION_OPS, "mask_experts"])).describe("What it does, in order."),
});
export const profileStored = profileSummary;
export const profileList = z.object({ object: z.literal("list"), data: z.array(profileSummary).describe("Those the key may use, by name.") });
export const profileDeleted = z.object({ name: text, deleted: z.literal(true) });
export const modelList = z.object({ object: z.literal("list"), data: z.array(modelObject) });

export const props = z.object({
  default_generation_settings: z.object({ n_ctx: count.describe("Most tokens of prompt and reply together."), params: z.record(z.string(), z.unknown()).describe("Sampling parameters a request leaves out.") }),
  total_slots: count.describe("Generations under way at once; more wait."), model_alias: text,
  chat_template: text.nullable().describe("Null where the model takes no messages."), bos_token: text.nullable(), eos_token: text.nullable(),
  modalities: z.object({ vision: z.literal(false), audio: z.literal(false) }),
});

const warmth = z.enum(WARMTHS).describe("cold: nothing was asked of it yet; loading; active: there is work; linger: a line without work, for a minute; closed: at rest since.");
const read = z.object({ moved: z.object({ memory: count, cache: count, donors: count, store: count }).describe("Bytes of weights by where they came from, since the object came up."), loadMs: count.describe("What that took, as far as its clock shows.") });
const generations = z.object({ active: count, queued: count, cancelled: count });
const laneHealth = z.array(z.object({ region: text.nullable(), lane: count, status: z.enum(["cold", "warming", "ready", "degraded", "failed", "unreachable"]) })).optional().describe("Of several orchestrators each one's own state.");
export const health = z.object({ status: z.enum(["ready", "degraded"]).describe("ready: somebody serves. degraded: somebody does, and a shard is not connected at this moment, or one of several orchestrators failed."), model: text.optional(), generations, lanes: laneHealth });
export const healthWaiting = z.object({ status: z.enum(["cold", "warming"]), loaded: finite.min(0).max(1).describe("Share of the bytes that are loaded."), model: text.optional(), lanes: laneHealth });
const sinceMs = z.record(z.string(), count).describe("When each state began, in milliseconds since 1970: planned, warming, committed, flipping, draining, retired, abandoned (docs/fleet.md, \"Epochs\").");
const changed = {
  epoch: count.describe("Of the plan it leads to."), reason: text.describe("What was asked for."), shards: z.tuple([count, count]).describe("Shards that hold experts, before and after."),
  plannedBytes: count.describe("Weights that shards must fetch."), movedBytes: count.describe("Weights they have fetched, as they report it; less where they found some in memory they share."),
  retries: count.describe("Calls that failed and were made again."), sinceMs, message: text.nullable().describe("Why it waits, or was given up."),
};
const change = z.object({ ...changed, fromEpoch: count, state: z.enum(["planned", "warming", "committed", "flipping", "draining", "retired", "abandoned"]), stepsLeft: count.describe("Changes that follow it: where room is short, the way to what was wished has several.") });
const directory = z.object({
  plan: z.object({
    epoch: count, packHash: text, fleet: text, lanes: count, stages: count, jurisdiction: text.nullable(),
    copies: z.tuple([count, count]).describe("On how many shards a part of an expert lies: the fewest and the most."),
    shards: z.array(z.object({ segments: count.describe("Parts of experts it holds; 0: it rests."), shared: count.describe("Of these, parts that another shard holds too."), region: text.nullable() })),
  }).nullable().describe("The plan in force; null before an orchestrator has woken."),
  change: change.nullable().describe("What is under way."),
  history: z.array(z.object({ ...changed, outcome: z.enum(["steady", "abandoned"]), endedMs: count })).describe("Changes that ended, the latest first."),
  lanes: z.array(z.object({ name: text, epoch: count.describe("The newest plan it is known to go by."), seenMs: count, reportedMs: count.nullable().describe("When it last said what follows; null: not since the directory came up."), freeKvPositions: count.nullable().describe("Positions of its KV cache that nobody uses.") })).describe("Orchestrators."),
  load: z.array(z.object({ layer: count, choices: count, busiest: count.describe("The expert chosen most."), timesMean: finite.describe("Over the mean of the layer's experts: 1 is even.") })).describe("Of each layer that was asked lately: choices of experts, half of them forgotten each minute."),
  faults: z.array(z.object({ atMs: count, shard: count, cause: text })).describe("Recent ones, the latest first."),
});
export const fleetPlan = z.object({
  version: z.literal(1), packId: text, packHash: text, fleet: text, epoch: count,
  shards: z.array(z.object({ slots: z.array(z.object({ layer: count, expert: count, segments: z.tuple([count, count]) })), region: text.nullable() })),
  stages: z.array(z.object({ embeddingRows: z.tuple([count, count]), layers: z.tuple([count, count]), headRows: z.tuple([count, count]), slots: z.array(z.object({ layer: count, expert: count, segments: z.tuple([count, count]) })) })),
  lanes: count, jurisdiction: text.nullable(),
}).describe("docs/formats.md, \"The plan\".");
export const fleetDirectory = directory;
const orchestrator = z.object({
  status: z.enum(["cold", "warming", "ready", "degraded", "failed"]), loaded: finite.min(0).max(1),
  message: text.nullable().describe("Why loading failed."),
  pack: z.object({ id: text, hash: text, contextLength: count }).nullable(),
  epoch: count.nullable().describe("Version of the plan in force; null before the model wakes."),
  isolate: z.object({ limitBytes: count, usedBytes: count, account: z.record(z.string(), count).describe("Bytes by purpose."), objects: z.array(text), kernels: text }).nullable(),
  generations,
  drafts: z.object({ tokens: count, held: count }).describe("Guesses evaluated, and how many of them held."),
  read: read.describe("Of the trunk, or the first stage's part of it."),
  stages: z.array(z.object({ name: text, loadedBytes: count, totalBytes: count, isReady: z.boolean() })).describe("Of a ring, those after the first, which is the orchestrator."),
  shards: z.array(z.object({
    name: text, state: z.enum(["idle", "connecting", "open", "closed"]), warmth,
    read: read.nullable().describe("As it last said; null before its first line."),
    weightBytes: count.describe("What the plan gives it to hold, known before it is loaded."),
    experts: count.describe("Experts of all layers that it holds, wholly or in part."),
    region: text.nullable().describe("The location hint it was made with; null where the platform chose."),
    loadedBytes: count, totalBytes: count, frames: count, bytes: count, retries: count, hedges: count,
    lastFault: text.nullable().describe("Why a line was last opened anew or a frame sent again."),
  })),
});
const owner = directory.nullable().describe("Who owns the plan; null where it cannot be reached: then the plan stands still, and everything else goes on.");
export const fleet = orchestrator.extend({
  directory: owner,
  regions: z.array(z.object({
    region: text.nullable().describe("Null: the platform chose."), directory: owner,
    lanes: z.array(z.object({ lane: count, name: text, status: orchestrator.nullable().describe("Null: it could not be reached.") })),
  })).describe("The caller's nearest first; what stands above is of its first lane that answers."),
  roundTrips: z.array(z.object({ from: text.describe("A region, or \"edge\": the Worker's isolate that answers."), to: text, ms: count, ageMs: count })).describe("There and back between regions, decayed, with the age of the latest measurement."),
});

export const fleetWarmth = z.object({
  ready: z.boolean().describe("Every lane serves, and every shard has a line to it."), loaded: finite.min(0).max(1).describe("Of the lane that has come least far."),
  lanes: z.array(z.object({
    region: text.nullable(), lane: count, name: text, status: z.enum(["cold", "warming", "ready", "degraded", "failed"]).nullable().describe("Null: it could not be reached."),
    loaded: finite.min(0).max(1), message: text.nullable(), shards: z.array(z.object({ name: text, warmth, weightBytes: count, loadedBytes: count })),
  })),
});

export const tokenList = z.object({ tokens: z.array(count) });
export const content = z.object({ content: text });
export const promptText = z.object({ prompt: text });
