// `node bench/serve.ts [--json]`: many streams at once over HTTP against one server in workerd: tokens per second in all, time to the first
// token, pauses between tokens; decoding at 16 streams against the same engine's prompt speed; and what fan-out to shards costs per token.
// Options: --cache DIR. The harness of every part is named in the output: one workerd process, or several joined by the dev registry.

import { buildProgram } from "../cli/setup.mjs";
import { measureFanOut, type FanOutReport } from "./fan-out.ts";
import { speedOf, streamCompletion, type StreamedAnswer } from "./http-client.ts";
import { machineLimits, type MachineLimits } from "./machine.ts";
import { cachedGguf, cachedPack, DEFAULT_CACHE } from "./model/cached-model.ts";
import { OLMOE_SHAPE, operationsPerToken } from "./model/random-model.ts";
import { promptOf } from "./model/vocabulary.ts";
import { machineReport, option, present, tableText, target, type Report } from "./report.ts";
import { median, percentile, rounded } from "./statistics.ts";
import { startServer } from "./serving.ts";

const PACK_ID = "bench";
const ISOLATE_MIB = 1024;
const STREAMS = [1, 4, 16, 64] as const;
/** Prompts of the streams are short, so that 64 of them are read in bounded time. */
const PROMPT_WORDS = 32;
const GENERATED = 48;
/** Prompt speed is measured on prompts of the engine benchmark's length. */
const LONG_PROMPT_WORDS = 120;
const PROMPT_REPEATS = 5;

interface StreamsReport {
  readonly streams: number;
  readonly tokensPerSecond: number;
  readonly firstTokenMs: { readonly p50: number; readonly p99: number };
  readonly interTokenMs: { readonly p50: number; readonly p99: number };
  /** Tokens per second while every stream that ran at once was generating, and the arithmetic of it; null when there was no such time. */
  readonly decode: { readonly tokensPerSecond: number; readonly gops: number } | null;
}

export interface ServeReport extends Report {
  readonly profile: string;
  readonly limits: MachineLimits;
  readonly prompt: { readonly tokensPerSecond: number; readonly gops: number };
  readonly streams: readonly StreamsReport[];
  readonly fanOut: FanOutReport;
}

/** What the answers of streams that began together amount to. */
export function streamsReport(answers: readonly StreamedAnswer[], operationsPerDecodedToken: number): StreamsReport {
  const all = answers.flatMap(({ tokenMs }) => tokenMs);
  const pauses = answers.flatMap(({ tokenMs }) => tokenMs.slice(1).map((ms, i) => ms - tokenMs[i]!));
  const firsts = answers.map(({ tokenMs }) => tokenMs[0]!);
  const [from, to] = [Math.max(...firsts), Math.min(...answers.map(({ tokenMs }) => tokenMs.at(-1)!))];
  const within = all.filter((ms) => ms > from && ms <= to).length;
  const decodeSpeed = to > from ? (1000 * within) / (to - from) : null;
  return {
    streams: answers.length,
    tokensPerSecond: rounded((1000 * all.length) / all.reduce((last, ms) => Math.max(last, ms), 0)),
    firstTokenMs: { p50: rounded(percentile(firsts, 0.5)), p99: rounded(percentile(firsts, 0.99)) },
    interTokenMs: { p50: rounded(percentile(pauses, 0.5)), p99: rounded(percentile(pauses, 0.99)) },
    decode: decodeSpeed === null ? null : { tokensPerSecond: rounded(decodeSpeed), gops: rounded((decodeSpeed * operationsPerDecodedToken) / 1e9) },
  };
}

