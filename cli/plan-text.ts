// The plan as a table for people. Owns words and rounding. Refuses sums: every figure is the document's (plan-document.ts).

import type { StageCapacity } from "../fleet/capacity-stages.ts";
import { efficiencyRows } from "./efficiency-rows.ts";
import type { PlanDocument, StepFigures } from "./plan-document.ts";
import { percent, showBytes, showCount, showTable } from "./sizes.ts";

/** Stages shown one by one; of more, the first and the last ones. */
const SHOWN_STAGES = 8;

const oneOf = (n: number, word: string): string => `${n} ${word}${n === 1 ? "" : "s"}`;
const figure = (n: number): string => (n >= 1000 ? showCount(Math.round(n)) : n >= 100 ? n.toFixed(0) : n >= 1 ? n.toFixed(1) : n.toFixed(2));
const dollars = (n: number): string => `$${n >= 10 ? n.toFixed(0) : n >= 0.1 ? n.toFixed(2) : n.toFixed(4)}`;
const span = ([from, to]: readonly [number, number]): string => (to - from === 1 ? String(from) : `${from} to ${to - 1}`);

function holds({ embeddingRows, layers, headRows }: StageCapacity): string {
  const parts: string[] = [];
  if (embeddingRows[1] > embeddingRows[0]) parts.push(`embedding rows ${span(embeddingRows)}`);
  if (layers[1] > layers[0]) parts.push(`layer${layers[1] - layers[0] === 1 ? "" : "s"} ${span(layers)}`);
  if (headRows[1] > headRows[0]) parts.push(`head rows ${span(headRows)}`);
  return parts.join(", ");
}

function stageRows(stages: PlanDocument["lanes"]["stages"]): [string, string][] {
  const rows = stages.map((stage, at): [string, string] => [`  stage ${at}`, `${showBytes(stage.bytes).padStart(9)}  weights ${showBytes(stage.weightBytes)}${stage.expertBytes > 0 ? ` (experts ${showBytes(stage.expertBytes)})` : ""}, KV cache ${showBytes(stage.kvBytes)}: ${holds(stage)}`]);
  if (rows.length <= SHOWN_STAGES) return rows;
  return [...rows.slice(0, SHOWN_STAGES - 2), ["  ...", `${rows.length - SHOWN_STAGES + 1} more`], rows.at(-1)!];
}

const step = (s: StepFigures): string => `${figure(s.expertFrames)} frames to shards and as many back${s.ringFrames === 0 ? "" : `, ${figure(s.ringFrames)} between stages`}; `
  + `${oneOf(s.hops, "hop")} one after the other; ${showBytes(Math.round(s.bytes))}`;

function routingRows({ from, placement, traces, tokens, shardsPerTokenAndLayer, loadImbalance, crossRegion, caches }: PlanDocument["routing"]): [string, string][] {
  const source = from === "a trace" ? `by ${oneOf(tokens!, "token")} of ${traces.map(({ file }) => file).join(", ")}` : "by even draws, without a trace";
  return [
    ["routing", `${source}; placement ${placement}: ${figure(shardsPerTokenAndLayer)} shards asked by a token in a layer, the busiest has ${figure(loadImbalance)} times the mean`],
    ...(crossRegion === null ? [] : [["  crossing", `${percent(crossRegion.frames)} of frames leave the stages' region; ${percent(crossRegion.nextExpert)} of tokens' next experts are in another region`] as [string, string]]),
    ...(caches ?? []).slice(1, 2).map(({ experts, recentlyUsed, best, bytes }): [string, string] => ["  locality", `a cache of ${oneOf(experts, "expert")} a layer, ${showBytes(bytes)} in all, would hit ${percent(recentlyUsed)} of choices by LRU, ${percent(best)} at best`]),
  ];
}

function insteadRows(other: PlanDocument["experts"]["instead"]): [string, string][] {
  if (other === null) return [];
  const { in: where, isolates, frames, hops, regionTokensPerSecond: speeds, dollarsPerMillionTokens: prices } = other;
  return [["  instead", `--experts ${where}: ${oneOf(isolates, "isolate")}; a token takes ${figure(frames)} frames and ${oneOf(hops, "hop")}; ${speeds.map(figure).join(" / ")} tokens/s of all, ${prices.map(dollars).join(" / ")} a million`]];
}

