# Logits and key weights of small Monet models in float64, by the paper's formulas (Park et al., 2024, arXiv 2412.04139) as tensor contractions of PyTorch: batch norm for
# the threshold, softmax over what is kept, the decomposed layers, attention as Llama's. Weights are drawn by name, so that the test draws the same ones.
# Writes golden.json beside itself. Run: python3 golden.py (PyTorch 1.13 or later).

import json
import os
from statistics import NormalDist

import torch
from torch.nn import functional

torch.set_default_dtype(torch.float64)
HERE = os.path.dirname(os.path.abspath(__file__))
TOKENS = [3, 17, 8, 25, 0, 11, 28, 6, 19, 2]
SIZES = {"vocab": 29, "hidden": 16, "layers": 4, "heads": 2, "kvHeads": 1, "headDim": 8, "theta": 10000.0, "eps": 1e-5}
MODELS = [
    {"form": "vertical", "nKeys": 8, "nHeads": 3, "topK": 3, "expertSize": 4, "routerLayers": 2},
    {"form": "horizontal", "nKeys": 8, "nHeads": 2, "topK": 2, "expertSize": 3, "routerLayers": 4},
    {"form": "vertical", "nKeys": 12, "nHeads": 1, "topK": 12, "expertSize": 2, "routerLayers": 1},
]


def draw(name, *shape):
    """Numbers in [-1, 1) from a linear congruence whose state is the name's FNV-1a hash."""
    state = 0x811C9DC5
    for byte in name.encode():
        state = ((state ^ byte) * 0x01000193) & 0xFFFFFFFF
    values = []
    for _ in range(torch.Size(shape).numel()):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values.append((state >> 8) / 2**23 - 1)
    return torch.tensor(values).reshape(shape).float().double()


def matrix(name, rows, columns):
    return (draw(name, rows, columns) * (2 / columns**0.5)).float().double()


def rms_norm(x, name):
    weight = (1 + 0.3 * draw(name, x.shape[-1])).float().double()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + SIZES["eps"]) * weight


def rotated(x):
    """x [tokens, heads, dim]: halves of a head turn against each other."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(len(x), dtype=torch.float64), SIZES["theta"] ** (-torch.arange(half) / half))
    cos, sin = (torch.cat((f(angles), f(angles)), -1)[:, None] for f in (torch.cos, torch.sin))
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def attention(x, at):
    heads, kv, dim, hidden = SIZES["heads"], SIZES["kvHeads"], SIZES["headDim"], SIZES["hidden"]
    q = rotated((x @ matrix(at + "q", heads * dim, hidden).T).unflatten(-1, (heads, dim)))
    k = rotated((x @ matrix(at + "k", kv * dim, hidden).T).unflatten(-1, (kv, dim))).repeat_interleave(heads // kv, 1)
    v = (x @ matrix(at + "v", kv * dim, hidden).T).unflatten(-1, (kv, dim)).repeat_interleave(heads // kv, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / dim**0.5
    scores = scores + torch.full((len(x), len(x)), float("-inf")).triu(1)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1) @ matrix(at + "o", hidden, heads * dim).T


def routed(x, m, at):
    """Weights of both codebooks, [tokens, heads, keys]."""
    weights = []
    for c in "12":
        z = (x @ matrix(f"{at}w{c}", m["nHeads"] * m["nKeys"], SIZES["hidden"]).T).unflatten(-1, (m["nHeads"], m["nKeys"]))
        norm = torch.nn.BatchNorm1d(m["nHeads"], affine=False).eval()
        norm.running_mean = (0.5 * draw(f"{at}mean{c}", m["nHeads"])).float().double()
        norm.running_var = (1.3 + 0.5 * draw(f"{at}variance{c}", m["nHeads"])).float().double()
        score = norm(z.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1)).transpose(1, 2)
        share = 1 - m["topK"] / m["nKeys"]
        limit = score.amax(-1, keepdim=True).clamp(max=NormalDist().inv_cdf(share) if share > 0 else float("-inf"))
        weights.append(z.masked_fill(score < limit, float("-inf")).softmax(-1))
    return weights


def experts(x, g1, g2, m, at):
    n, d, size = m["nKeys"], SIZES["hidden"], m["expertSize"]
    bias = lambda name, *shape: (0.5 * draw(at + name, *shape)).float().double()
    def units(u, width):
        return functional.relu(x @ matrix(at + u, n * width, d).T + bias(f"{u}Bias", n * width)).square().unflatten(-1, (n, width))
    if m["form"] == "horizontal":
        hidden = torch.einsum("tim,thi,thj->tjm", units("u", size), g1, g2).flatten(1)
        return hidden @ matrix(at + "v", d, n * size).T + torch.einsum("thj,jd->td", g2, bias("b", n, d))
    x1, x2 = units("u1", size // 2), units("u2", size // 2)
    v = {name: matrix(at + name, d // 2, n * size // 2) for name in ("v11", "v12", "v21", "v22")}
    upper = torch.einsum("tim,thi->tim", x1, g1).flatten(1) @ v["v11"].T + torch.einsum("tjm,thj,thi->tim", x2, g2, g1).flatten(1) @ v["v12"].T
    lower = torch.einsum("tim,thi,thj->tjm", x1, g1, g2).flatten(1) @ v["v21"].T + torch.einsum("tjm,thj->tjm", x2, g2).flatten(1) @ v["v22"].T
    upper = upper + torch.einsum("thi,id->td", g1, bias("b1", n, d // 2))
    return torch.cat((upper, lower + torch.einsum("thj,jd->td", g2, bias("b2", n, d // 2))), -1)


def run(m):
    x = draw("embed", SIZES["vocab"], SIZES["hidden"])[TOKENS]
    keys = []
    for layer in range(SIZES["layers"]):
        at = f"layers.{layer}."
        x = x + attention(rms_norm(x, at + "attnNorm"), at)
        h = rms_norm(x, at + "ffnNorm")
        if layer % m["routerLayers"] == 0:
            g1, g2 = routed(h, m, at + "product.")
            keys.append([g.flatten(1).tolist() for g in (g1, g2)])
        x = x + experts(h, g1, g2, m, at + "product.")
    logits = rms_norm(x, "norm") @ matrix("head", SIZES["vocab"], SIZES["hidden"]).T
    return {"productExperts": m, "keys": keys, "logits": logits.tolist()}


def rounded(value):
    return [rounded(v) for v in value] if isinstance(value, list) else round(value, 9)


found = [run(m) for m in MODELS]
document = {"sizes": SIZES, "tokens": TOKENS, "models": [{**f, "keys": rounded(f["keys"]), "logits": rounded(f["logits"])} for f in found]}
with open(os.path.join(HERE, "golden.json"), "w") as file:
    file.write(json.dumps(document, separators=(",", ":")).replace('{"productExperts"', '\n{"productExperts"') + "\n")
