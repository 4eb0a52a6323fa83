// `node bench/engine.ts [--json]`: tokens per second of a whole engine, from the HTTP request to the last token in workerd and in this
// process, against wllama on the very file ours is packed from without loss, and where that says so on others of the same random weights, in one
// sitting with interleaved runs, one thread each. Options: --rounds N, --cache DIR, --only "Q4_0,Q8_0".

import { FolderSource } from "../cli/file-source.ts";
import { buildProgram } from "../cli/setup.mjs";
import { openPack, readTokenizerJson } from "../formats/pack-reader.ts";
import { createTokenizer } from "../model/tokenizer.ts";
import { timedKernels, type Breakdown } from "./breakdown.ts";
import { speedOf, streamCompletion, type Speed } from "./http-client.ts";
import { generateLocally, localEngine } from "./local-engine.ts";
import { machineLimits, type MachineLimits } from "./machine.ts";
import { cachedGguf, cachedPack, DEFAULT_CACHE } from "./model/cached-model.ts";
import { activeBytes, OLMOE_SHAPE, parametersOf, type ModelQuant } from "./model/random-model.ts";
import { promptOf } from "./model/vocabulary.ts";
import { installPeers } from "./peers/install.ts";
import { startWllama, wllamaVersion } from "./peers/wllama.ts";
import { machineReport, option, present, tableText, target, type Report, type Target } from "./report.ts";
import { median, rounded } from "./statistics.ts";
import { startServer } from "./serving.ts";

const PACK_ID = "bench";
const PROMPT_WORDS = 120;
const GENERATED = 32;
const ISOLATE_MIB = 1024;
const LOCAL_CHUNK_TOKENS = 512;

/** Each sitting: the file ours is packed from, and the peer's files it is compared with: the same one, and for Q4_0 the one on which the peer is fastest. */
const SITTINGS: readonly { readonly name: string; readonly ours: ModelQuant; readonly peers: readonly ModelQuant[] }[] = [
  { name: "Q4_0", ours: "Q4_0", peers: ["Q4_0", "Q4_K_M"] },
  { name: "Q4_K_M", ours: "Q4_K_M", peers: ["Q4_K_M"] },
  { name: "Q8_0", ours: "Q8_0", peers: ["Q8_0"] },
];

/** What the issue wants of a ratio to the peer: [sitting, peer, figure, bar, stretch]. */
const WANTED: readonly (readonly [sitting: string, peer: ModelQuant, figure: keyof Speed, bar: number, stretch: number])[] = [
  ["Q4_0", "Q4_0", "tokensPerSecond", 8, 12],
  ["Q4_0", "Q4_K_M", "tokensPerSecond", 5, 8],
  ["Q8_0", "Q8_0", "tokensPerSecond", 7, 10],
  ["Q4_0", "Q4_0", "promptTokensPerSecond", 14, 19],
];

interface Sitting {
  readonly name: string;
  readonly profile: string;
  readonly promptTokens: number;
  readonly generated: number;
  readonly limits: MachineLimits;
  /** Medians over the rounds: workerd over HTTP, Node in-process, and each peer by the name of its file. */
  readonly speeds: Readonly<Record<string, Speed>>;
  /** Ours in workerd over each peer, medians of round-by-round ratios. */
  readonly ratios: Readonly<Record<string, Speed>>;
  /** Weight bytes per generated token x tokens per second, as a share of the stream of the largest buffer. */
  readonly weightStreamShare: number;
  /** Leading characters of the generated text that equal the peer's, of how many: both run the same model. */
  readonly sameText: Readonly<Record<string, string>>;
  /** Node in-process: ms of the whole prompt, and ms per generated token. */
  readonly breakdown: { readonly prompt: Breakdown; readonly perToken: Breakdown };
}

export interface EngineReport extends Report {
  readonly model: { readonly parameters: number; readonly shape: typeof OLMOE_SHAPE };
  readonly peer: string;
  readonly sittings: readonly Sitting[];
}