export function planText(plan: PlanDocument): string {
  const { model, asked, routing, bytes, isolates, lanes, experts, shards, traffic, speed } = plan;
  const inRegions = isolates.deployments > 1;
  const setBy = lanes.stages.length === 1 ? "" : lanes.stagesSetBy === "kv" ? `; the KV cache sets their number, the trunk alone needs ${lanes.stagesForWeights}` : "; the trunk's weights set their number";
  const rows: [string, string][] = [
    ["model", `${model.id}: ${model.architecture}, ${showCount(model.parameters)} parameters, ${showCount(model.activeParameters)} in one token${model.quant === null ? "" : `, as packed with --quant ${model.quant}`}`],
    ...(model.efficiency === null ? [] : efficiencyRows(model.efficiency)),
    ["asked for", `${oneOf(asked.streams, "stream")} of ${asked.contextTokens} tokens, isolates of ${showBytes(asked.isolateBytes)} (${showBytes(isolates.roomBytes)} of it for an object)`
      + (asked.regions.length === 0 ? "" : asked.regionHolds === "deployment" ? `, in ${asked.regions.join(", ")}` : `, its shards over ${asked.regions.join(", ")}`)],
    ["trunk", `${showBytes(bytes.trunkBytes)}: embedding ${showBytes(bytes.embeddingBytes)}, layers ${showBytes(bytes.layerBytes.reduce((a, b) => a + b, 0))}, head ${showBytes(bytes.headBytes)}, rotation table ${showBytes(bytes.ropeBytes)}`],
    ["experts", showBytes(bytes.expertBytes)],
    ["KV cache", `${showCount(bytes.kvBytesPerToken)} bytes per token (${model.kvFormat}), ${showBytes(bytes.kvBytesPerToken * asked.contextTokens)} per stream`],
    ["", ""],
    ["isolates", `${isolates.all}${inRegions ? ` in ${isolates.deployments} regions, ${isolates.perDeployment} in each` : ""}; the fullest ${showBytes(isolates.largestBytes)}, all together ${showBytes(isolates.plannedBytes)}`],
    ["lanes", `${lanes.lanes}, each of ${oneOf(lanes.stages.length, "stage")}${setBy}`],
    ...stageRows(lanes.stages),
    ["  tokens", `${lanes.residentTokensPerLane} resident in a lane at most; ${oneOf(lanes.streamsPerLane, "stream")} of ${asked.contextTokens} asked for`],
    ["shards", shards.shards === 0 ? (experts.in === "stages" ? "none: each stage holds the experts of its layers, and nothing is sent for them" : "none: no layer has experts that shards could hold") : `${shards.shards}, ${shards.isSliced ? "experts cut into segments, since one exceeds an isolate" : "whole experts"}; ${showBytes(shards.smallestBytes)} to ${showBytes(shards.largestBytes)} each`
      + (asked.replicas > 1 ? `, every segment on ${asked.replicas} of them` : "") + (shards.hotCopies > 0 ? `, ${shards.hotCopies} more copies (${showBytes(shards.hotBytes)}) of the experts asked most` : "")],
    ...insteadRows(experts.instead),
    ["", ""],
    ...(shards.shards === 0 ? [] : routingRows(routing)),
    ["a token sends", step(traffic.token)],
    [`a prompt chunk`, `of ${traffic.promptChunk.tokens}: ${step(traffic.promptChunk)}`],
    ["messages", traffic.guideTokensPerSecond === null ? "none" : `${figure(traffic.stageMessagesPerStep)} to the busiest stage and ${figure(traffic.shardMessagesPerStep)} to the busiest shard in a step of ${oneOf(speed.groupTokens, "token")}; `
      + `${traffic.guideMessagesPerSecond} a second are reached at ${figure(traffic.guideTokensPerSecond)} tokens/s`],
    ["", ""],
    ...speed.at.flatMap((at): [string, string][] => [
      [`at ${at.roundTripMs} ms there and back`, `${at.roundTripFrom}: ${figure(at.streamTokensPerSecond)} tokens/s for one stream, ${figure(at.regionTokensPerSecond)} for ${asked.streams}${inRegions ? " in a region" : ""}${at.limitedByGuide ? " (held by the guide on messages)" : ""}; prompts ${figure(at.promptTokensPerSecond)}`],
      ["  one token", `${figure(at.alone.stepMs)} ms: trunk ${figure(at.alone.trunkMs)}, attention ${figure(at.alone.attentionMs)}, experts ${figure(at.alone.expertsMs)}, messages ${figure(at.alone.messagesMs)}`],
      ["  a million tokens", `${dollars(at.dollarsPerMillionTokens.total)}: messages ${dollars(at.dollarsPerMillionTokens.messages)}, stages ${dollars(at.dollarsPerMillionTokens.stages)}, shards ${dollars(at.dollarsPerMillionTokens.shards)}, requests ${dollars(at.dollarsPerMillionTokens.worker)}`],
    ]),
    ["an idle month", `${dollars(plan.idleMonthDollars.total)}: store ${dollars(plan.idleMonthDollars.store)}, weights cached in SQLite ${dollars(plan.idleMonthDollars.cache)}; kept warm (KEEP_WARM) ${dollars(plan.idleMonthDollars.keepWarm)} more, kept awake ${dollars(plan.idleMonthDollars.awake)} more`],
  ];
  return `${showTable(rows).replace(/ +$/gm, "")}\nPrices as of ${plan.prices.asOf}. Assumed:\n${plan.assumptions.map((line) => `- ${line}\n`).join("")}`;
}
