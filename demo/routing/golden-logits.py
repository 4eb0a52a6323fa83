"""Writes test/fixtures/routing-golden.json: for every kind of routing a tiny model and its logits in float64, to which the engine
is compared. Weights are not stored: they are drawn as test/support/seeded-model.ts draws them, each name with a stream of its
own; only tensors that such a draw would not fit (variances of batch norms) are in the file.
Refuses cases in which two experts are nearly tied, since no tolerance of logits could cover them.
Usage: golden-logits.py [OUT.json]
"""
import json
import math
import re
import sys
from pathlib import Path

import torch

import routed_model
from variants import config

SEED, LENGTH, MARGIN = 20, 10, 1e-4
TINY = {"vocabSize": 48, "hiddenSize": 32, "nLayers": 2, "nHeads": 4, "nKvHeads": 2, "headDim": 8, "maxPositions": 64,
        "nExperts": 8, "expertIntermediateSize": 24, "eosTokenIds": [], "embeddingMultiplier": 1}
IDS = [7, 31, 2, 45, 19, 19, 0, 38, 11, 26]
SOFTMAX_SELECTED = {"score": "logits", "weigh": "softmax-selected"}


def tiny(router=None, **changes):
    return config({"topK": 3, **(router or {})}, **{**TINY, **changes})


# name -> (config, request); one per kind, and pairs where two kinds meet
CASES = {
    "top-k": (tiny(), {}),
    "null-experts": (tiny({"topK": 5, "nullExperts": 6, "logitBias": True}), {}),
    "null-experts-alone": (tiny({"topK": 2, "nullExperts": 14}), {}),     # some tokens take no expert at all
    "zero-experts": (tiny({"topK": 5, "nullExperts": 6, "nullWeights": "kept", "logitBias": True}), {}),
    "threshold": (tiny({"select": "threshold", "weigh": "score", "topK": 8, "threshold": {"temperature": 2.5, "least": 0.06}}), {}),
    "threshold-most": (tiny({"select": "threshold", "weigh": "score", "topK": 2, "threshold": {"temperature": 2.5, "least": 0.06}}), {}),
    "relu-mlp": (tiny(expertKind="relu-mlp"), {}),
    "gelu-mlp-switch": (tiny({"topK": 1, "weigh": "score"}, expertKind="gelu-mlp"), {}),
    "sparsity": (tiny({**SOFTMAX_SELECTED, "gate": {"kind": "sparsity"}}, expertKind="relu-mlp"), {}),
    "mlp-tanh": (tiny({**SOFTMAX_SELECTED, "logitBias": True, "gate": {"kind": "mlp", "width": 20, "activation": "tanh"}}), {}),
    "mlp-relu": (tiny({"logitBias": True, "gate": {"kind": "mlp", "width": 20, "activation": "relu"}}), {}),
    "cosine": (tiny({"gate": {"kind": "cosine", "width": 12, "temperature": 0.3}}), {}),
    "attention": (tiny({**SOFTMAX_SELECTED, "gate": {"kind": "attention"}}), {}),
    "hash": (tiny({"topK": 1, "score": "logits", "weigh": "score", "gate": {"kind": "hash"}}), {}),
    "tasks": (tiny({"gate": {"kind": "tasks", "nTasks": 3}}), {"task": 2}),
    "sequence": (tiny({"scope": {"kind": "sequence", "tokens": 4}}), {}),
    "condition": (tiny({"topK": 2, "scope": {"kind": "condition", "size": 4}}), {"condition": [0.5, -1.25, 0.75, 1.5]}),
    "pool": (tiny({"topK": 3}, nExperts=10, nLayers=4, expertIntermediateSize=16, expertPool={"layers": 2}), {}),
    "branches": (tiny({**SOFTMAX_SELECTED, "topK": 5, "branches": [{"topK": 2}, {"topK": 3, "scope": {"kind": "sequence", "tokens": 4}}]}), {}),
    "branches-mlp-tanh": (tiny({**SOFTMAX_SELECTED, "topK": 4, "logitBias": True, "gate": {"kind": "mlp", "width": 20, "activation": "tanh"},
                                "branches": [{"topK": 2}, {"topK": 2, "scope": {"kind": "sequence", "tokens": 4}}]}), {}),
}
NO_ROUTER = {"score": "one", "weigh": "score", "topK": 0}
for form, router_layers in (("vertical", 2), ("horizontal", 1)):
    CASES[f"product-{form}"] = (tiny(NO_ROUTER, nExperts=0, expertIntermediateSize=0, layerFfns=["product"] * 2, productExperts={
        "form": form, "nKeys": 12, "nHeads": 2, "topK": 3, "expertSize": 4, "routerLayers": router_layers}), {})


def imul(a, b):
    return (a * b) & 0xFFFFFFFF