const medianSpeed = (speeds: readonly Speed[]): Speed => ({
  promptTokensPerSecond: rounded(median(speeds.map((s) => s.promptTokensPerSecond))), tokensPerSecond: rounded(median(speeds.map((s) => s.tokensPerSecond))),
});
const ratio = (a: Speed, b: Speed): Speed => ({ promptTokensPerSecond: a.promptTokensPerSecond / b.promptTokensPerSecond, tokensPerSecond: a.tokensPerSecond / b.tokensPerSecond });

/** One engine of a sitting: answers a prompt with its speed and text. */
interface Contestant {
  run(prompt: string): Promise<{ speed: Speed; promptTokens: number; text: string }>;
  close(): Promise<void>;
}

async function overHttp(pack: string): Promise<Contestant & { readonly profile: string }> {
  const server = await startServer(pack, { packId: PACK_ID, shards: 1, isolateMiB: ISOLATE_MIB });
  return {
    profile: server.profile,
    async run(prompt) {
      const answer = await streamCompletion(server.url, { model: PACK_ID, prompt, maxTokens: GENERATED });
      return { speed: speedOf(answer), promptTokens: answer.promptTokens, text: answer.text };
    },
    close: () => server.close(),
  };
}

async function inProcess(pack: string): Promise<Contestant & { breakdown(): { prompt: Breakdown; perToken: Breakdown } }> {
  const source = new FolderSource(pack);
  const { manifest } = await openPack(source);
  const tokenizer = createTokenizer((await readTokenizerJson(source, manifest))!);
  const timed = timedKernels({ vocabSize: manifest.config.vocabSize, nExperts: manifest.config.nExperts });
  const engine = await localEngine(pack, { maxChunkTokens: LOCAL_CHUNK_TOKENS, wrap: timed.wrap });
  let last: { prompt: Breakdown; perToken: Breakdown } | null = null;
  return {
    async run(text) {
      const ids = tokenizer.encodeText(text);
      timed.take(0);
      const started = performance.now();
      let prompt: Breakdown = {};
      const run = await generateLocally(engine, ids, GENERATED, () => (prompt = timed.take(performance.now() - started)));
      const generation = timed.take(run.generateMs);
      const perToken = Object.fromEntries(Object.entries(generation).map(([part, { ms, calls }]) => [part, { ms: ms / (GENERATED - 1), calls: calls / (GENERATED - 1) }]));
      last = { prompt, perToken };
      return {
        speed: { promptTokensPerSecond: (1000 * ids.length) / run.promptMs, tokensPerSecond: (1000 * (GENERATED - 1)) / run.generateMs },
        promptTokens: ids.length, text: tokenizer.decode(run.ids),
      };
    },
    breakdown: () => last!,
    close: async () => {},
  };
}

async function peer(gguf: string): Promise<Contestant> {
  installPeers();
  const wllama = await startWllama(gguf);
  return {
    async run(prompt) {
      const a = await wllama.complete({ prompt, maxTokens: GENERATED });
      return { speed: { promptTokensPerSecond: (1000 * a.promptTokens) / a.promptMs, tokensPerSecond: (1000 * a.generatedTokens) / a.generatedMs }, promptTokens: a.promptTokens, text: a.text };
    },
    close: () => wllama.close(),
  };
}

const commonLength = (a: string, b: string): number => {
  let n = 0;
  while (n < a.length && a[n] === b[n]) n++;
  return n;
};

