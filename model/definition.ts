// The definition of the model: one forward pass in float64, written to be read. Tests compare the engine with it.
// Owns the mathematics of every architecture we name. Imports nothing of the engine but the config record, is never fast,
// and refuses batching, caching and quantisation. Sources: the architectures' reference implementations, as cited in docs/architecture.md.

import type { MlaConfig, ModelConfig, RouterConfig } from "./config.ts";
import { keyWeights, productLayer, type KeyWeights } from "./definition-product.ts";

/** A matrix as rows of numbers; weights arrive dequantised. */
export interface DefinitionMatrix {
  readonly rows: number;
  readonly cols: number;
  readonly values: ArrayLike<number>; // [rows, cols]
}
/**
 * Weights by canonical name: trunkTensors() of config.ts, `layers.N.experts.E.{gate,up,down}` (where there is a gate) and their biases, `layers.N.shared.{gate,up,down}`;
 * of stacks of matrices each by its number (layers.N.kB.0). Vectors have one row.
 */
export type DefinitionWeights = (name: string) => DefinitionMatrix;

type Vector = number[];

const dot = (a: Vector, b: ArrayLike<number>, offset: number): number => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[offset + i]!;
  return sum;
};
const multiply = (m: DefinitionMatrix, x: Vector): Vector =>
  Array.from({ length: m.rows }, (_, row) => dot(x, m.values, row * m.cols));
const add = (a: Vector, b: Vector): Vector => a.map((value, i) => value + b[i]!);
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
export const silu = (x: number): number => x * sigmoid(x);
/** The error function as its series: 2 / sqrt(pi) exp(-x^2) times the sum of 2^n x^(2n+1) / (2n+1)!!, no term of which has another sign. */
export const erf = (x: number): number => {
  if (Math.abs(x) > 6) return Math.sign(x);
  let [term, sum] = [x, x];
  for (let n = 1; n < 150; n++) sum += (term *= (2 * x * x) / (2 * n + 1));
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
};
/** The form of BERT, x times the normal distribution's share below x. */
export const gelu = (x: number): number => (x / 2) * (1 + erf(x / Math.SQRT2));
/** The clamped activation of gpt-oss. */
export const clampedSwiglu = (gate: number, up: number, limit = 7, alpha = 1.702): number => {
  const g = Math.min(gate, limit);
  const u = Math.max(-limit, Math.min(up, limit));
  return (u + 1) * g * sigmoid(alpha * g);
};

export function rmsNorm(x: Vector, weight: ArrayLike<number>, eps: number): Vector {
  const inverse = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length + eps);
  return x.map((v, i) => v * inverse * weight[i]!);
}

export function layerNorm(x: Vector, weight: ArrayLike<number>, bias: ArrayLike<number>, eps: number): Vector {
  const mean = x.reduce((sum, v) => sum + v, 0) / x.length;
  const inverse = 1 / Math.sqrt(x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length + eps);
  return x.map((v, i) => (v - mean) * inverse * weight[i]! + bias[i]!);
}

/** Softmax; a sink takes part in the denominator and is dropped. */
export function softmax(x: Vector, sink?: number): Vector {
  const max = Math.max(...x, sink ?? -Infinity);
  const e = x.map((v) => Math.exp(v - max));
  const sum = e.reduce((a, b) => a + b, sink === undefined ? 0 : Math.exp(sink - max));
  return e.map((v) => v / sum);
}

/** Rotates the first rope.dim numbers of one head, by the frequencies of a sequence that is long or not. */
function rotate(x: Vector, c: ModelConfig, position: number, isLong: boolean): Vector {
  const out = [...x];
  const half = c.rope.dim / 2;
  const { inverseFrequencies, magnitude } = isLong && c.rope.long !== null ? c.rope.long : c.rope;
  for (let i = 0; i < half; i++) {
    const [a, b] = c.rope.style === "half" ? [i, i + half] : [2 * i, 2 * i + 1];
    const angle = position * inverseFrequencies[i]!;
    const [cos, sin] = [Math.cos(angle) * magnitude, Math.sin(angle) * magnitude];
    out[a] = x[a]! * cos - x[b]! * sin;
    out[b] = x[b]! * cos + x[a]! * sin;
  }
  return out;
}

