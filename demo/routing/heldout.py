"""Owns the measure: bits per byte of held-out text by domain, in windows of the models' context, and what routing did there.
Refuses overlap of windows: every token is scored once, with what stands before it in its window.
"""
import json
import math

import numpy as np
import torch

import bpe
import routed_model
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
    """Sum of nats over windows, and what `run`'s trace saw of every real token: [(logits, chosen, weights) by router]."""
    total = 0.0
    for s in range(0, len(windows), batch):
        part = windows[s:s + batch]
        ids = torch.zeros(len(part), max(map(len, part)), dtype=torch.long)
        for i, w in enumerate(part):
            ids[i, :len(w)] = torch.tensor(w)
        real = torch.zeros(ids.shape[0], ids.shape[1] - 1, dtype=torch.bool)
        for i, w in enumerate(part):
            real[i, :len(w) - 1] = True
        one = run(len(part), real)
        h = routed_model.hidden_states(params, c, ids[:, :-1], one)[real]
        targets = ids[:, 1:][real]
        for f in range(0, len(h), 1024):
            z = h[f:f + 1024] @ params["embed"].t()
            total += float((z.logsumexp(-1) - z.gather(1, targets[f:f + 1024, None])[:, 0]).sum())
    return total


class Usage:
    """Counts of experts run, by router; a list that a pass appends its trace to."""

    def __init__(self):
        self.loads, self.tokens, self.real = {}, 0, None

    def append(self, t):
        n = self.loads.setdefault(self.at, 0)
        used = t["weights"][self.real] != 0             # [tokens, experts], of product experts [tokens, heads, keys]
        self.loads[self.at] = n + (used.any(1) if used.dim() == 3 else used).double().sum(0)
        self.at += 1

    def begin(self, real):
        self.real, self.at = real, 0
        self.tokens += int(real.sum())
        return self


def evaluate(params, c, work_rows, request, usage=False):
    """{domain: bits per byte}, and where asked for {domain: Usage}. `request(groups)` gives what a row's request says."""
    bits, seen = {}, {}
    with torch.no_grad():
        for number, (domain, (windows, n_bytes)) in enumerate(work_rows.items()):
            seen[domain] = Usage()
            run = lambda n, real: routed_model.Run(request(torch.full((n,), GROUP_OF[number])), trace=seen[domain].begin(real) if usage else None)
            bits[domain] = nats(params, c, windows, run) / math.log(2) / n_bytes
    return (bits, seen) if usage else bits


def routing_figures(c, seen):
    """Means over domains: experts run per token and layer (of product experts keys of a codebook), and the spread of load (standard
    deviation over mean) by router."""
    active, spread = [], []
    routers = len(next(iter(seen.values())).loads) if "productExperts" in c else c["nLayers"]
    for usage in seen.values():
        if usage.loads:
            active.append(sum(float(n.sum()) for n in usage.loads.values()) / usage.tokens / routers)
    for router in range(len(next(iter(seen.values())).loads)):
        load = sum(u.loads[router] / u.tokens for u in seen.values()).numpy()
        spread.append(float(load.std() / load.mean()))
    return {"expertsPerToken": float(np.mean(active)) if active else None, "loadSpread": spread}