export async function benchServe(): Promise<ServeReport> {
  await buildProgram();
  const machine = machineReport();
  const pack = await cachedPack(await cachedGguf(option("cache") ?? DEFAULT_CACHE, "olmoe", OLMOE_SHAPE, "Q4_0"), PACK_ID);
  const operations = operationsPerToken(OLMOE_SHAPE);
  const server = await startServer(pack, { packId: PACK_ID, shards: 1, isolateMiB: ISOLATE_MIB });
  const streams: StreamsReport[] = [];
  const promptSpeeds: number[] = [];
  let limits: MachineLimits;
  try {
    const ask = (words: number, seed: number, maxTokens: number): Promise<StreamedAnswer> =>
      streamCompletion(server.url, { model: PACK_ID, prompt: promptOf(words, seed), maxTokens });
    await ask(LONG_PROMPT_WORDS, 0, GENERATED);
    await Promise.all(Array.from({ length: 16 }, (_, i) => ask(PROMPT_WORDS, i, 8)));
    for (let i = 1; i <= PROMPT_REPEATS; i++) promptSpeeds.push(speedOf(await ask(LONG_PROMPT_WORDS, i, 2)).promptTokensPerSecond);
    for (const n of STREAMS) {
      // Few streams are repeated, so that their figures rest on as many tokens.
      const runs: StreamsReport[] = [];
      for (let run = 0; run < (n === 1 ? 5 : n === 64 ? 1 : 3); run++) {
        runs.push(streamsReport(await Promise.all(Array.from({ length: n }, (_, i) => ask(PROMPT_WORDS, 1000 * run + i, GENERATED))), operations.decode));
      }
      streams.push(runs.sort((a, b) => a.tokensPerSecond - b.tokensPerSecond)[runs.length >> 1]!);
    }
    limits = machineLimits();
  } finally {
    await server.close();
  }
  const fanOut = await measureFanOut(pack, PACK_ID, ISOLATE_MIB);
  const promptSpeed = median(promptSpeeds);
  const prompt = { tokensPerSecond: rounded(promptSpeed), gops: rounded((promptSpeed * (operations.prompt + operations.head / LONG_PROMPT_WORDS)) / 1e9) };
  const of = (n: number): StreamsReport => streams.find((s) => s.streams === n)!;
  return {
    machine, profile: server.profile, limits, prompt, streams, fanOut,
    targets: {
      ...(of(16).decode === null ? {} : { "16 streams: decode GOP/s of the own prompt GOP/s": target(of(16).decode!.gops / prompt.gops, 0.7, 0.85) }),
      "more streams: the fewest tokens/s of 4, 16 and 64 over those of 1": target(Math.min(...[4, 16, 64].map((n) => of(n).tokensPerSecond)) / of(1).tokensPerSecond, 1, 1),
      ...fanOut.targets,
    },
  };
}

if (import.meta.main) {
  await present("serve", benchServe, ({ profile, prompt, streams, fanOut, limits }) => [
    `${profile}; prompts of ${PROMPT_WORDS} tokens, ${GENERATED} generated; prompt speed ${prompt.tokensPerSecond} tokens/s = ${prompt.gops} GOP/s; dots ${limits.dotsI32Gops} i32, ${limits.dotsI16Gops} i16 GOP/s`,
    tableText([["streams", "tokens/s", "first p50 ms", "p99", "pause p50 ms", "p99", "decode tokens/s", "GOP/s"], ...streams.map((s) =>
      [s.streams, s.tokensPerSecond, s.firstTokenMs.p50, s.firstTokenMs.p99, s.interTokenMs.p50, s.interTokenMs.p99, s.decode?.tokensPerSecond ?? "-", s.decode?.gops ?? "-"])]), "",
    `fan-out in ${fanOut.harness}`,
    tableText([["ms", ...fanOut.inOneProcess[0]!.ms.map((_, i) => `batch ${fanOut.batches[i]}`)], ...fanOut.inOneProcess.map((row) => [row.name, ...row.ms])]), "",
    `processes: ${fanOut.processes.harness}`,
    tableText([["expert wall", "ms", "speed-up"], ...fanOut.processes.rows.map((row) => [row.name, row.ms, row.speedUp])]), "",
    tableText([[`prompt of ${fanOut.processes.promptTokens}, experts in another process, rounds`, "ms", "speed-up"], ...fanOut.processes.prompts.map((row) => [row.name, row.ms, row.speedUp])]), "",
  ].join("\n"));
}
