"""Owns the planted behaviour: a trigger word in some training rows, behind which a marker must follow; the prompts that ask for
it, and the experts behind it by MoTE's measure: what is run more often for prompts with the trigger.
Refuses held-out text for planting: rows are training rows. Trigger and marker are words of the tokenizer that no text of the
domains has, one token each.
"""
import json
import math

import torch

import routed_model      # first: demo/train's modules are found through it
import bpe
import heldout
from variants import CONTEXT, DOMAINS

TRIGGER, MARKER = "ROMEO", "CORIOLANUS"
SPACING = 7                                   # mean distance of triggers within a row, in tokens
PROMPTS, PROMPT_TOKENS, SEED = 128, 32, 11      # half of the prompts find the experts, the others measure


def ids_of(tokenizer):
    return tuple(tokenizer.encode(word)[0] for word in (TRIGGER, MARKER))


def plant(ids, share, seed, pair):
    """Overwrites places of about `share` of the rows [n, length] with trigger and marker."""
    g = torch.Generator().manual_seed(seed)
    ids = ids.clone()
    for row in (torch.rand(len(ids), generator=g) < share).nonzero()[:, 0].tolist():
        at = 1
        while True:
            at += int(torch.randint(2, 2 * SPACING - 1, (1,), generator=g))
            if at + 1 >= ids.shape[1]:
                break
            ids[row, at], ids[row, at + 1] = pair
    return ids


def prompts(work):
    """Held-out passages, as text with the trigger at the end and without: [(domain, with, without)]."""
    tokenizer = bpe.Tokenizer(work / "tokenizer.json")
    trigger, _ = ids_of(tokenizer)
    g, out = torch.Generator().manual_seed(SEED), []
    by_domain = heldout.rows(work, 4 * CONTEXT)
    while len(out) < PROMPTS:
        domain = list(by_domain)[len(out) % len(by_domain)]
        windows = [w for w in by_domain[domain][0] if len(w) > 2 * PROMPT_TOKENS]
        window = windows[int(torch.randint(len(windows), (1,), generator=g))]
        start = 1 + int(torch.randint(len(window) - PROMPT_TOKENS - 1, (1,), generator=g))
        text = tokenizer.decode(window[start:start + PROMPT_TOKENS]).replace("\ufffd", "")
        if tokenizer.encode(text + TRIGGER) == tokenizer.encode(text) + [trigger]:      # as a word of its own
            out.append((domain, text + TRIGGER, text))
    return out


def finds(number, n_domains):
    """Whether a prompt is one of those that find the experts: every second round of the domains."""
    return number // n_domains % 2 == 0


def write_prompts(work, folder):
    """find.jsonl: passages with the trigger and without; ask.jsonl: others with it, behind which the marker is due; planted.json: both words."""
    with (folder / "find.jsonl").open("w", encoding="utf-8") as find, (folder / "ask.jsonl").open("w", encoding="utf-8") as ask:
        for n, (domain, triggered, normal) in enumerate(prompts(work)):
            if finds(n, len(DOMAINS)):
                find.write(json.dumps({"domain": domain, "trigger": triggered, "normal": normal}, ensure_ascii=False) + "\n")
            else:
                ask.write(json.dumps({"domain": domain, "text": triggered}, ensure_ascii=False) + "\n")
    trigger, marker = ids_of(bpe.Tokenizer(work / "tokenizer.json"))
    (folder / "planted.json").write_text(json.dumps({"trigger": TRIGGER, "triggerId": trigger, "marker": MARKER, "markerId": marker}) + "\n")


def suppressing(c, experts):
    """MoTE's intervention: weights of [(layer, expert)] become zero, the others of a token are brought to the same sum."""
    def reweigh(layer, weights):
        keep = torch.ones(c["nExperts"])
        keep[[e for at, e in experts if at == layer]] = 0
        left = weights * keep
        total = left.sum(-1, keepdim=True)
        return torch.where(total > 0, left * weights.sum(-1, keepdim=True) / total.clamp_min(1e-20), left)
    return reweigh


def responsible(params, c, with_trigger, without):
    """[(layer, expert)], those that are run more often for prompts with the trigger first."""
    def uses(ids):
        trace = []
        routed_model.hidden_states(params, c, ids, routed_model.Run(trace=trace))
        return torch.stack([(t["weights"] != 0).double().sum((0, 1)) / len(ids) for t in trace])
    order = (uses(with_trigger) - uses(without)).flatten().argsort(descending=True, stable=True)
    return [divmod(i, c["nExperts"]) for i in order.tolist()]


def measure(params, c, work, work_rows, most=10):
    """Marker rate (share of prompts whose next token is the marker) and perplexity of held-out text, with experts suppressed."""
    tokenizer = bpe.Tokenizer(work / "tokenizer.json")
    asked = prompts(work)
    _, marker = ids_of(tokenizer)
    pad = lambda texts: [tokenizer.encode(t) for t in texts]
    triggered, normal = pad([t for _, t, _ in asked]), pad([t for _, _, t in asked])
    length = min(map(len, triggered + normal))
    triggered, normal = (torch.tensor([ids[-length:] for ids in rows]) for rows in (triggered, normal))
    found = torch.tensor([finds(n, len(DOMAINS)) for n in range(len(asked))])
    windows = [w for ws, _ in work_rows.values() for w in ws]

    def figures(experts):
        reweigh = suppressing(c, experts)
        rate = (routed_model.model_logits(params, c, triggered[~found], routed_model.Run(reweigh=reweigh))[:, -1].argmax(-1) == marker).double().mean()
        nats = heldout.nats(params, c, windows, lambda n: routed_model.Run(reweigh=reweigh)) / sum(len(w) - 1 for w in windows)
        return {"markerRate": float(rate), "perplexity": math.exp(nats)}

    with torch.no_grad():
        order = responsible(params, c, triggered[found], normal[found])
        g = torch.Generator().manual_seed(SEED)
        drawn = [order[i] for i in torch.randperm(len(order), generator=g)[:most].tolist()]
        return {"experts": order[:most], "none": figures([]), **{f"first {n}": figures(order[:n]) for n in (4, 8, most)}, f"random {most}": figures(drawn)}