def stream(name, seed, n):
    """n draws in [-1, 1): the generator of seeded-model.ts."""
    state = (seed ^ 0x811C9DC5) & 0xFFFFFFFF
    for ch in name:
        state = imul(state ^ ord(ch), 0x01000193)
    out = []
    for _ in range(n):
        state = (imul(state ^ (state >> 15), 0x2C1B3C6D) + 0x9E3779B9) & 0xFFFFFFFF
        out.append((state ^ (state >> 13)) / 2 ** 31 - 1)
    return out


def seeded(c, name, shape, seed):
    """float64 tensor of float32 values, made as seeded-model.ts does by name and shape."""
    kind = c["router"].get("gate", {}).get("kind")
    if name.endswith("routerTable"):
        return torch.arange(shape[0], dtype=torch.float64).mul(5).add(3).remainder(c["nExperts"])
    values = torch.tensor(stream(name, seed, math.prod(shape)), dtype=torch.float64)
    if name.endswith(("norm", "Norm")):
        values = 1 + 0.3 * values
    elif re.search(r"router(\.\d+)?$", name, re.I):
        values = values * (0.1 if kind == "attention" else 1)       # experts that attend too sharply say the same as another
    elif name != "embed":
        values = values * (0.5 if len(shape) == 1 else 2 / math.sqrt(shape[-1]))
    return (values.abs() if name.endswith("routerSpread") else values).float().double().view(shape)


def parameters(c, seed):
    """Stacked tensors of the model, and those of them that are stored, by canonical name: variances, which no draw fits."""
    params, stored = {}, {}
    for name, shape in routed_model.shapes(c).items():
        names = [n for n, _ in routed_model.unstacked(name, torch.empty(shape))]
        value = torch.stack([seeded(c, n, shape[1:], seed) for n in names]) if names != [name] else seeded(c, name, shape, seed)
        if re.search(r"variance\d$", name):
            value = stored[name] = (value.abs() + 0.5).float().double()
        params[name] = value
    return params, stored


def margins(c, trace):
    """Smallest distance between a chosen score and one that is not, and from a threshold."""
    for t in trace:
        z = t["logits"]
        if "normal" in t:
            above = t["normal"] - t["normal"].amax(-1, keepdim=True).clamp(max=t["quantile"])
            yield float(above[above != 0].abs().min())
            continue
        score = z if c["router"]["score"] == "logits" else z.softmax(-1)
        low = score.masked_fill(~t["chosen"], math.inf).min(-1).values
        high = score.masked_fill(t["chosen"], -math.inf).max(-1).values
        yield float((low - high).min())
        if c["router"]["select"] == "threshold":
            p = (z / c["router"]["threshold"]["temperature"]).softmax(-1)
            yield float((p - c["router"]["threshold"]["least"]).abs().min())


def numbers(t, digits=8):
    return [float(f"{v:.{digits}g}") for v in t.reshape(-1).tolist()]


def case(name, c, request):
    for seed in range(SEED, SEED + 100):
        params, stored = parameters(c, seed)
        trace = []
        ask = {"task": torch.tensor([request.get("task", 0)]), "condition": torch.tensor([request.get("condition", [])], dtype=torch.float64)}
        z = routed_model.model_logits(params, c, torch.tensor([IDS]), routed_model.Run(ask, trace=trace))[0]
        if name == "hash" or min(margins(c, trace)) > MARGIN:
            break
    else:
        raise SystemExit(f"{name}: no seed without near ties")
    canonical = routed_model.canonical_tensors(params, c)
    if "productExperts" in c:
        return record(name, seed, c, request, stored, canonical, [], z)
    n_branches = len(routed_model.branches(c))
    offsets = [c["nExperts"] // n_branches * i for i in range(n_branches)]
    routing = []
    for t, offset in zip(trace, offsets * c["nLayers"]):
        weights = t["weights"][0]
        if offset == 0:
            routing.append([[] for _ in IDS])
        for token, row in enumerate(weights):
            routing[-1][token] += [[offset + e, float(f"{float(row[e]):.7g}")] for e in row.nonzero()[:, 0].tolist()]
    return record(name, seed, c, request, stored, canonical, routing, z)


def record(name, seed, c, request, stored, canonical, routing, z):
    return {"name": name, "seed": seed, "config": c, "moe": request, "ids": IDS,
            "tensors": {n: {"shape": list(t.shape), "values": numbers(t, 9)} for n, t in stored.items()},
            "sums": {n: float(f"{float(t.sum()):.12g}") for n, t in canonical.items() if n.startswith(("layers.0.experts.1.", "layers.0.product.")) or ".router" in n or n == "embed"},
            "routing": routing, "logits": numbers(z)}


def main():
    default = Path(__file__).resolve().parents[2] / "test" / "fixtures" / "routing-golden.json"
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    with torch.no_grad():
        cases = [case(name, *of) for name, of in CASES.items()]
    out.parent.mkdir(parents=True, exist_ok=True)
    text = "[\n" + ",\n".join(json.dumps(x, separators=(",", ":")) for x in cases) + "\n]\n"
    out.write_text(text)
    print(f"{len(cases)} models, {len(text)} bytes, {out}")


if __name__ == "__main__":
    main()