/** Indices of the k largest; ties go to the lowest index. */
const largest = (x: Vector, k: number): number[] =>
  x.map((_, i) => i).sort((a, b) => x[b]! - x[a]! || a - b).slice(0, k);

export interface Routing {
  readonly ids: number[]; // rank order
  readonly weights: number[];
  /** Experts that are ranked behind those and not run, with their shares of one. */
  readonly auxiliaries: readonly { readonly id: number; readonly share: number }[];
  /** How far the choice is from another one: smallest gap between a chosen and a rejected selection score, of experts or of groups. */
  readonly margin: number;
}

/** Score -> Select -> Weigh for one token. `bias` is the selection bias; behind the logits of `nTrue` experts stand those of null ones. */
export function route(r: RouterConfig, logits: Vector, bias?: ArrayLike<number>, nTrue = logits.length): Routing {
  if (r.select === "sparsemixer") {
    return sparsemixer(logits, r.sparsemixerEpsilon);
  }
  const scores = r.score === "softmax" ? softmax(logits.map((z) => z / (r.threshold?.temperature ?? 1))) : r.score === "sigmoid" ? logits.map(sigmoid)
    : r.score === "one" ? logits.map(() => 1) : logits;
  let selection = scores.map((score, e) => score + (bias?.[e] ?? 0));
  let groupMargin = Infinity;
  if (r.nGroups > 1) {
    const size = selection.length / r.nGroups;
    const groups = Array.from({ length: r.nGroups }, (_, g) => {
      const sorted = selection.slice(g * size, (g + 1) * size).sort((a, b) => b - a);
      return r.groupScore === "max" ? sorted[0]! : sorted[0]! + sorted[1]!;
    });
    const order = largest(groups, groups.length);
    const kept = new Set(order.slice(0, r.topKGroups));
    if (r.topKGroups < r.nGroups) groupMargin = groups[order[r.topKGroups - 1]!]! - groups[order[r.topKGroups]!]!;
    selection = selection.map((score, e) => (kept.has(Math.floor(e / size)) ? score : -Infinity));
  }
  const order = largest(selection, selection.length);
  if (nTrue < logits.length) return amongTrue(r, logits, scores, order, nTrue);
  const ids = order.slice(0, r.topK);
  const nRanked = r.topK + (r.auxiliaries?.perToken ?? 0);
  const gap = (at: number): number => (order[at] === undefined ? Infinity : selection[order[at - 1]!]! - selection[order[at]!]!);
  const sumOf = (x: Vector): number => x.reduce((a, b) => a + b, 0);
  /** Weights of the first n among themselves. */
  const weigh = (n: number): Vector => {
    const own = order.slice(0, n).map((id) => scores[id]!);
    const weights = r.weigh === "softmax-selected" ? softmax(own) : r.weigh === "one" ? own.map(() => 1) : r.weigh === "renormalize" ? own.map((w) => w / sumOf(own)) : own;
    return weights.map((w) => w * r.scale);
  };
  if (r.threshold !== undefined) {
    const kept = order.slice(0, r.topK).filter((id, rank) => rank === 0 || scores[id]! > r.threshold!.least).length;
    return { ids: ids.slice(0, kept), weights: weigh(kept), auxiliaries: [], margin: Math.min(gap(r.topK), ...ids.slice(1).map((id) => Math.abs(scores[id]! - r.threshold!.least))) };
  }
  const ranked = weigh(nRanked);
  const behind = ranked.slice(r.topK);
  return {
    ids,
    weights: r.auxiliaries?.weighAmong === "ranked" ? ranked.slice(0, r.topK) : weigh(r.topK),
    auxiliaries: behind.map((weight, i) => ({ id: order[r.topK + i]!, share: weight / sumOf(behind) })),
    margin: Math.min(groupMargin, gap(r.topK), gap(nRanked)),
  };
}

