// `workers-moe chat <pack>`: a conversation in the terminal with the in-process engine, token by token.
// Ctrl-C ends the answer, a second time (or Ctrl-D) the program. Without a terminal, each line of stdin is a message and answers go to stdout.

import { InvalidArgumentError, type Command } from "commander";
import { createInterface } from "node:readline";
import { encodeChat, type ChatMessage } from "../../model/chat-template.ts";
import { createReplyParser, replyFormat } from "../../model/reply-parser.ts";
import { LocalGeneration } from "../local-generation.ts";
import { openPack, type LocalModel } from "../open-pack.ts";
import { startProgress } from "../progress.ts";
import { type RoutingOptions, routingOf, withRouting } from "../routing-option.ts";
import { ReplyDisplay } from "../reply-display.ts";
import { PLAIN_SAMPLING } from "../../model/sampling.ts";

interface ChatOptions extends RoutingOptions {
  readonly system?: string;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  readonly seed?: number;
}

const numberIn = (min: number, max: number) => (text: string): number => {
  const value = Number(text);
  if (text.trim() === "" || !(value >= min && value <= max)) throw new InvalidArgumentError(`found "${text}", expected a number from ${min} to ${max}.`);
  return value;
};
const integerIn = (min: number, max: number) => (text: string): number => {
  const value = numberIn(min, max)(text);
  if (!Number.isInteger(value)) throw new InvalidArgumentError(`found "${text}", expected an integer.`);
  return value;
};

export function register(program: Command): void {
  withRouting(program.command("chat")
    .description("talk with a pack in the terminal")
    .argument("<pack>", "folder of a pack")
    .option("--system <text>", "system message")
    .option("--max-tokens <n>", "longest answer", integerIn(1, 1_000_000), 400)
    .option("--temperature <t>", "0 takes the most likely token", numberIn(0, 2), 0.7)
    .option("--top-p <p>", "keep the most likely tokens up to this probability", numberIn(0, 1), 0.95)
    .option("--top-k <k>", "keep the k most likely tokens; 0 keeps all", integerIn(0, 1_000_000), 0)
    .option("--seed <n>", "seed of the sampling; drawn when left out", integerIn(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)))
    .action(chat);
}

async function chat(pack: string, options: ChatOptions): Promise<void> {
  const model = await load(pack);
  const { tokenizer, manifest } = model;
  const settings = manifest.tokenizer;
  if (tokenizer === null || settings === null || settings.chatTemplate === null) {
    throw new Error(`The pack "${manifest.id}" has no chat template; \`serve\` it and use /v1/completions.`);
  }
  const template = settings.chatTemplate;
  const routing = routingOf(model, options);
  const format = replyFormat(tokenizer, template);
  const streams = { isTerminal: process.stdout.isTTY === true, out: (text: string) => void process.stdout.write(text), aside: (text: string) => void process.stderr.write(text) };
  const messages: ChatMessage[] = options.system === undefined ? [] : [{ role: "system", content: options.system }];
  const generation = new LocalGeneration(model, routing);
  const lines = createInterface({ input: process.stdin, output: process.stdin.isTTY ? process.stdout : undefined, prompt: "\n> " });
  let answering: AbortController | null = null;
  let ended = false;
  lines.on("close", () => (ended = true));
  const ask = (): void => {
    if (!ended) lines.prompt();
  };
  lines.on("SIGINT", () => (answering === null ? lines.close() : answering.abort()));
  if (process.stdin.isTTY) process.stdout.write(`${manifest.id}, ${model.kernels.kernels.name} kernels. Ctrl-C stops an answer, Ctrl-D ends.\n`);
  ask();
  for await (const line of lines) {
    if (line.trim() === "") {
      ask();
      continue;
    }
    messages.push({ role: "user", content: line });
    const { ids, text } = encodeChat(tokenizer, template, messages, { addGenerationPrompt: true, date: new Date(), bosToken: settings.bosToken, eosToken: settings.eosToken });
    const { bosTokenId } = manifest.config;
    const prompt = settings.addBos && bosTokenId !== null && ids[0] !== bosTokenId ? [bosTokenId, ...ids] : ids;
    answering = new AbortController();
    const parser = createReplyParser(tokenizer, format, text, false);
    const reply = new ReplyDisplay(streams);
    const sampling = { ...PLAIN_SAMPLING, temperature: options.temperature, topP: options.topP, topK: options.topK, seed: options.seed ?? Math.floor(Math.random() * 2 ** 32) };
    for await (const id of generation.run(prompt, options.maxTokens, sampling, answering.signal)) {
      reply.show(parser.push(id));
      await new Promise(setImmediate); // lets Ctrl-C through between tokens
    }
    reply.show(parser.flush());
    reply.end();
    answering = null;
    messages.push({ role: "assistant", content: reply.answer, ...(reply.reasoning === "" ? {} : { reasoning: reply.reasoning }) });
    ask();
  }
  generation.close();
}

async function load(pack: string): Promise<LocalModel> {
  let bar: ReturnType<typeof startProgress> | null = null;
  try {
    return await openPack(pack, {
      onProgress: (loaded, total) => {
        bar ??= startProgress({ label: "loading", total: total / 2 ** 20, unit: "MiB", quiet: !process.stderr.isTTY });
        bar.update(loaded / 2 ** 20);
      },
    });
  } finally {
    (bar as ReturnType<typeof startProgress> | null)?.stop();
  }
}