async function sit({ name, ours, peers }: (typeof SITTINGS)[number], rounds: number, cache: string): Promise<Sitting> {
  const pack = await cachedPack(await cachedGguf(cache, "olmoe", OLMOE_SHAPE, ours), PACK_ID);
  const files = await Promise.all(peers.map((quant) => cachedGguf(cache, "olmoe", OLMOE_SHAPE, quant)));
  const open: Contestant[] = [];
  try {
    const workerd = await overHttp(pack);
    open.push(workerd);
    const node = await inProcess(pack);
    open.push(node);
    const contestants = new Map<string, Contestant>([["workerd", workerd], ["node", node]]);
    for (const [i, quant] of peers.entries()) {
      const one = await peer(files[i]!.gguf);
      open.push(one);
      contestants.set(`wllama ${quant}`, one);
    }
    const speeds = new Map<string, Speed[]>([...contestants.keys()].map((key) => [key, []]));
    const sameText: Record<string, string> = {};
    let promptTokens = 0;
    // Round 0 warms up: compilers, caches, the memory behind the files.
    for (let round = 0; round <= rounds; round++) {
      const prompt = promptOf(PROMPT_WORDS, round);
      const texts = new Map<string, string>();
      for (const [key, contestant] of contestants) {
        const done = await contestant.run(prompt);
        if (promptTokens !== 0 && done.promptTokens !== promptTokens) throw new Error(`${key} read ${done.promptTokens} prompt tokens where another engine read ${promptTokens}: they do not run the same prompt.`);
        promptTokens = done.promptTokens;
        texts.set(key, done.text);
        if (round > 0) speeds.get(key)!.push(done.speed);
      }
      const [own, ...others] = [...texts];
      for (const [key, text] of others) sameText[key] = `${commonLength(own![1], text)} of ${own![1].length} characters`;
    }
    const own = speeds.get("workerd")!;
    const limits = machineLimits();
    const ownSpeed = medianSpeed(own);
    const stream = Object.values(limits.streamGBps).at(-1)!;
    return {
      name, profile: workerd.profile, promptTokens, generated: GENERATED, limits,
      speeds: Object.fromEntries([...speeds].map(([key, list]) => [key, medianSpeed(list)])),
      ratios: Object.fromEntries(peers.map((quant) => [quant, medianSpeed(own.map((speed, i) => ratio(speed, speeds.get(`wllama ${quant}`)![i]!)))])),
      weightStreamShare: rounded((activeBytes(OLMOE_SHAPE, ours) * ownSpeed.tokensPerSecond) / 1e9 / stream),
      sameText, breakdown: node.breakdown(),
    };
  } finally {
    for (const contestant of open) await contestant.close();
  }
}

export async function benchEngine(): Promise<EngineReport> {
  await buildProgram();
  const machine = machineReport();
  const [rounds, cache, only] = [Number(option("rounds") ?? 5), option("cache") ?? DEFAULT_CACHE, option("only")?.split(",")];
  const sittings: Sitting[] = [];
  for (const sitting of SITTINGS) if (only === undefined || only.includes(sitting.name)) sittings.push(await sit(sitting, rounds, cache));
  const targets: Record<string, Target> = {};
  for (const [name, quant, figure, bar, stretch] of WANTED) {
    const value = sittings.find((s) => s.name === name)?.ratios[quant]?.[figure];
    if (value !== undefined) targets[`${figure === "tokensPerSecond" ? "generation" : "prompt"}, ${name} in workerd over wllama ${quant}`] = target(value, bar, stretch);
  }
  return { machine, model: { parameters: parametersOf(OLMOE_SHAPE), shape: OLMOE_SHAPE }, peer: `wllama ${wllamaVersion()}`, sittings, targets };
}

const breakdownText = (title: string, breakdown: Breakdown): string =>
  `${title}: ` + Object.entries(breakdown).sort((a, b) => b[1].ms - a[1].ms).slice(0, 8).map(([part, { ms }]) => `${part} ${rounded(ms)}`).join(", ");

if (import.meta.main) {
  await present("engine", benchEngine, ({ sittings }) => sittings.map((s) => [
    `${s.name}: ${s.promptTokens} prompt tokens, ${s.generated} generated; ours: ${s.profile}`,
    tableText([["tokens/s", "prompt", "generation"], ...Object.entries(s.speeds).map(([key, v]) => [key, v.promptTokensPerSecond, v.tokensPerSecond])]),
    `weights read at ${s.weightStreamShare} of the stream (${JSON.stringify(s.limits.streamGBps)} GB/s); dots ${s.limits.dotsI32Gops} i32, ${s.limits.dotsI16Gops} i16 GOP/s`,
    `text in common with workerd's: ${Object.entries(s.sameText).map(([key, text]) => `${key} ${text}`).join(", ")}`,
    breakdownText("Node, ms per prompt", s.breakdown.prompt), breakdownText("Node, ms per token", s.breakdown.perToken),
  ].join("\n")).join("\n\n"));
}