/** Null experts (AdaMoE): the first topK of all, of which only true ones are kept and weighed; scores that are taken as they are are a softmax over the true ones. Or weights are made among all topK. */
function amongTrue(r: RouterConfig, logits: Vector, scores: Vector, order: readonly number[], nTrue: number): Routing {
  const margin = order.length > r.topK ? scores[order[r.topK - 1]!]! - scores[order[r.topK]!]! : Infinity;
  if (r.nullWeights === "kept") {
    const all = route({ ...r, nullExperts: undefined, nullWeights: undefined }, [...logits]);
    const isTrue = (_: unknown, rank: number): boolean => all.ids[rank]! < nTrue;
    return { ids: all.ids.filter(isTrue), weights: all.weights.filter(isTrue), auxiliaries: [], margin };
  }
  const ids = order.slice(0, r.topK).filter((id) => id < nTrue);
  const sum = (x: Vector): number => x.reduce((a, b) => a + b, 0);
  const own = ids.map((id) => scores[id]!);
  const weights = r.weigh === "softmax-selected" ? (own.length === 0 ? [] : softmax(own)) : r.weigh === "renormalize" ? own.map((w) => w / sum(own))
    : r.score === "softmax" ? own.map((w) => w / sum(scores.slice(0, nTrue))) : own;
  return { ids, weights: weights.map((w) => w * r.scale), auxiliaries: [], margin };
}

/**
 * Logits of one token by the gate of a layer. `x` is what the gate reads: the token's row, the mean over its sequence's first rows, or the request's condition.
 */
function gateLogits(c: ModelConfig, w: DefinitionWeights, at: string, x: Vector, token: { readonly id: number; readonly task: number | undefined }): Vector {
  const { gate } = c.router;
  const n = c.nExperts + (c.router.nullExperts ?? 0);
  switch (gate?.kind) {
    case undefined: return multiply(w(at + "router"), x);
    case "mlp": {
      const hidden = add(multiply(w(at + "routerHidden"), x), Array.from(w(at + "routerHiddenBias").values));
      return multiply(w(at + "router"), hidden.map((v) => (gate.activation === "tanh" ? Math.tanh(v) : Math.max(v, 0))));
    }
    case "cosine": {
      const u = multiply(w(at + "routerHidden"), x);
      const length = Math.max(Math.sqrt(u.reduce((sum, v) => sum + v * v, 0)), 1e-12);
      return multiply(w(at + "router"), u).map((v) => v / (gate.temperature * length));
    }
    case "attention": {
      const qkv = multiply(w(at + "router"), x);
      const [q, k, v] = [qkv.slice(0, n), qkv.slice(n, 2 * n), qkv.slice(2 * n)];
      return q.map((query) => softmax(k.map((key) => query * key)).reduce((sum, p, j) => sum + p * v[j]!, 0));
    }
    case "sparsity": {
      const means = multiply(w(at + "router"), x);
      const variances = multiply(w(at + "routerSpread"), x.map((v) => v * v));
      return means.map((mean, e) => -erf(mean / Math.sqrt(2 * variances[e]!)));
    }
    case "hash": return Array.from({ length: n }, (_, e) => (w(at + "routerTable").values[token.id] === e ? 1 : 0));
    case "conditions": return gate.conditions.map((row) => (row.every((value, i) => Math.fround(value) === x[i]) ? 1 : 0));
    case "tasks": return multiply(w(`${at}taskRouter.${token.task}`), x);
  }
}

/**
 * PhiMoE's sparsemixer in evaluation: the second expert is chosen and weighed as if the first did not exist. The margin, in logits, counts ties of
 * the first three, and experts that almost come into either softmax or leave it: each changes weights at once.
 */
