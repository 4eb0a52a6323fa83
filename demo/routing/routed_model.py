"""Owns the forward pass of models with every kind of routing (docs/routing.md), in plain PyTorch: what the kinds'
checkpoints are trained with and what the engine is compared to. A model is data: its config is the engine's own
ModelConfig record (model/config.ts) as a dict, tensors have canonical names, experts stacked ("layers.0.experts.up"
[nExperts, width, hidden]).
Refuses every trunk but one: RMSNorm, per-head query-key norm, half-style RoPE, tied output.
"""
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.append(str(Path(__file__).resolve().parents[1] / "train"))
import model as trunk   # attention, norms and cross-entropy, plain or fused

BIASED = ("relu-mlp", "gelu-mlp")
MATRICES = {"swiglu": ("gate", "up", "down"), "relu-mlp": ("up", "down"), "gelu-mlp": ("up", "down")}


def branches(c):
    """Every router is a list of branches, each with as many of the experts; most models have one, as wide as the hidden row."""
    r = c["router"]
    return r.get("branches") or [{"topK": r["topK"], "scope": r.get("scope")}]


def expert_layer(c, layer):
    """The layer whose name the experts' matrices have (pools: the first of the group)."""
    return layer - layer % c.get("expertPool", {"layers": 1})["layers"]


def router_shapes(c):
    """Shapes of a layer's router. Of several branches matrices are stacked and vectors lie one after the other."""
    r, gate, n = c["router"], c["router"].get("gate", {}), len(branches(c))
    kind, scope = gate.get("kind"), r.get("scope") or {}
    x = scope["size"] if scope.get("kind") == "condition" else c["hiddenSize"]
    rows = c["nExperts"] // n + r.get("nullExperts", 0)
    stack = (n,) if n > 1 else ()
    if kind == "hash":
        return {"routerTable": (c["vocabSize"],)}
    if kind == "tasks":
        out = {"taskRouter": (gate["nTasks"], rows, x)}
    else:
        out = {"router": (*stack, 3 * rows if kind == "attention" else rows, gate["width"] if kind in ("mlp", "cosine") else x)}
    if kind in ("mlp", "cosine"):
        out["routerHidden"] = (*stack, gate["width"], x)
    if kind == "mlp":
        out["routerHiddenBias"] = (n * gate["width"],)
    if kind == "sparsity":
        out["routerSpread"] = out["router"]
    if r["logitBias"]:
        out["routerBias"] = (n * rows,)
    return out


