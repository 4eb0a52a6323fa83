"""Owns the measure: bits per byte of held-out text by domain, in windows of the models' context, and what routing did there.
Refuses overlap of windows: every token is scored once, with what stands before it in its window.
"""
import json
import math

import torch

import routed_model      # first: demo/train's modules are found through it
import bpe
from variants import CONTEXT, DOMAINS, GROUP_OF


def rows(work, tokens_per_domain):
    """{domain: (windows of at most CONTEXT + 1 ids, bytes they stand for)}; documents in order, each begun by <|endoftext|>."""
    tokenizer = bpe.Tokenizer(work / "tokenizer.json")
    texts, out = json.loads((work / "heldout.json").read_text()), {}
    for domain in DOMAINS:
        windows, size = [], 0
        share = max(CONTEXT, tokens_per_domain // len(texts[domain]))
        for text in texts[domain]:
            ids = [bpe.END_OF_TEXT] + tokenizer.encode(text)[:share]
            for s in range(0, len(ids) - 1, CONTEXT):
                windows.append(ids[s:s + CONTEXT + 1])
                size += len(windows[-1]) - 1
            if size >= tokens_per_domain:
                break
        out[domain] = windows, sum(len(tokenizer.token_bytes(i)) for w in windows for i in w[1:])
    return out


def nats(params, c, windows, run, batch=16):
    """Sum of nats over windows, those of one length together; `run(n)` gives the pass of n rows."""
    total, windows = 0.0, sorted(windows, key=len)
    while windows:
        n = next((i for i, w in enumerate(windows[:batch]) if len(w) != len(windows[0])), min(batch, len(windows)))
        ids, windows = torch.tensor(windows[:n]), windows[n:]
        h = routed_model.hidden_states(params, c, ids[:, :-1], run(n)).flatten(0, 1)
        targets = ids[:, 1:].flatten()
        for f in range(0, len(h), 1024):
            z = h[f:f + 1024] @ params["embed"].t()
            total += float((z.logsumexp(-1) - z.gather(1, targets[f:f + 1024, None])[:, 0]).sum())
    return total


class Usage:
    """Counts of experts run, by router, and of hidden units that are not zero: what a pass traces into."""

    def __init__(self):
        self.loads, self.routed, self.units, self.nonzero = {}, {}, 0, 0

    def begin(self):
        self.at = 0
        return self

    def append(self, t):
        used = (t["weights"] != 0).flatten(0, 1)         # [tokens, experts], of product experts [tokens, heads, keys]
        used = used.any(1) if used.dim() == 3 else used
        self.loads[self.at] = self.loads.get(self.at, 0) + used.double().sum(0)
        self.routed[self.at] = self.routed.get(self.at, 0) + len(used)
        self.at += 1

    def count_units(self, hidden):
        self.units += hidden.numel()
        self.nonzero += int((hidden != 0).sum())


def evaluate(params, c, work_rows, request, usage=False):
    """{domain: bits per byte}, and where asked for {domain: Usage}. `request(groups)` gives what a row's request says."""
    bits, seen = {}, {}
    with torch.no_grad():
        for number, (domain, (windows, n_bytes)) in enumerate(work_rows.items()):
            seen[domain] = Usage()
            run = lambda n: routed_model.Run(request(torch.full((n,), GROUP_OF[number])), **({"trace": seen[domain].begin(), "units": seen[domain].count_units} if usage else {}))
            bits[domain] = nats(params, c, windows, run) / math.log(2) / n_bytes
    return (bits, seen) if usage else bits


def routing_figures(c, seen):
    """Means over domains: experts run per token and layer (of product experts keys of a codebook), and the spread of load (standard
    deviation over mean) by router."""
    seen = list(seen.values())
    routers = sorted(seen[0].loads)
    shares = [sum(u.loads[r] / u.routed[r] for u in seen) / len(seen) for r in routers]      # of tokens, by expert
    per_layer = len(routers) / (len(routers) if "productExperts" in c else c["nLayers"])     # branches add up
    units = sum(u.units for u in seen)
    return {"expertsPerToken": float(sum(map(torch.sum, shares)) / len(routers) * per_layer) if routers else None,
            "loadSpread": [float(s.std(unbiased=False) / s.mean()) for s in shares],
            **({"unitsNotZero": sum(u.nonzero for u in seen) / units} if units else {})}