export function sparsemixer(logits: Vector, epsilon: number): Routing {
  const pick = (live: Vector) => {
    const max = Math.max(...live);
    const id = live.indexOf(max);
    const slack = live.map((_, e) => 2 * epsilon * Math.max(Math.abs(logits[e]!), max) - (max - logits[e]!)); // kept where not below zero
    const kept = live.map((s, e) => (slack[e]! < 0 ? -Infinity : s));
    const others = live.map((_, e) => e).filter((e) => e !== id && live[e]! > -Infinity);
    return { id, weight: softmax(kept)[id]!, margin: Math.min(Infinity, ...others.flatMap((e) => [max - live[e]!, Math.abs(slack[e]!)])) };
  };
  const first = pick(logits);
  const second = pick(logits.map((s, e) => (e === first.id ? -Infinity : s)));
  return { ids: [first.id, second.id], weights: [first.weight, second.weight], auxiliaries: [], margin: Math.min(first.margin, second.margin) };
}

/** One expert: down . (silu(gate . x) * (up . x)), gpt-oss's form with biases and clamps, or down . act(up . x) with biases. */
function expert(c: ModelConfig, w: DefinitionWeights, at: string, x: Vector): Vector {
  if (c.expertKind === "swiglu") return swiglu(w, at, x);
  const biased = (matrix: string, input: Vector): Vector => add(multiply(w(at + matrix), input), Array.from(w(`${at}${matrix}Bias`).values));
  const up = biased("up", x);
  if (c.expertKind !== "clamped-swiglu") return biased("down", up.map((u) => (c.expertKind === "relu-mlp" ? Math.max(u, 0) : gelu(u))));
  return biased("down", biased("gate", x).map((g, i) => clampedSwiglu(g, up[i]!, c.swigluLimit)));
}

function swiglu(w: DefinitionWeights, at: string, x: Vector): Vector {
  const up = multiply(w(at + "up"), x);
  return multiply(w(at + "down"), multiply(w(at + "gate"), x).map((g, i) => silu(g) * up[i]!));
}

/** Queries, keys and values of one token, by head. */
interface Projected { readonly q: Vector[]; readonly k: Vector[]; readonly v: Vector[] }

function projectPlain(c: ModelConfig, w: DefinitionWeights, at: string, h: Vector, rotated: (head: Vector) => Vector): Projected {
  const part = (name: "q" | "k" | "v"): Vector[] => {
    let y = multiply(w(at + name), h);
    if (c.qkvBias) y = add(y, Array.from(w(`${at}${name}Bias`).values));
    if (name !== "v" && c.qkNorm === "whole-vector") y = rmsNorm(y, w(`${at}${name}Norm`).values, c.normEps);
    if (c.clipQkv !== null) y = y.map((v) => Math.max(-c.clipQkv!, Math.min(v, c.clipQkv!)));
    const heads = Array.from({ length: y.length / c.headDim }, (_, head) => y.slice(head * c.headDim, (head + 1) * c.headDim));
    if (name === "v") return heads;
    return heads.map((head) => rotated(c.qkNorm === "per-head" ? rmsNorm(head, w(`${at}${name}Norm`).values, c.normEps) : head));
  };
  return { q: part("q"), k: part("k"), v: part("v") };
}

/** DeepSeek's latent attention spelled out: every head gets its own keys and values from the latent row. */
function projectLatent(c: ModelConfig, mla: MlaConfig, w: DefinitionWeights, at: string, h: Vector, rotated: (head: Vector) => Vector): Projected {
  const { kvLoraRank, nopeHeadDim, ropeHeadDim, qLoraRank } = mla;
  const q = qLoraRank === null ? multiply(w(at + "q"), h) : multiply(w(at + "qB"), rmsNorm(multiply(w(at + "qA"), h), w(at + "qANorm").values, mla.normEps));
  const down = multiply(w(at + "kvA"), h);
  const latent = rmsNorm(down.slice(0, kvLoraRank), w(at + "kvANorm").values, mla.normEps);
  const sharedKey = rotated(down.slice(kvLoraRank));
  const heads = Array.from({ length: c.nHeads }, (_, head) => head);
  return {
    q: heads.map((head) => {
      const of = q.slice(head * (nopeHeadDim + ropeHeadDim), (head + 1) * (nopeHeadDim + ropeHeadDim));
      return [...of.slice(0, nopeHeadDim), ...rotated(of.slice(nopeHeadDim))];
    }),
    k: heads.map((head) => {
      const kB = w(`${at}kB.${head}`); // [kvLoraRank, nopeHeadDim], the transpose of what makes keys of the latent row
      const key = Array.from({ length: nopeHeadDim }, (_, i) => latent.reduce((sum, value, j) => sum + value * kB.values[j * nopeHeadDim + i]!, 0));
      return [...key, ...sharedKey];
    }),
    v: heads.map((head) => multiply(w(`${at}vB.${head}`), latent)),
  };
}