def product_shapes(c, layer):
    """Tensors of a layer of product experts; the keys' are those of the first layer of a group."""
    p, h = c["productExperts"], c["hiddenSize"]
    n, heads, m, half = p["nKeys"], p["nHeads"], p["expertSize"], h // 2
    out = {}
    if layer % p["routerLayers"] == 0:
        for i in "12":
            out.update({"w" + i: (heads * n, h), "mean" + i: (heads,), "variance" + i: (heads,)})
    if p["form"] == "horizontal":
        return {**out, "u": (n * m, h), "uBias": (n * m,), "v": (h, n * m), "b": (n * h,)}
    for i in "12":
        out.update({"u" + i: (n * m // 2, h), f"u{i}Bias": (n * m // 2,), "b" + i: (n * half,)})
    return {**out, **{"v" + i: (half, n * m // 2) for i in ("11", "12", "21", "22")}}


def shapes(c):
    """Canonical name -> shape of every tensor; experts are stacked per layer."""
    h, d, w = c["hiddenSize"], c["headDim"], c["expertIntermediateSize"]
    q, kv = c["nHeads"] * d, c["nKvHeads"] * d
    out = {"embed": (c["vocabSize"], h)}
    for n in range(c["nLayers"]):
        p = f"layers.{n}."
        out.update({p + "attnNorm": (h,), p + "q": (q, h), p + "k": (kv, h), p + "v": (kv, h), p + "qNorm": (d,),
                    p + "kNorm": (d,), p + "o": (h, q), p + "ffnNorm": (h,)})
        if c["layerFfns"][n] == "product":
            out.update({f"{p}product.{k}": s for k, s in product_shapes(c, n).items()})
            continue
        if c["layerFfns"][n] == "dense":
            wide = c["denseIntermediateSize"]
            out.update({p + "shared.gate": (wide, h), p + "shared.up": (wide, h), p + "shared.down": (h, wide)})
            continue
        out.update({p + k: s for k, s in router_shapes(c).items()})
        if expert_layer(c, n) != n:
            continue
        e, o = c["nExperts"], h // len(branches(c))
        size = {"gate": (e, w, h), "up": (e, w, h), "down": (e, o, w), "upBias": (e, w), "downBias": (e, o)}
        names = MATRICES[c["expertKind"]] + (("upBias", "downBias") if c["expertKind"] in BIASED else ())
        out.update({f"{p}experts.{k}": size[k] for k in names})
    out["norm"] = (h,)
    return out


def rope_tables(length, c, dtype):
    freq = torch.tensor(c["rope"]["inverseFrequencies"], dtype=torch.float64)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), freq)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


# ---- Score

def scoped(scope, x, request):
    """What the router sees: x [B, T, H], the mean of the first rows, or the request's condition [B, n]."""
    kind = scope.get("kind") if scope else None
    if kind == "sequence":
        t = x.shape[1]
        last = torch.arange(t).clamp(max=scope["tokens"] - 1)
        return (x.cumsum(1)[:, last] / (last + 1).to(x.dtype)[:, None])
    if kind == "condition":
        return request["condition"][:, None].expand(-1, x.shape[1], -1)
    return x


def sparsity_rows(up):
    """MoE-X: mean and variance of an expert's rows of `up` [E, width, H] -> router, routerSpread [E, H]."""
    return up.mean(1), up.var(1, unbiased=False)


def branch_tensors(w, number, count):
    """The tensors of a layer as one branch sees them."""
    def own(name):
        t = w(name)
        return t if count == 1 else t[number] if t.dim() > 1 else t.view(count, -1)[number]
    return own


def logits(c, w, x, request, ids):
    """Router logits [B, T, experts and null experts] of a branch. w(name) gives its tensors of the layer."""
    gate, kind = c["router"].get("gate", {}), c["router"].get("gate", {}).get("kind")
    if kind == "hash":
        return F.one_hot(w("routerTable").long()[ids], c["nExperts"]).to(x.dtype)
    if kind == "tasks":
        z = x @ w("taskRouter")[request["task"]].transpose(1, 2)       # a matrix for each row's task
    elif kind == "mlp":
        act = {"tanh": torch.tanh, "relu": torch.relu}[gate["activation"]]
        z = act(x @ w("routerHidden").t() + w("routerHiddenBias")) @ w("router").t()
    elif kind == "cosine":
        u = x @ w("routerHidden").t()
        z = (u @ w("router").t()) / (gate["temperature"] * u.norm(dim=-1, keepdim=True))
    elif kind == "attention":
        q, k, v = (x @ w("router").t()).chunk(3, -1)
        z = ((q[..., :, None] * k[..., None, :]).softmax(-1) @ v[..., None])[..., 0]
    elif kind == "sparsity":
        z = -torch.erf((x @ w("router").t()) * (2 * (x.square() @ w("routerSpread").t())).rsqrt())
    else:
        z = x @ w("router").t()
    return z + w("routerBias") if c["router"]["logitBias"] else z


# ---- Select and weigh

def keep_largest(scores, k):
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, scores.topk(k, -1).indices, True)


def weigh(r, z, k, n_true, noise=None):
    """Logits [..., E + nulls] -> weights [..., E], zero where an expert is not run, and who was selected [..., E + nulls]."""
    temperature = r["threshold"]["temperature"] if r["select"] == "threshold" else 1.0
    if noise is not None:
        z = z + noise
    score = {"softmax": lambda: (z / temperature).softmax(-1), "sigmoid": lambda: z.sigmoid(), "logits": lambda: z}[r["score"]]()
    chosen = keep_largest(score, k)
    if r["select"] == "threshold":
        chosen = (chosen & (score > r["threshold"]["least"])) | keep_largest(score, 1)
    n = z.shape[-1] if r.get("nullWeights") == "kept" else n_true      # MoE++'s zero experts have weights, AdaMoE's null ones none
    among = chosen[..., :n]
    if r["weigh"] == "softmax-selected":
        weights = z[..., :n].masked_fill(~among, -math.inf).softmax(-1)
    else:
        weights = score[..., :n] * among
        if r["weigh"] == "renormalize":
            total = weights.sum(-1, keepdim=True)
            weights = weights / torch.where(total > 0, total, torch.ones_like(total))   # only nulls: nothing from the layer
    return weights[..., :n_true] * r["scale"], chosen


# ---- Run and combine

def run_experts(c, w, x, weights, first, units=None):
    """Sum of weight * expert over rows x [n, H], weights [n, E]; expert number `first` is the first of them. `units`, if given, is called
    with the hidden units of experts without a gate."""
    pairs = (weights != 0).t().nonzero()          # by expert, then token
    rows, counts = pairs[:, 1], (weights != 0).sum(0).tolist()
    parts = []
    for e, xs in enumerate(x[rows].split(counts)):
        if len(xs) == 0:
            continue
        of = lambda name: w(f"experts.{name}")[first + e]
        if c["expertKind"] == "swiglu":
            y = swiglu(xs, of("gate"), of("up"), of("down"))
        else:
            act = {"relu-mlp": torch.relu, "gelu-mlp": F.gelu}[c["expertKind"]]         # gelu by erf
            hidden = act(xs @ of("up").t() + of("upBias"))
            if units is not None:
                units(hidden)
            y = hidden @ of("down").t() + of("downBias")
        parts.append(y)
    out = w("experts.down").new_zeros(len(x), w("experts.down").shape[1])
    if not parts:
        return out
    y = torch.cat(parts) * weights[rows, pairs[:, 0]][:, None]
    return out.index_add(0, rows, y)


def swiglu(x, gate, up, down):
    return (F.silu(x @ gate.t()) * (x @ up.t())) @ down.t()


# ---- Product experts

def product_router(c, w, x, run):
    """Monet: weights [B, T, heads, keys] of either codebook. A batch norm without parameters says who is kept: the largest, and
    what lies above the quantile of 1 - topK / nKeys; the kept share a softmax of what they were before it."""
    p, out = c["productExperts"], []
    quantile = torch.distributions.Normal(0, 1).icdf(torch.tensor(1 - p["topK"] / p["nKeys"], dtype=torch.float64)).item()
    for i in "12":
        z = (x @ w("w" + i).t()).unflatten(-1, (p["nHeads"], p["nKeys"]))
        mean, variance = (w("mean" + i), w("variance" + i)) if run.statistics is None else run.statistics(w, i, z.detach())
        normal = (z.detach() - mean[:, None]) * (variance[:, None] + 1e-5).rsqrt()
        kept = normal >= normal.amax(-1, keepdim=True).clamp(max=quantile)
        g = z.masked_fill(~kept, -math.inf).softmax(-1)
        if run.trace is not None:
            run.trace.append({"logits": z, "normal": normal, "quantile": quantile, "chosen": kept, "weights": g})
        out.append(g)
    return out


def product_layer(c, w, x, g1, g2):
    """x [B, T, H] -> the sum over heads and all pairs (i, j) of g1[i] g2[j] expert (i, j), in its factored form."""
    p, h = c["productExperts"], c["hiddenSize"]
    hidden = lambda i: torch.relu(x @ w("u" + i).t() + w(f"u{i}Bias")).square().unflatten(-1, (p["nKeys"], -1))   # [B, T, N, c]
    gather = lambda g, rows: torch.einsum("bthn,btnc->bthc", g, rows)
    spread = lambda g, rows: torch.einsum("bthn,bthc->btnc", g, rows)
    total1, total2 = g1.sum(2), g2.sum(2)
    if p["form"] == "horizontal":
        return spread(g2, gather(g1, hidden(""))).flatten(-2) @ w("v").t() + total2 @ w("b").view(-1, h)
    x1, x2 = hidden("1"), hidden("2")
    upper = ((total1[..., None] * x1).flatten(-2) @ w("v11").t() + spread(g1, gather(g2, x2)).flatten(-2) @ w("v12").t()
             + total1 @ w("b1").view(-1, h // 2))
    lower = (spread(g2, gather(g1, x1)).flatten(-2) @ w("v21").t() + (total2[..., None] * x2).flatten(-2) @ w("v22").t()
             + total2 @ w("b2").view(-1, h // 2))
    return torch.cat([upper, lower], -1)


class Run:
    """One pass: what the request says, what training adds, and what was seen."""

    def __init__(self, request=None, noise=None, allowed=None, statistics=None, reweigh=None, units=None, trace=None):
        self.request = request or {}    # task [B], condition [B, n]
        self.noise = noise          # shape -> tensor added to the logits, or None
        self.allowed = allowed      # (layer) -> bool [E] of candidates, or None
        self.statistics = statistics    # (tensors, codebook, scores) -> mean and variance of a batch, or None: the running ones
        self.reweigh = reweigh      # (layer, weights [B, T, E]) -> weights: what an intervention makes of them, or None
        self.units = units          # (hidden units [n, width]) of experts without a gate, or None
        self.trace = trace          # list: per layer and branch (or codebook) a dict of logits, chosen, weights


def moe_layer(c, params, layer, x, ids, run):
    """x [B, T, H], normalised -> what the routed experts add, [B, T, H]."""
    b, t, h = x.shape
    own, shared = f"layers.{layer}.", f"layers.{expert_layer(c, layer)}."
    made = {}
    if c["router"].get("gate", {}).get("kind") == "sparsity" and own + "router" not in params:
        made["router"], made["routerSpread"] = sparsity_rows(params[shared + "experts.up"])

    def w(name):
        return made[name] if name in made else params[(shared if name.startswith("experts.") else own) + name]

    parts, all_branches = [], branches(c)
    e = c["nExperts"] // len(all_branches)
    for number, branch in enumerate(all_branches):
        own_w = branch_tensors(w, number, len(all_branches))
        z = logits(c, own_w, scoped(branch.get("scope"), x, run.request), run.request, ids)
        if run.allowed is not None:
            z = z.masked_fill(~run.allowed(layer), -1e9)
        noise = None if run.noise is None else run.noise(z.shape)
        weights, chosen = weigh(c["router"], z, branch["topK"], e, noise)
        if run.reweigh is not None:
            weights = run.reweigh(layer, weights)
        if run.trace is not None:
            run.trace.append({"layer": layer, "logits": z, "chosen": chosen, "weights": weights})
        parts.append(run_experts(c, w, x.reshape(b * t, h), weights.reshape(b * t, e), number * e, run.units))
    return torch.cat(parts, -1).view(b, t, h)


def hidden_states(params, c, ids, run):
    """Final normalised hidden states [B, T, H]."""
    b, t = ids.shape
    heads, kv, d, eps = c["nHeads"], c["nKvHeads"], c["headDim"], c["normEps"]
    cos, sin = rope_tables(t, c, params["embed"].dtype)
    x = F.embedding(ids, params["embed"]) * c["embeddingMultiplier"]
    for n in range(c["nLayers"]):
        w = lambda name: params[f"layers.{n}.{name}"]
        a = trunk.RmsNorm.apply(x, w("attnNorm"), eps).view(b * t, -1)
        q = trunk.head_norm_rope(a @ w("q").t(), w("qNorm"), eps, cos, sin, b)
        k = trunk.head_norm_rope(a @ w("k").t(), w("kNorm"), eps, cos, sin, b)
        v = (a @ w("v").t()).view(b, t, kv, d).transpose(1, 2)
        a = trunk.attention(q.view(b, kv, heads // kv, t, d), k, v).transpose(1, 2).reshape(b * t, heads * d)
        x = x + (a @ w("o").t()).view(b, t, -1)
        f = trunk.RmsNorm.apply(x, w("ffnNorm"), eps).view(b, t, -1)
        if c["layerFfns"][n] == "moe":
            x = x + moe_layer(c, params, n, f, ids, run)
        elif c["layerFfns"][n] == "dense":
            x = x + swiglu(f, w("shared.gate"), w("shared.up"), w("shared.down"))
        else:
            of = lambda name: w("product." + name)
            if n % c["productExperts"]["routerLayers"] == 0:
                weights = product_router(c, of, f, run)
            x = x + product_layer(c, of, f, *weights)
    return trunk.RmsNorm.apply(x, params["norm"], eps)


def model_logits(params, c, ids, run=None):
    return hidden_states(params, c, ids, run or Run()) @ params["embed"].t()


def unstacked(name, p):
    """(canonical name, tensor) of each matrix of a stack; of others themselves."""
    head, part = name.rsplit(".", 1) if "." in name else ("", name)
    if head.endswith(".experts"):
        return [(f"{head}.{e}.{part}", w) for e, w in enumerate(p)]
    if p.dim() == 3:
        return [(f"{name}.{i}", w) for i, w in enumerate(p)]
    return [(name, p)]


def canonical_tensors(params, c):
    """Trained tensors -> one tensor per canonical name, every expert's matrices apart, and those of stacks; derived routers are made."""
    out = {name: p for stacked, p in params.items() for name, p in unstacked(stacked, p)}
    for n in range(c["nLayers"]):
        if c["router"].get("gate", {}).get("kind") == "sparsity" and f"layers.{n}.router" not in out:
            rows = sparsity_rows(params[f"layers.{expert_layer(c, n)}.experts.up"])
            out[f"layers.{n}.router"], out[f"layers.{n}.routerSpread"] = rows
    return out