export interface DefinitionResult {
  readonly logits: number[][]; // [nTokens, vocab]
  readonly routing: Routing[][]; // [MoE layers][nTokens]
}

/** Product experts that are left out. */
export type DefinitionMask = (layer: number, i: number, j: number) => boolean;

/**
 * The whole model over one sequence from position 0. `reserved` positions decide between short and long rotary frequencies where there are both; `task` and
 * `condition` are the request's, where the model's gates ask for them, and so are the product experts that are left out.
 */
export function forwardDefinition(c: ModelConfig, w: DefinitionWeights, ids: ArrayLike<number>, reserved = ids.length, answers: { readonly task?: number | undefined; readonly condition?: ArrayLike<number> | undefined; readonly isMasked?: DefinitionMask } = {}): DefinitionResult {
  const { isMasked = () => false } = answers;
  const isLong = c.rope.long !== null && reserved > c.rope.long.fromPositions;
  const embed = w("embed");
  const norm = (row: Vector, name: string): Vector =>
    c.norm === "layer" ? layerNorm(row, w(name).values, w(`${name}Bias`).values, c.normEps) : rmsNorm(row, w(name).values, c.normEps);
  let x = Array.from(ids, (id) =>
    Array.from({ length: c.hiddenSize }, (_, i) => embed.values[id * c.hiddenSize + i]! * c.embeddingMultiplier));
  const routing: Routing[][] = [];
  /** Of each token, by the last router of product experts that it passed. */
  const keys: KeyWeights[] = [];

  for (let layer = 0; layer < c.nLayers; layer++) {
    const at = `layers.${layer}.`;
    const projected = x.map((row, position) => {
      const h = norm(row, at + "attnNorm");
      const rotated = (head: Vector): Vector => rotate(head, c, position, isLong);
      return c.mla === null ? projectPlain(c, w, at, h, rotated) : projectLatent(c, c.mla, w, at, h, rotated);
    });

    x = x.map((row, position) => {
      const first = c.slidingWindows[layer]! > 0 ? Math.max(0, position - c.slidingWindows[layer]! + 1) : 0;
      const seen = projected.slice(first, position + 1);
      const heads = projected[position]!.q.map((q, head) => {
        const kv = Math.floor(head / (c.nHeads / seen[0]!.k.length));
        const sink = c.attentionSinks ? w(at + "sinks").values[head]! : undefined;
        const p = softmax(seen.map((token) => dot(q, token.k[kv]!, 0) * c.attentionScale), sink);
        return seen[0]!.v[kv]!.map((_, d) => p.reduce((sum, weight, j) => sum + weight * seen[j]!.v[kv]![d]!, 0));
      });
      let out = multiply(w(at + "o"), heads.flat());
      if (c.oBias) out = add(out, Array.from(w(at + "oBias").values));
      return add(row, out.map((v) => v * c.residualMultiplier));
    });

    const routed: Routing[] = [];
    const normed = x.map((row) => norm(row, at + "ffnNorm"));
    /** What a gate of that scope reads of a token. */
    const gateInput = (scope: RouterConfig["scope"], position: number): Vector => {
      if (scope === undefined) return normed[position]!;
      if (scope.kind === "condition") return Array.from(answers.condition!);
      const rows = normed.slice(0, Math.min(position + 1, scope.tokens));
      return normed[0]!.map((_, i) => rows.reduce((sum, seen) => sum + seen[i]!, 0) / rows.length);
    };
    /** Branches route among their own experts; of several, matrices are numbered and vectors lie one after the other. */
    const branches: readonly Pick<RouterConfig, "topK" | "scope">[] = c.router.branches ?? [c.router];
    const each = c.nExperts / branches.length;
    const choose = (branch: number, position: number): Routing => {
      const { topK, scope } = branches[branch]!;
      const own: ModelConfig = { ...c, nExperts: each, router: { ...c.router, topK, scope, branches: undefined } };
      const vector = (name: string): Vector => {
        const values = Array.from(w(at + name).values);
        return values.slice((branch * values.length) / branches.length, ((branch + 1) * values.length) / branches.length);
      };
      const weights: DefinitionWeights = branches.length === 1 ? w : (name) => (name.endsWith("Bias") ? { rows: 1, cols: 0, values: vector(name.slice(at.length)) } : w(`${name}.${branch}`));
      let logits = c.router.score === "one" ? new Array<number>(c.nExperts).fill(0) : gateLogits(own, weights, at, gateInput(scope, position), { id: ids[position]!, task: answers.task });
      if (c.router.logitBias) logits = add(logits, vector("routerBias"));
      const choice = route(own.router, logits, c.router.selectionBias ? w(at + "selectionBias").values : undefined, each);
      return { ...choice, ids: choice.ids.map((id) => branch * each + id) };
    };
    /** Whose experts a layer has: its own, or those of the first layer of its pool. */
    const expertsAt = `layers.${layer - (layer % (c.expertPool?.layers ?? 1))}.experts.`;
    x = x.map((row, position) => {
      const h = normed[position]!;
      let y = new Array<number>(c.hiddenSize).fill(0);
      if (c.layerFfns[layer] === "dense") y = swiglu(w, `${at}shared.`, h);
      else if (c.layerFfns[layer] === "product") {
        if (layer % c.productExperts!.routerLayers === 0) keys[position] = keyWeights(c, w, at, h);
        y = productLayer(c, w, at, h, keys[position]!, (i, j) => isMasked(layer, i, j));
      } else {
        const choices = branches.map((_, branch) => choose(branch, position));
        const choice: Routing = {
          ids: choices.flatMap((of) => of.ids), weights: choices.flatMap((of) => of.weights), auxiliaries: choices[0]!.auxiliaries, margin: Math.min(...choices.map((of) => of.margin)),
        };
        routed.push(choice);
        // Compressed experts: what is run gets its input times one plus the auxiliary experts' vectors.
        const scales = choice.auxiliaries.length === 0 ? [] : w(`${at}auxiliaryScales`).values;
        const scaled = h.map((v, i) => v * choice.auxiliaries.reduce((sum, { id, share }) => sum + share * scales[id * c.hiddenSize + i]!, 1));
        choice.ids.forEach((id, rank) => {
          // Latent experts read B times it, B being their group's.
          const input = c.latentExperts === undefined ? scaled : multiply(w(`${at}latent.${Math.floor(id / (c.nExperts / c.latentExperts.nGroups))}`), scaled);
          const given = expert(c, w, `${expertsAt}${id}.`, input).map((v) => v * choice.weights[rank]!);
          // What branches give stands side by side.
          const place = Math.floor(id / each) * given.length;
          y = y.map((v, i) => v + (given[i - place] ?? 0));
        });
        if (c.sharedIntermediateSize > 0) {
          const gate = c.sharedGate ? sigmoid(multiply(w(at + "sharedGate"), h)[0]!) : 1;
          y = add(y, swiglu(w, `${at}shared.`, h).map((v) => v * gate));
        }
      }
      return add(row, y.map((v) => v * c.residualMultiplier));
    });
    if (c.layerFfns[layer] === "moe") routing.push(routed);
  }

  const head = c.tieWordEmbeddings ? embed : w("head");
  const bias = c.headBias ? w("headBias").values : null;
  const logits = x.map((row) => multiply(head, norm(row, "norm")).map((v, i) => (v + (bias?.[i] ?? 0)) / c.logitsScaling));
  return { logits, routing };
}
